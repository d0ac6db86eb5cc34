"""Lightning modules of the families, and checkpoints: save, load, convert."""
