"""A finished model is corrected for hubs once, kept only if dev does not fall, and as the settings want it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.methods import Method
from lightcrl.methods.spec import make_method
from lightcrl.metrics.retrieval import Retrieval, mean_recall
from lightcrl.training.hubs import MAIN, correct_hubs
from lightcrl.training.judge import Judge, Judgement, by_retrieval
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec
from samples import make_features, randn

GROUPS = 360


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Noisy pairs of many numbers; a third of them is dev."""
    thing = randn(GROUPS, 40, seed=1)
    pictures, captions = thing + randn(GROUPS, 40, seed=2), thing + randn(GROUPS, 40, seed=3)
    owners = [f"{'dev' if group % 3 == 0 else 'train'}:g{group}" for group in range(GROUPS)]
    sequences = {"image": [row[None] for row in pictures], "text": [row[None] for row in captions]}
    return make_features(tmp_path_factory.mktemp("hubs"), sequences, dict.fromkeys(("image", "text"), owners))


def favouring(bonus: float) -> Judge:
    """Judge by retrieval, with a bonus for a corrected method: no small data has hubs for certain."""

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        judgement = by_retrieval(method, features, epoch)
        result = judgement.result()
        more = 0.0 if method.hubs is None else bonus
        raised = {**result.metrics, MAIN: result.metrics[MAIN] + more}
        return replace(judgement, result=lambda: replace(result, metrics=raised))

    return judge


def trained_in(folder: Path, data: Features, hubs: object, events: list[dict], method: str = "csa", bonus: float = 1.0):
    spec = TrainingSpec(epochs=4, tensorboard=False, hubs=hubs)  # type: ignore[arg-type]
    settings = spec.suited(type(make_method(method, data.specs, {}, "info_nce")))
    checkpoint = Checkpoint(
        make_method(method, data.specs, {"dim": 32}, "info_nce", 0),
        name=method,
        loss="info_nce",
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in data.stores},
        fingerprints=dict.fromkeys(data.stores, "f"),
    )
    done = train(checkpoint, data, settings, folder)
    return checkpoint, correct_hubs(checkpoint, data, settings, done, favouring(bonus), events.append)


def recall(checkpoint: Checkpoint, data: Features) -> float:
    vectors, links = embed_split(checkpoint.method, data, data.split("dev"))
    return mean_recall(Retrieval(links).per_query(vectors))


def test_the_correction_is_measured_on_dev_saved_once_and_taken_away_again(data, tmp_path):
    events: list[dict] = []
    checkpoint, result = trained_in(tmp_path / "run", data, "auto", events)
    (event,) = events
    assert event["bank"] == {"image": 240, "text": 240}
    assert event["kept"] == (event["after"] >= event["before"])
    assert event["kept"]
    assert result.metrics["mean_recall@1"] == pytest.approx(event["after"])
    best = load_folder(tmp_path / "run" / "best")
    assert recall(best, data) == pytest.approx(event["after"] - 1)
    assert best.figures["metrics"]["mean_recall@1"] == pytest.approx(event["after"])

    again, same = trained_in(tmp_path / "run", data, "auto", events)
    assert len(events) == 1
    assert same.metrics == result.metrics
    assert again.digest == checkpoint.digest == best.digest

    plain, before = trained_in(tmp_path / "run", data, False, events)
    assert plain.method.hubs is None
    assert recall(load_folder(tmp_path / "run" / "best"), data) == pytest.approx(event["before"])
    assert before.metrics["mean_recall@1"] == pytest.approx(event["before"])


def test_a_correction_that_lowers_dev_is_not_kept(data, tmp_path):
    events: list[dict] = []
    checkpoint, result = trained_in(tmp_path / "run", data, True, events, bonus=-1.0)
    assert events[0]["after"] < events[0]["before"]
    assert not events[0]["kept"]
    assert checkpoint.method.hubs is None
    assert load_folder(tmp_path / "run" / "best").method.hubs is None
    assert result.metrics["mean_recall@1"] == pytest.approx(events[0]["before"])


def test_few_groups_tell_no_hubs_unless_asked(data, tmp_path):
    few = data.replace_split("train", data.split("train").subset(np.arange(150)))
    events: list[dict] = []
    assert trained_in(tmp_path / "auto", few, "auto", events)[0].method.hubs is None
    assert not events
    trained_in(tmp_path / "true", few, True, events)
    assert events[0]["bank"] == {"image": 150, "text": 150}


def test_the_published_method_stays_as_published():
    kind = type(make_method("lightcrl_paper", {}, {}, "info_nce"))
    assert TrainingSpec().suited(kind).hubs is False
    assert TrainingSpec(hubs=True).suited(kind).hubs is True
