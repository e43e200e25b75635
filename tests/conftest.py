from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

# Before NumPy and torch are loaded, and for the programs and kernels that tests start: on busy cores, spinning threads
# stall each other, and over tensors of a few numbers several threads only wait for each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import accelerate.accelerator
import accelerate.optimizer
import pytest
import torch
import typer.testing
from hypothesis import settings

# The same examples on every machine: a red run is a change of ours, not of luck.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("fixed")

torch.set_num_threads(1)

# Young objects are looked through a hundred times as seldom: a trace of an exporter makes millions that all stay. The
# collections took 6 to 8 % of the time; three workers grow by 50 MB each.
gc.set_threshold(100_000, 50, 100)

# Each of some hundred calls of the command line would otherwise read the annotations of all commands again, and every
# step of a training search all packages for an optimiser, twice.
typer.testing._get_command = cache(typer.testing._get_command)
for module in (accelerate.accelerator, accelerate.optimizer):
    module.is_lomo_available = cache(module.is_lomo_available)

# Its device can be registered once in a process, and doctests would load it a second time.
collect_ignore = ["card.py"]

# Files of half a minute and more, the longest first: at the end of a run no worker waits for another one's long file.
LONGEST = (
    "test_notebooks.py",
    "serve/test_page.py",
    "contracts/test_engines.py",
    "studies/test_compare.py",
    "contracts/test_methods.py",
    "contracts/test_defaults.py",
    "test_export.py",
    "test_docs_commands.py",
    "test_tutorials.py",
    "training/test_loop.py",
    "growth/test_extend.py",
    "test_real.py",
    "test_demo.py",
    "studies/test_reproduce.py",
    "test_processes.py",
    "test_cli.py",
    "index/test_lancedb.py",
    "test_readme.py",
    "contracts/test_encoders.py",
    "index/test_search.py",
    "studies/test_clean.py",
    "test_two_commands.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front (`--no-loadscope-reorder` keeps them there)."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Take a million imported objects out of garbage collection: otherwise each full one goes through them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _console_as_found():
    """No test may leave the console quiet, or on standard error: a later one of its worker would read nothing."""
    yield
    progress = sys.modules.get("lightcrl.report.progress")
    assert progress is None or not (progress.console.quiet or progress.console.stderr)


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
