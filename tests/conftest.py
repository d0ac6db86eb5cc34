"""Settings of all tests."""

import os

import torch
from hypothesis import settings

# no deadline: a loaded machine is slow, and speed is measured in benchmarks only
# the same examples each time: a failure is the change's; HYPOTHESIS_PROFILE=hunt draws others
settings.register_profile("gensci", deadline=None, derandomize=True)
settings.register_profile("hunt", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gensci"))

# small tensors gain nothing from threads, and two such programs on two cores slow each other
torch.set_num_threads(1)
