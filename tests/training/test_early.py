"""What would fail once all items are encoded is refused before the first one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightcrl.data import load_dataset
from lightcrl.data.spec import DataSpec
from lightcrl.errors import EmptyDatasetError, EncoderError, LightCRLError, ModalityError, TrainingError
from lightcrl.pipeline import prepare, run
from lightcrl.recipe import make_recipe
from lightcrl.training import early
from lightcrl.training.early import split_of
from recipes import builtin

KINDS = {"image": "image", "text": "text"}


def recipe(folder: Path, changes: dict[str, Any]) -> Any:
    table: dict[str, Any] = {
        "name": "early",
        "data": {"source": "synthetic", "options": {"groups": 20, "captions": 2}, "dev_fraction": 0.3},
        "encoders": {name: builtin(kind) for name, kind in KINDS.items()},
        "features": {"folder": str(folder / "features")},
        "training": {"batch_size": 4, "epochs": 1, "tensorboard": False},
    }
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value}
    return make_recipe(table)


REFUSED: list[tuple[dict[str, Any], type[LightCRLError], str]] = [
    ({"tuning": {"text": {}}}, EncoderError, "HashedNgrams cannot be trained"),
    ({"training": {"batch_size": 64}}, TrainingError, "batch_size is 64, but only 15 groups"),
    ({"evaluation": {"split": "test"}}, EmptyDatasetError, "the data has no groups there"),
    ({"method": {"name": "sharelock", "locked": "sound"}}, ModalityError, "locked is 'sound'"),
    ({"method": {"name": "linear", "dim": 10**9}}, TrainingError, "weights of .* GiB"),
    ({"method": {"name": "linear", "dim": 10**30}}, TrainingError, "cannot be made with its options"),
    ({"encoders": {"text": {"kind": "text", "model": "builtin", "max_length": 3}}}, EncoderError, "max_length"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_it_is_refused_before_anything_is_encoded(tmp_path, changes, error, message):
    events: list[Any] = []
    with pytest.raises(error, match=message):
        run(recipe(tmp_path, changes), output=tmp_path / "run", tell=events.append)
    assert {event["event"] for event in events} <= {"data"}
    assert not (tmp_path / "features").exists()


def test_too_many_blocks_are_refused_before_anything_is_encoded(tmp_path):
    import coloured

    place, events = coloured.write(tmp_path), list[Any]()
    with pytest.raises(EncoderError, match="has 3 blocks, 4 are to be trained"):
        prepare(coloured.recipe(place, {"text": {"blocks": 4}}), events.append)
    assert {event["event"] for event in events} == {"data"}


def test_the_split_of_a_data_set_has_the_groups_that_training_sees(tmp_path):
    made = recipe(tmp_path, {})
    split = split_of(load_dataset(DataSpec(**made.data.model_dump()), KINDS), "train")
    seen = prepare(made)[0].split("train")
    assert (len(split), split.usable.tolist()) == (len(seen), seen.usable.tolist())
    for name, members in seen.members.items():
        np.testing.assert_array_equal(split.members[name].counts, members.counts)


def test_a_method_beyond_the_memory_is_refused_with_both_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(early, "physical_memory", lambda: 2.0**20)
    with pytest.raises(TrainingError, match=r"has weights of 0\.0 GiB, and this machine 0\.0 GiB of memory"):
        run(recipe(tmp_path, {}), output=tmp_path / "run")
