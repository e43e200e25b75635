"""What cannot be extended is refused before the first item is encoded; what was killed goes on to the same weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lightcrl
from growing import base, items, recipe, write_wave
from lightcrl.checkpoint import load_checkpoint
from lightcrl.errors import (
    CheckpointError,
    DataError,
    EncoderError,
    GrowthError,
    ShapeError,
    StoreError,
    TooManyRejectedError,
    TrainingError,
)
from lightcrl.growth.extend import extend

GROUPS = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Sounds and captions as files, and a model of pictures and captions."""
    place = tmp_path_factory.mktemp("bad")
    base(place, epochs=1)
    for number, sound in enumerate(items("audio", GROUPS)):
        write_wave(place / f"{number}.wav", *sound)
    return place


def rows(place: Path, folder: Path, change: Any) -> dict[str, Any]:
    """The `[data]` table of sounds and captions, with every row as `change` leaves it."""
    texts = items("text", GROUPS)
    table = folder / "rows.jsonl"
    with table.open("w") as stream:
        for number in range(GROUPS):
            row = {"audio": str(place / f"{number}.wav"), "text": texts[number], "key": f"g{number}", "number": number}
            stream.write(json.dumps(change(row)) + "\n")
    return {"path": str(table), "key": "key", "dev_fraction": 0.3}


def refused(place: Path, folder: Path, error: type[Exception], message: str, **given: Any) -> None:
    """Extending raises the error, and nothing was encoded."""
    events: list[Mapping[str, Any]] = []
    model = given.pop("model", place / "dfe")
    with pytest.raises(error, match=message):
        extend(model, recipe(folder, **given), output=folder / "grown", tell=events.append)
    assert not [event for event in events if event["event"] in ("encode", "encoded")]
    assert not list((folder / "features").glob("audio-*"))
    assert not (folder / "grown" / "best").exists()


def test_data_without_any_old_modality(place, tmp_path):
    data = rows(place, tmp_path, lambda row: {key: row[key] for key in ("audio", "key")})
    refused(place, tmp_path, GrowthError, "The extension expects items of audio, text in the data.", data=data)


def test_an_old_modality_whose_column_is_empty(place, tmp_path):
    data = rows(place, tmp_path, lambda row: {**row, "text": None})
    refused(place, tmp_path, GrowthError, "the data has no item of text, which the extension is to be al", data=data)


def test_groups_that_never_meet(place, tmp_path):
    """Sounds in even rows, captions in odd ones: both are there, but nowhere together."""

    def alternate(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, ("text" if row["number"] % 2 else "audio"): None}

    data = rows(place, tmp_path, alternate)
    refused(place, tmp_path, GrowthError, "0 training groups have an item of 'audio' and one of an old", data=data)


def test_too_many_groups_without_partner(place, tmp_path):
    data = rows(place, tmp_path, lambda row: {**row, "text": row["text"] if row["number"] < 12 else None})
    refused(place, tmp_path, TooManyRejectedError, "8 of 20 items were set aside .*: 8 no partner", data=data)
    strict = {**data, "strict": True}
    refused(place, tmp_path, DataError, "no partner.*strict = true stops at the first such group", data=strict)


def test_a_batch_larger_than_the_groups_with_both(place, tmp_path):
    """Twelve of 20 groups have both, some of them on dev; the batch of 16 would fit all groups."""
    data = rows(place, tmp_path, lambda row: {**row, "text": row["text"] if row["number"] < 12 else None})
    message = r"training.batch_size is 16, but only \d groups of the training split have items of two modalities"
    refused(place, tmp_path, TrainingError, message, data={**data, "max_rejected": 0.5})


def test_a_few_groups_without_partner_are_set_aside(place, tmp_path):
    data = rows(place, tmp_path, lambda row: {**row, "text": row["text"] if row["number"] > 1 else None})
    wanted = recipe(tmp_path, data=data, training={"epochs": 1, "batch_size": 8})
    done = extend(place / "dfe", wanted, output=tmp_path / "grown")
    lines = [json.loads(line) for line in (done.folder / "rejected.jsonl").read_text().splitlines()]
    assert [(line["source"], line["reason"], line["modality"]) for line in lines] == [
        ("g0", "no partner", "audio"),
        ("g1", "no partner", "audio"),
    ]


def test_vectors_of_another_width(place, tmp_path):
    data = rows(place, tmp_path, lambda row: {**row, "text": f"t{row['number']}"})
    np.save(tmp_path / "v.npy", np.eye(5, dtype=np.float32))
    (tmp_path / "v.json").write_text(json.dumps(list("abcde")))
    given = {"text": {"path": str(tmp_path / "v.npy")}}
    refused(place, tmp_path, DataError, r"vectors \[5, 5\]; expected \[N, 24\]", data=data, vectors=given)


def test_an_old_encoder_whose_files_changed(place, tmp_path):
    """Another encoder lies in the place of that of captions today."""
    shutil.copytree(place / "dfe" / "best", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["modalities"]["text"]["encoder"] = {"kind": "text", "model": "worlds:Digits"}
    path.write_text(json.dumps(config))
    message = r"the encoder of 'text' \(worlds:Digits\) has fingerprint .*[Ee]xpected the same weights"
    refused(place, tmp_path, EncoderError, message, model=tmp_path / "model")


def test_a_model_of_a_newer_format(place, tmp_path):
    shutil.copytree(place / "dfe" / "best", tmp_path / "newer")
    path = tmp_path / "newer" / "config.json"
    path.write_text(path.read_text().replace('"format": 5', '"format": 99'))
    refused(place, tmp_path, CheckpointError, "format is 99, this version reads up to 5.", model=tmp_path / "newer")


@pytest.mark.parametrize("name", ["text", "audio"])
def test_a_tuning_table(place, tmp_path, name):
    refused(place, tmp_path, GrowthError, rf"\[tuning\] of {name}, but an extension", tuning={name: {"blocks": 1}})


def test_a_store_that_is_not_there_or_has_other_groups(place, tmp_path):
    data = rows(place, tmp_path, lambda row: row)
    refused(place, tmp_path, StoreError, "nowhere", data=data, stores={"text": str(tmp_path / "nowhere")})
    store = str(next((place / "features").glob("text-*")))
    refused(
        place, tmp_path, StoreError, "has no group of the data; expected the same", data=data, stores={"text": store}
    )


def test_an_embedding_is_never_of_another_width(place):
    """An encoder with tokens of another width than in training is refused by name."""
    from lightcrl.tokens import TokenBatch

    embedder = lightcrl.load(place / "dfe")
    with pytest.raises(ShapeError, match="Use the encoder settings it was trained with"):
        embedder.encode_tokens(TokenBatch.full(torch.zeros(1, 3, 5)), "text")


# --- killed ---

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
from pathlib import Path
from growing import recipe
from lightcrl.growth.extend import extend
from lightcrl.training import loop
loop.SAVE_SECONDS = 0.2
extend(Path({model!r}), recipe(Path({place!r}), training={{"epochs": 8}}), output=Path({output!r}),
       tell=lambda event: time.sleep(0.1))
"""


def test_killed_it_goes_on_to_the_same_weights(place, tmp_path):
    """The process is killed in the midst of its steps; the log says where."""
    wanted = recipe(place, training={"epochs": 8})
    extend(place / "dfe", wanted, output=tmp_path / "whole")
    output, log = tmp_path / "killed", tmp_path / "killed" / "training" / "log.jsonl"
    paths = {"tests": str(Path(__file__).parents[1]), "model": str(place / "dfe"), "place": str(place)}
    with subprocess.Popen([sys.executable, "-c", SCRIPT.format(output=str(output), **paths)]) as process:
        while process.poll() is None and not (log.exists() and log.read_text().count('"step"') > 8):
            time.sleep(0.02)
        process.kill()
    assert process.returncode < 0
    assert not (output / "best").exists()
    torch.set_num_threads(1)
    extend(place / "dfe", wanted, output=output)
    whole, killed = load_checkpoint(tmp_path / "whole"), load_checkpoint(output)
    assert killed.digest == whole.digest
    state = killed.method.state_dict()
    assert all(torch.equal(tensor, state[leaf]) for leaf, tensor in whole.method.state_dict().items())
