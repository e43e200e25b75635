from __future__ import annotations

import os

# Before torch is loaded, for the programs that tests start as well: on busy cores, spinning threads stall each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from hypothesis import settings

# The same examples on every machine: a red run is a change of ours, not of luck.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("fixed")

# Over tensors of a few numbers, several threads only wait for each other.
torch.set_num_threads(1)
