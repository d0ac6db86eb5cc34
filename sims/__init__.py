"""Simulators of the physics. They import nothing from gensci."""
