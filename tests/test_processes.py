"""Two processes at half the batch are one process at the full batch, and one that is killed ends the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from forked import Program, ranks
from lightcrl.checkpoint import load_folder
from lightcrl.features import Features, FeatureStore, embed
from lightcrl.methods.spec import make_method
from lightcrl.metrics.ranks import answer_places, mutual_ranks
from lightcrl.processes import share
from lightcrl.training.batches import Window, epoch_batches
from lightcrl.training.gradient import Stepper
from lightcrl.training.log import read_log
from lightcrl.training.plan import make_accelerator
from lightcrl.training.spec import TrainingSpec
from samples import make_features, randn, units
from training.test_loop import features, fit, losses

# Batches of nine groups, which two and three processes share unevenly.
PLAIN = {"batch_size": 9, "items_per_group": 2, "epochs": 3, "learning_rate": 0.01}
DROPOUTS = {"input_dropout": 0.0, "dropout": 0.0}
START = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_processes import *
"""
TRAIN = "data = opened(Path(sys.argv[1]))\nfit(data, Path(sys.argv[2]), options=DROPOUTS, **PLAIN, {})\n"
KILLED = """
done = Stepper.backward
def backward(self, batch, *rest):
    if os.environ["RANK"] == "1" and (Path(sys.argv[2]) / "last").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return done(self, batch, *rest)
Stepper.backward = backward
"""


def opened(folder: Path) -> Features:
    return Features({path.name: FeatureStore(path) for path in sorted(folder.iterdir())})


def launch(program: Path, text: str, *words: object, processes: int) -> subprocess.CompletedProcess[str]:
    program.write_text(START + text)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*start, program, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def succeed(text: str, *words: object, processes: int) -> None:
    """Run a program in several processes, as a launcher starts them."""
    started = [Program(START + text, *words, **job) for job in ranks(processes)]
    said = [program.communicate() for program in started]
    assert [program.returncode for program in started] == [0] * processes, said


def alike(left: Path, right: Path) -> None:
    assert losses(left) == pytest.approx(losses(right), rel=1e-5, abs=1e-6)
    one, other = (load_folder(run / "last").method.state_dict() for run in (left, right))
    for leaf in one:
        torch.testing.assert_close(one[leaf], other[leaf], rtol=1e-4, atol=1e-5)
    recalls = [[e["dev_mean_recall@1"] for e in read_log(run) if e["event"] == "evaluation"] for run in (left, right)]
    assert recalls[0] == pytest.approx(recalls[1], abs=0.04)  # one query more or less
    norms = [[event.get("gradient_norm") for event in read_log(run)][1:4] for run in (left, right)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_two_processes_train_as_one_in_windows_too(tmp_path):
    data = features(tmp_path / "f")
    given = {"loss": "sigmoid", "memory": 1e-6}
    fit(data, tmp_path / "one", options=DROPOUTS, **PLAIN, **given)
    succeed(TRAIN.format(f"**{given}"), tmp_path / "f", tmp_path / "two", processes=2)
    alike(tmp_path / "two", tmp_path / "one")
    # One process knows the run of two, and has nothing to add to it.
    assert fit(data, tmp_path / "two", options=DROPOUTS, **PLAIN, **given).resumed_at == len(losses(tmp_path / "one"))


def three(folder: Path) -> Features:
    """Pictures, texts and few sounds; the processes' shares of a batch differ, and of sounds some have none."""
    rows = {"image": 20, "sound": 2, "text": 40}
    tokens = {name: [randn(2, 6, seed=n * 7 + len(name)) for n in range(count)] for name, count in rows.items()}
    every = {name: max(1, count // 20) for name, count in rows.items()}
    owners = {name: [f"train:g{n // every[name]}" for n in range(count)] for name, count in rows.items()}
    return make_features(folder, tokens, owners, slots=2)


def gradients(data: Features) -> dict[str, torch.Tensor]:
    """Loss and gradients of every parameter for a batch of 20 groups, by loss and precision."""
    found = {}
    for loss in ("info_nce", "sigmoid"):
        for dtype in (torch.float32, torch.float64):
            method = make_method(
                "dfe", data.specs, {"dim": 16, "feedforward": 8, "canonical": 0, **DROPOUTS}, loss, 0
            ).to(dtype)
            spec = TrainingSpec(loss=loss, precision="float32").suited(type(method))
            stepper = Stepper(method, data, {}, make_accelerator(spec, 20, method, ()), spec)
            (batch,) = stepper.read(epoch_batches(data.split("train"), 20, 2, 0, 0))
            found[f"{loss} {dtype} loss"] = stepper.backward(batch, 0.0, 0)
            for name, parameter in stepper.parameters():
                assert parameter.grad is not None
                found[f"{loss} {dtype} {name}"] = parameter.grad
    return found


def ranked(data: Features) -> dict[str, np.ndarray]:
    """Ranks and places with ties in several chunks of queries, and embeddings in several batches, by all processes."""
    left, right = units(700, 6, 1, torch.float32), units(90, 6, 2, torch.float32)
    left[::5], right[::4] = left[0], right[0]
    pairs = np.stack([np.arange(700).repeat(2), np.tile(np.arange(90), 16)[:1400]], 1)
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    embed.TOKENS_PER_BATCH = 30
    method = make_method("linear", data.specs, {"dim": 16}, "info_nce", 0)
    vectors, _ = embed.embed_together(method, data, data.split("train"))
    of_left, of_right = mutual_ranks(left, right, pairs, together=True)
    places = answer_places(left, right, pairs, together=True)
    own = {name: each.numpy() for name, each in vectors.items()}
    return {"left": of_left, "right": of_right, "places": places, **own}


GRADIENTS = """
found = gradients(opened(Path(sys.argv[1])))
torch.save(found, f"{sys.argv[2]}/{os.environ['RANK']}.pt")
np.savez(f"{sys.argv[2]}/{os.environ['RANK']}.npz", **ranked(opened(Path(sys.argv[1]))))
"""


def test_loss_gradients_and_ranks_are_those_of_one_process(tmp_path):
    data = three(tmp_path / "f")
    whole, ranks = gradients(data), ranked(data)
    assert len(whole) > 40
    assert (ranks["left"][:, 1] > 0).any()
    succeed(GRADIENTS, tmp_path / "f", tmp_path, processes=3)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in whole.items():
            scale = 1e-6 if "float32" in name else 1e-12
            torch.testing.assert_close(found[name], gradient, rtol=scale, atol=scale, msg=lambda text, n=name: n + text)
        divided = np.load(tmp_path / f"{rank}.npz")
        for name, numbers in ranks.items():
            assert np.array_equal(divided[name], numbers), name


def test_a_killed_process_ends_the_others_and_any_number_goes_on(tmp_path):
    data = features(tmp_path / "f")
    fit(data, tmp_path / "whole", options=DROPOUTS, **PLAIN)
    begun = time.monotonic()
    done = launch(
        tmp_path / "program.py", KILLED + TRAIN.format("memory=4"), tmp_path / "f", tmp_path / "one", processes=2
    )
    assert done.returncode != 0
    assert time.monotonic() - begun < 30
    assert "ProcessError: the process of rank 1 (pid " in done.stderr
    assert f"The last checkpoint is in {tmp_path / 'one' / 'last'}: the same command resumes" in done.stderr
    assert 0 < len(losses(tmp_path / "one")) < len(losses(tmp_path / "whole"))
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    assert fit(data, tmp_path / "one", options=DROPOUTS, **PLAIN).resumed_at > 0
    succeed(TRAIN.format("memory=4"), tmp_path / "f", tmp_path / "three", processes=3)
    alike(tmp_path / "one", tmp_path / "whole")
    alike(tmp_path / "three", tmp_path / "whole")


def test_each_process_has_a_part_of_the_window_to_itself(tmp_path):
    """What two processes read of a window overlaps in few places, however many items it has."""
    count = 4000
    tokens = {name: [torch.full((1, 2), float(n)) for n in range(count)] for name in ("image", "text")}
    owners = [f"train:g{n}" for n in range(count)]
    split = make_features(tmp_path / "f", tokens, dict.fromkeys(tokens, owners)).split("train")
    batches = list(epoch_batches(split, 100, 1, 0, 0, Window(20, 10)))
    assert len({batch.window for batch in batches}) == 4
    for window in {batch.window for batch in batches}:
        rows = [batch.rows["text"] for batch in batches if batch.window == window]
        parts = [np.concatenate([found[share(100, rank, 2)] for found in rows]) for rank in range(2)]
        assert len(parts[0]) == len(parts[1]) == 500
        middle = np.median(np.concatenate(rows))
        assert (parts[0] < middle).mean() > 0.9
        assert (parts[1] >= middle).mean() > 0.9


def test_shares_are_all_rows_once():
    for count in range(12):
        for processes in range(1, 5):
            for step in (1, 4):
                shares = [share(count, rank, processes, step) for rank in range(processes)]
                assert [row for part in shares for row in range(count)[part]] == list(range(count))
                assert all(part.start % step == 0 or part.start == count for part in shares)
