"""Files: the run folder, trajectories and progress on the terminal."""
