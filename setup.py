"""Lists the packages; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

SIMS = ["gensci.sims", *(f"gensci.sims.{name}" for name in find_packages("sims"))]

setup(packages=[*find_packages(include=["gensci", "gensci.*"]), *SIMS, "gensci.checkpoints"])
