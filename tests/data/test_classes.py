"""Labelled data sets of the hub as class folders."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from lightcrl.data import classes
from lightcrl.data.classes import class_folders
from lightcrl.data.hub import open_hub
from lightcrl.errors import ModalityError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set of four pictures, as if it were `lab/colours` on the hub."""
    pictures = [Image.fromarray(np.full((4, 4, 3), 60 * number, np.uint8)) for number in range(4)]
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["dark", "fire/light"])})
    rows = {"img": pictures, "kind": [0, 1, 1, 0]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": saved, "test": saved.select([2]), "odd": saved}).save_to_disk(
        str(tmp_path / "saved")
    )
    opened = []

    def instead(place):
        opened.append(place)
        return open_hub(tmp_path / "saved")

    monkeypatch.setattr(classes, "open_hub", instead)
    return opened


def test_every_split_has_its_classes_and_is_written_once(hub, tmp_path):
    folder = class_folders("lab/colours", tmp_path / "cache", picture="img", label="kind")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert found == [
        "test/fire-light/0000000.png",
        "train/dark/0000000.png",
        "train/dark/0000003.png",
        "train/fire-light/0000001.png",
        "train/fire-light/0000002.png",
    ]
    assert np.asarray(Image.open(folder / "train/dark/0000003.png")).max() == 180
    assert class_folders("lab/colours", tmp_path / "cache", picture="img", label="kind") == folder
    assert hub == ["lab/colours"]


def test_a_local_folder_stays_as_it_is(tmp_path):
    assert class_folders(str(tmp_path), tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_a_missing_column_is_named_and_nothing_is_left(hub, tmp_path):
    with pytest.raises(ModalityError, match=r"lab/colours\[train\] has no column 'image'; it has img, kind"):
        class_folders("lab/colours", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
