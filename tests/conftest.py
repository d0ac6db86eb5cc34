"""Settings of all tests."""

from hypothesis import settings

# no deadline: a loaded machine is slow, and speed is measured in benchmarks only
settings.register_profile("gensci", deadline=None)
settings.load_profile("gensci")
