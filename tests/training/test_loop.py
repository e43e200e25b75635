"""One loop: exact to resume, honest about its settings, never silent about a loss that is not a number."""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from forked import Program
from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import CheckpointError, DivergedError, StorageError, TrainingError
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.methods import METHODS
from lightcrl.methods.dfe import DeepFusionEncoder
from lightcrl.methods.spec import make_method
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.tokens import TokenBatch
from lightcrl.training import loop as training
from lightcrl.training.batches import Window, epoch_batches
from lightcrl.training.gradient import Stepper, parameter_groups
from lightcrl.training.log import read_log
from lightcrl.training.loop import Trained, train
from lightcrl.training.plan import bfloat16_pays, learning_rate, make_plan, make_window
from lightcrl.training.spec import TrainingSpec
from samples import make_features, make_split, randn

GROUPS = 48


def features(folder: Path, width: int = 7) -> Features:
    """Pictures of five numbers, two captions each that say the same in another basis; 16 of the groups are dev."""
    thing, basis = randn(GROUPS, 5, seed=1), randn(5, width, seed=2)
    owners = [f"{'dev' if group % 3 == 0 else 'train'}:g{group}" for group in range(GROUPS)]
    captions = [(thing[n // 2] @ basis + 0.1 * randn(width, seed=n))[None] for n in range(2 * GROUPS)]
    sequences = {"image": [row[None] for row in thing], "text": captions}
    return make_features(folder, sequences, {"image": owners, "text": [owners[n // 2] for n in range(2 * GROUPS)]})


def spec(**given: object) -> TrainingSpec:
    settings = {
        "epochs": 6,
        "batch_size": 8,
        "items_per_group": 1,
        "tensorboard": False,
        "precision": "float32",
        "learning_rate": 0.01,
        "weight_decay": 0.01,
    }
    return TrainingSpec(**{**settings, **given})  # type: ignore[arg-type]


def fit(
    data: Features, folder: Path, *, seed: int = 0, report=lambda event: None, method="dfe", options=None, **given
) -> Trained:
    settings = spec(**given).suited(METHODS.load(method))
    dfe = {"feedforward": 16, "dropout": 0.1} if method == "dfe" else {}
    options = {"dim": 16, "input_dropout": 0.1} | dfe | (options or {})
    checkpoint = Checkpoint(
        make_method(method, data.specs, options, settings.loss, seed),
        name=method,
        loss=settings.loss,
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in data.stores},
        fingerprints=dict.fromkeys(data.stores, "f"),
    )
    return train(checkpoint, data, settings, folder, seed=seed, report=report)


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_log(folder) if event["event"] == "step"]


def same(left: Path, right: Path) -> None:
    """Two runs are one and the same: losses, evaluations, weights."""
    assert losses(left) == losses(right)
    recalls = [[e["dev_mean_recall@1"] for e in read_log(run) if e["event"] == "evaluation"] for run in (left, right)]
    assert recalls[0] == recalls[1]
    for kept in ("best", "last"):
        one, other = (load_folder(run / kept).method.state_dict() for run in (left, right))
        assert all(torch.equal(one[leaf], other[leaf]) for leaf in one)


def test_it_learns(tmp_path):
    done = fit(features(tmp_path / "f"), tmp_path / "run", epochs=30, label_smoothing=0.0)
    assert done.result.metrics["mean_recall@1"] > 0.9
    assert done.result.metrics["mean_recall@1"] == done.progress.best
    assert losses(tmp_path / "run")[-1] < 0.3 * losses(tmp_path / "run")[0]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    data = features(tmp_path / "f")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        fit(data, tmp_path / name, seed=seed)
    same(tmp_path / "a", tmp_path / "b")
    assert losses(tmp_path / "a")[0] != losses(tmp_path / "c")[0]


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_interrupted_anywhere_it_goes_on_as_if_nothing_had_happened(tmp_path, schedule, monkeypatch):
    data = features(tmp_path / "f")
    fit(data, tmp_path / "whole", schedule=schedule, plateau_patience=0)
    # Saved at every step, so that runs also go on in the midst of an epoch.
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0 if schedule == "cosine" else 1e9)
    for stop in (5, 11, 12, 30):

        def report(event, stop=stop):
            if event.get("step") == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(data, tmp_path / "stopped", schedule=schedule, plateau_patience=0, report=report)
    done = fit(data, tmp_path / "stopped", schedule=schedule, plateau_patience=0)
    assert done.resumed_at > 12
    same(tmp_path / "whole", tmp_path / "stopped")


def test_input_dropout_follows_the_groups_and_steps_of_the_training_also_when_it_resumes(tmp_path):
    data = features(tmp_path / "f", width=5)
    options = {"input_dropout": "auto"}
    fit(data, tmp_path / "whole", options=options)
    plan = read_log(tmp_path / "whole")[0]
    penalty = 2.5 * (5 / len(data.split("train").usable)) ** 0.5 * plan["steps"] / 400
    share = penalty / (1 + penalty)
    assert plan["input_dropout"] == pytest.approx({"image": share, "text": share}, abs=1e-4)
    fit(data, tmp_path / "given", options={"input_dropout": share})
    assert read_log(tmp_path / "given")[0]["input_dropout"] == {}
    assert losses(tmp_path / "whole") == losses(tmp_path / "given")

    def report(event):
        if event.get("step") == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(data, tmp_path / "stopped", options=options, report=report)
    assert fit(data, tmp_path / "stopped", options=options).resumed_at > 0
    same(tmp_path / "whole", tmp_path / "stopped")


def test_killed_at_random_moments_it_goes_on_with_the_same_losses(tmp_path):
    data = features(tmp_path / "f")
    fit(data, tmp_path / "whole", epochs=24)
    script = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        # As many threads as here: sums in another order are other losses.
        "import torch; torch.set_num_threads(1)\n"
        "from training.test_loop import Features, fit\n"
        "from lightcrl.features import FeatureStore\n"
        f"data = Features({{m: FeatureStore(Path({str(tmp_path / 'f')!r}) / m) for m in ('image', 'text')}})\n"
        f"fit(data, Path({str(tmp_path / 'killed')!r}), epochs=24, report=lambda event: time.sleep(0.02))\n"
    )
    rng = random.Random(1)
    for _ in range(3):
        seen = len(losses(tmp_path / "killed")) if (tmp_path / "killed/log.jsonl").exists() else 0
        with Program(script) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                log = tmp_path / "killed/log.jsonl"
                if log.exists() and log.read_text().count('"step"') > seen + 10:
                    break
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
    with Program(script) as process:
        assert process.wait() == 0
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("method", ["linear", "dfe"])
def test_in_windows_it_learns_and_goes_on_from_the_midst_of_one(tmp_path, monkeypatch, method):
    """32 training groups in batches of 4, of which a window has 2."""
    data = features(tmp_path / "f")
    size = 2 * 4 * (5 + 7) * 4
    given = {"method": method, "batch_size": 4, "memory": 4 * size / 2**30, "epochs": 12, "label_smoothing": 0.0}
    whole = fit(data, tmp_path / "whole", **given)
    assert whole.plan.window == Window(1, 2)
    assert whole.result.metrics["mean_recall@1"] > 0.8
    held = losses_of_full_shuffle(data, tmp_path / "held", given)
    assert held != losses(tmp_path / "whole")[: len(held)]
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    for stop in (3, 4, 29):

        def report(event, stop=stop):
            if event.get("step") == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(data, tmp_path / "stopped", report=report, **given)
    monkeypatch.undo()  # a save in every step takes longer than the step
    fit(data, tmp_path / "stopped", **given)
    same(tmp_path / "whole", tmp_path / "stopped")
    with pytest.raises(CheckpointError, match="holds a run of other settings"):
        fit(data, tmp_path / "stopped", **{**given, "memory": 4.0})


def losses_of_full_shuffle(data: Features, folder: Path, given: dict) -> list[float]:
    """Those of the first epoch of the same training, whose features are all in memory."""

    def report(event):
        assert event["event"] != "start" or event["window"] is None
        if event["event"] == "evaluation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(data, folder, report=report, **{**given, "memory": 4.0})
    return losses(folder)


def test_windows_stay_within_the_memory_allowed(tmp_path):
    """32 MiB of features through 4 MiB, of which two windows are half."""
    count, allowed = 4096, 4 * 2**20
    tokens = {name: [torch.full((1, 1024), float(n))] * 1 for n, name in enumerate(("image", "text"))}
    sequences = {name: found * count for name, found in tokens.items()}
    owners = [f"train:g{n}" for n in range(count)]
    data = make_features(tmp_path / "f", sequences, dict.fromkeys(tokens, owners))
    split = data.split("train")
    settings = spec(batch_size=16)
    plan = make_plan(settings, split)
    window = make_window(data, split, plan, allowed, False)
    assert window == Window(1, 8)
    method = make_method("linear", data.specs, {"dim": 4}, "info_nce")
    stepper = Stepper(method, data, {}, Accelerator(cpu=True), settings)
    tracemalloc.start()
    seen = 0
    for batch in stepper.read(epoch_batches(split, 16, 1, 0, 0, window)):
        assert batch.tokens["text"].values.shape == (16, 1, 1024)
        seen += len(batch.rows["image"])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == count
    assert 0.4 * allowed < most < 0.75 * allowed


def test_the_next_batch_is_gathered_while_one_is_in_use(tmp_path, monkeypatch):
    data = features(tmp_path / "f").in_memory(2**30)
    settings = spec(batch_size=16)
    stepper = Stepper(
        make_method("linear", data.specs, {"dim": 4}, "info_nce"), data, {}, Accelerator(cpu=True), settings
    )
    batches = list(epoch_batches(data.split("train"), 8, 1, 0, 0))
    assert len(batches) >= 3
    gathered: list[int] = []
    arrived = threading.Event()
    plain = Stepper._gathered

    def watched(self, batch, *given):
        assert threading.current_thread() is not threading.main_thread()
        gathered.append(len(gathered))
        if len(gathered) == 2:
            arrived.set()
        return plain(self, batch, *given)

    monkeypatch.setattr(Stepper, "_gathered", watched)
    reading = stepper.read(batches)
    first = next(reading)
    assert arrived.wait(10)  # the second, before anyone has asked for it
    found = [first, *reading]
    assert len(gathered) == len(batches)
    for batch, read in zip(batches, found, strict=True):
        assert read.rows is batch.rows
        for name, tokens in read.tokens.items():
            expected = data.store(name).gather(batch.rows[name])
            assert torch.equal(tokens.values, expected.values)
            assert torch.equal(tokens.mask, expected.mask)


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    data = features(tmp_path / "f")
    first = fit(data, tmp_path / "run")
    events: list = []
    again = fit(data, tmp_path / "run", report=events.append)
    assert events == []
    assert again.result == first.result
    assert again.progress == first.progress


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path):
    data = features(tmp_path / "f")
    fit(data, tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"other settings.* differ in training\.learning_rate: .* there, 0\.02 here\."
    ):
        fit(data, tmp_path / "run", learning_rate=0.02)
    with pytest.raises(CheckpointError, match=r"They differ in seed: 0 there, 1 here\. Choose another --output"):
        fit(data, tmp_path / "run", seed=1)


def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path):
    done = fit(features(tmp_path / "f"), tmp_path / "run", epochs=12, learning_rate=0.2)
    recalls = [e["dev_mean_recall@1"] for e in read_log(tmp_path / "run") if e["event"] == "evaluation"]
    assert done.progress.best == max(recalls)
    assert done.progress.best_epoch == recalls.index(max(recalls)) + 1
    assert load_folder(tmp_path / "run/best").figures["metrics"]["mean_recall@1"] == max(recalls)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    data, real = features(tmp_path / "f"), DeepFusionEncoder.objective
    calls = []

    def poisoned(*arguments):
        calls.append(0)
        return real(*arguments) * (math.nan if len(calls) > 14 else 1.0)

    monkeypatch.setattr(DeepFusionEncoder, "objective", poisoned)
    with pytest.raises(DivergedError, match=r"the loss is nan .* at step 14\. The last good checkpoint is kept"):
        fit(data, tmp_path / "run")
    for kept in ("best", "last"):
        assert all(
            torch.isfinite(leaf).all() for leaf in load_folder(tmp_path / "run" / kept).method.state_dict().values()
        )
    monkeypatch.undo()
    fit(data, tmp_path / "whole")
    fit(data, tmp_path / "run")
    same(tmp_path / "whole", tmp_path / "run")


def test_patience_stops_early(tmp_path):
    done = fit(features(tmp_path / "f"), tmp_path / "run", epochs=60, patience=3)
    assert done.progress.epoch < 60
    assert done.progress.epoch - done.progress.best_epoch == 3


def test_evaluate_every_spaces_evaluations_and_ends_with_one(tmp_path):
    fit(features(tmp_path / "f"), tmp_path / "run", epochs=7, evaluate_every=3)
    assert [e["epoch"] for e in read_log(tmp_path / "run") if e["event"] == "evaluation"] == [3, 6, 7]


def test_cosine_rises_linearly_and_falls_to_nothing():
    settings = spec(warmup=0.1).suited(METHODS.load("dfe"))
    rates = [100 * learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[55] == pytest.approx((1 + math.cos(math.pi * 45 / 90)) / 2)
    assert rates[99] < 0.001
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_plateau_follows_torchs_own_scheduler(tmp_path):
    data = features(tmp_path / "f")
    fit(
        data,
        tmp_path / "run",
        epochs=25,
        learning_rate=0.1,
        schedule="plateau",
        warmup=0,
        plateau_patience=1,
        plateau_factor=0.5,
    )
    events = read_log(tmp_path / "run")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for event in events:
        if event["event"] == "step":
            assert event["learning_rate"] == pytest.approx(optimizer.param_groups[0]["lr"])
        elif event["event"] == "evaluation":
            reference.step(event["dev_loss"])
    assert optimizer.param_groups[0]["lr"] < 0.1


@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": 12},
        {"items_per_group": 2},
        {"loss": "sigmoid"},
        {"label_smoothing": 0.3},
        {"learning_rate": 0.02},
        {"weight_decay": 0.5},
        {"warmup": 0.5},
        {"schedule": "plateau"},
        {"clip": 0.01},
        {"precision": "bfloat16"},
    ],
)
def test_every_setting_changes_the_run(tmp_path, given):
    data = features(tmp_path / "f")
    fit(data, tmp_path / "plain", epochs=2)
    fit(data, tmp_path / "other", epochs=2, **given)
    assert losses(tmp_path / "plain")[-1] != losses(tmp_path / "other")[-1]


def test_clip_bounds_the_gradient_and_zero_leaves_it(tmp_path):
    data = features(tmp_path / "f")
    fit(data, tmp_path / "free", epochs=2, clip=0, learning_rate=1e-9)
    fit(data, tmp_path / "loose", epochs=2, clip=1e6, learning_rate=1e-9)
    assert losses(tmp_path / "free") == losses(tmp_path / "loose")


def test_weight_decay_spares_vectors_and_the_logit_scale(tmp_path):
    method = make_method("dfe", features(tmp_path / "f").specs, {"dim": 16}, "sigmoid")
    decayed, spared = parameter_groups(method, spec(weight_decay=0.3))
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    names = {name for name, p in method.named_parameters() if any(p is q for q in spared["params"])}
    assert {"logit_scale", "logit_bias", "layer_scale", "block.0.weight", "stems.image.bias"} <= names


def test_the_logit_scale_never_leaves_its_bound(tmp_path):
    done = fit(features(tmp_path / "f"), tmp_path / "run", epochs=30, learning_rate=0.5, clip=0)
    scales = [event["logit_scale"] for event in read_log(tmp_path / "run") if event["event"] == "step"]
    assert max(scales) <= 100.0001
    assert done.progress.finished


def test_plan_follows_the_data():
    def plan(groups: int, captions: int, **given: object) -> tuple[int, int, int]:
        rows = [list(range(group * captions, (group + 1) * captions)) for group in range(groups)]
        made = make_plan(TrainingSpec(**given), make_split({"image": [[g] for g in range(groups)], "text": rows}))  # type: ignore[arg-type]
        assert made.steps == made.epochs * made.steps_per_epoch
        return made.batch_size, made.items_per_group, made.epochs

    assert plan(6000, 5) == (1024, 2, 22)
    assert plan(50_000, 5) == (1024, 2, 20)
    assert plan(6000, 1) == (1024, 1, 67)
    assert plan(500, 1) == (125, 1, 100)
    assert plan(20, 1) == (16, 1, 100)
    assert plan(10, 1) == (10, 1, 100)
    assert plan(6000, 5, batch_size=64, items_per_group=1, epochs=3) == (64, 1, 3)
    # A method's own batch, which no recipe asked for, is as large as the data at most.
    published = make_split({"image": [[n] for n in range(9)], "text": [[n] for n in range(9)]})
    assert make_plan(TrainingSpec().suited(METHODS.load("lightcrl_paper")), published).batch_size == 9


def test_too_little_data_is_refused_before_anything_is_written(tmp_path):
    lonely = make_split({"image": [[0], [1], []], "text": [[0], [], [1]]})
    with pytest.raises(TrainingError, match="1 groups with items of two modalities"):
        make_plan(TrainingSpec(), lonely)
    with pytest.raises(TrainingError, match=r"batch_size is 9, but only 4 groups .* Give at most that, or \"auto\""):
        make_plan(
            TrainingSpec(batch_size=9), make_split({"image": [[n] for n in range(4)], "text": [[n] for n in range(4)]})
        )


def test_tensorboard_has_the_losses(tmp_path):
    fit(features(tmp_path / "f"), tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [scalar.value for scalar in events.Scalars("loss")] == pytest.approx(losses(tmp_path / "run"), rel=1e-6)


def test_the_log_says_what_was_trained(tmp_path):
    fit(features(tmp_path / "f"), tmp_path / "run", method="linear")
    start = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])
    assert start["parameters"]["stem image"] == 5 * 16 + 16
    assert start["steps"] == 6 * start["steps_per_epoch"]


def test_a_full_disk_is_said_and_the_run_goes_on_later(tmp_path, monkeypatch):
    data, real, left = features(tmp_path / "f"), Path.write_bytes, [5]

    def write_bytes(self, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(self))
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(StorageError, match="the disk is full"):
        fit(data, tmp_path / "run")
    monkeypatch.undo()
    fit(data, tmp_path / "whole")
    assert fit(data, tmp_path / "run").resumed_at > 0
    same(tmp_path / "whole", tmp_path / "run")


def test_bfloat16_is_taken_where_it_pays(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert bfloat16_pays(cpu=True, batch_size=256)
    assert not bfloat16_pays(cpu=True, batch_size=255)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False})
    assert not bfloat16_pays(cpu=True, batch_size=1024)


def test_evaluation_is_in_float32_whatever_training_is_in(tmp_path):
    """The figures of a checkpoint are those that its user gets."""
    data = features(tmp_path / "f")
    done = fit(data, tmp_path / "run", precision="bfloat16", epochs=2)
    vectors, links = embed_split(load_folder(tmp_path / "run/best").method, data, data.split("dev"))
    assert Retrieval(links)(vectors) == done.result
    method = make_method("linear", data.specs, {"dim": 16}, "info_nce")
    checkpoint = Checkpoint(
        method,
        name="linear",
        loss="info_nce",
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in data.stores},
        fingerprints=dict.fromkeys(data.stores, "f"),
    )
    train(checkpoint, data, spec(precision="bfloat16", epochs=1), tmp_path / "linear")
    tokens = TokenBatch.full(randn(4, 1, 5))
    method.eval()
    expected = torch.nn.functional.normalize(method.stem("image")(tokens).mean(1), dim=-1)
    torch.testing.assert_close(method("image", tokens), expected, rtol=0, atol=1e-7)
