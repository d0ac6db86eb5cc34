"""Settings of all tests."""

import torch
from hypothesis import settings

# no deadline: a loaded machine is slow, and speed is measured in benchmarks only
settings.register_profile("gensci", deadline=None)
settings.load_profile("gensci")

# small tensors gain nothing from threads, and two such programs on two cores slow each other
torch.set_num_threads(1)
