from __future__ import annotations

import os
from types import SimpleNamespace

# Before torch is loaded, for the programs that tests start as well: on busy cores, spinning threads stall each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

# The same examples on every machine: a red run is a change of ours, not of luck.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("fixed")

# Over tensors of a few numbers, several threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A small data set on disk and a run on it, for all files of a worker; tests write elsewhere."""
    import lightcrl
    from lightcrl.data.synthetic import write_class_folder, write_table
    from recipes import SMALL_RUN

    folder = tmp_path_factory.mktemp("world")
    write_table(folder / "world", 90, 0)
    write_class_folder(folder / "shapes", attribute="shape", per_class=3, seed=1)
    (folder / "small.toml").write_text(SMALL_RUN)
    done = lightcrl.run(folder / "small.toml", output=folder / "run")
    return SimpleNamespace(folder=folder, run=folder / "run", done=done, recipe=folder / "small.toml")
