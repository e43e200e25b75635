"""Two processes at half the batch are one process at the full batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightcrl.checkpoint import load_folder
from lightcrl.logs import read_log
from lightcrl.processes import share
from test_training import features, losses

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import Features, fit
from lightcrl.features import FeatureStore
data = Features({{m: FeatureStore(Path({stores!r}) / m) for m in ("image", "text")}})
dropouts = {{"input_dropout": 0.0, "dropout": 0.0}}
given = {{"batch_size": 9, "items_per_group": 2, "loss": sys.argv[2], "epochs": int(sys.argv[3])}}
fit(data, Path(sys.argv[1]), options=dropouts, **given)
"""


def launch(program: Path, *words: object, processes: int) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, program, *map(str, words)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_two_processes_train_as_one(tmp_path, loss):
    features(tmp_path / "f")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent), stores=str(tmp_path / "f")))
    launch(program, tmp_path / "one", loss, 3, processes=1)
    launch(program, tmp_path / "two", loss, 3, processes=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5, abs=1e-6)
    one, two = (load_folder(tmp_path / run / "last").method.state_dict() for run in ("one", "two"))
    for leaf in one:
        torch.testing.assert_close(two[leaf], one[leaf], rtol=1e-4, atol=1e-5)
    norms = [[event.get("gradient_norm") for event in read_log(tmp_path / run)][1:4] for run in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_a_run_of_two_processes_goes_on_as_one(tmp_path):
    features(tmp_path / "f")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent), stores=str(tmp_path / "f")))
    launch(program, tmp_path / "run", "info_nce", 2, processes=2)
    finished = losses(tmp_path / "run")
    launch(program, tmp_path / "run", "info_nce", 2, processes=1)
    assert losses(tmp_path / "run") == finished


def test_shares_are_all_rows_once():
    for count in range(12):
        for processes in range(1, 5):
            rows = [row for rank in range(processes) for row in range(count)[share(count, rank, processes)]]
            assert rows == list(range(count))
