"""Lightning data modules and readers of training data."""
