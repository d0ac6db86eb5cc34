"""Measures of samples: ensembles of conformations compared with each other."""
