"""Loops around models: sequential rounds of simulation, training and sampling."""
