"""What can be sampled. `resolve` turns `--system` text into systems."""
