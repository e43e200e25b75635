from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from lightcrl.data import DataSpec, Rejection, Row, load_dataset
from lightcrl.data.hub import HubDataset
from lightcrl.errors import DataError, ModalityError

KINDS = {"image": "image", "text": "text"}


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def some_rows(*shades: int) -> datasets.Dataset:
    rows = {
        "image": [{"bytes": picture(shade), "path": f"{shade}.png"} for shade in shades],
        "text": [f"shade {shade}" for shade in shades],
        "part": ["train", *["val"] * (len(shades) - 1)],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def told(found: list[Row | Rejection]) -> list[Any]:
    return [(row.split, row.cells["text"][0].source) if isinstance(row, Row) else str(row) for row in found]


def test_the_splits_of_a_saved_dataset_are_kept(tmp_path: Path) -> None:
    splits = {"train": some_rows(1, 2), "validation": some_rows(3), "test": some_rows(4), "extra": some_rows(5)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert told(list(HubDataset(KINDS, tmp_path / "saved").rows())) == [
        ("train", "saved[train]:1"),
        ("train", "saved[train]:2"),
        ("dev", "saved[validation]:1"),
        ("test", "saved[test]:1"),
        "saved[extra]: unknown split (known: train, dev, val, valid, validation, test)",
    ]


def test_a_single_split_is_drawn_or_given_by_a_column(tmp_path: Path) -> None:
    some_rows(1, 2).save_to_disk(str(tmp_path / "saved"))
    assert [row[0] for row in told(list(HubDataset(KINDS, tmp_path / "saved").rows()))] == [None, None]
    by_column = list(HubDataset(KINDS, tmp_path / "saved", split_column="part").rows())
    assert [row[0] for row in told(by_column)] == ["train", "dev"]


def test_pictures_are_left_as_they_are_stored(tmp_path: Path) -> None:
    some_rows(1, 2, 1).save_to_disk(str(tmp_path / "saved"))
    data = load_dataset(DataSpec(source="hub", path=str(tmp_path / "saved")), KINDS)
    assert all(not isinstance(item.raw, bytes) for item in data.items["image"])
    assert [item.read() for item in data.items["image"]] == [picture(1), picture(2)]
    assert data.links["text"].tolist() == [[0, 0], [1, 1]]  # "shade 1" stands twice, with one picture


def test_a_folder_of_data_files_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for split, shade in (("train", 1), ("test", 2)):
        (folder / f"{shade}.png").write_bytes(picture(shade))
        (folder / f"{split}.jsonl").write_text(json.dumps({"image": f"{shade}.png", "text": split}) + "\n")
    spec = DataSpec(source="hub", path=str(folder), options={"cache_dir": str(tmp_path / "cache")})
    data = load_dataset(spec, KINDS)
    assert data.splits == ["train", "test"]
    assert data.groups == ["files/1.png", "files/2.png"]
    assert [item.read().read_bytes() for item in data.items["image"]] == [picture(1), picture(2)]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    some_rows(1).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ModalityError, match=r"^saved\[train\]: unknown column 'texts'\. Did you mean 'text'"):
        list(HubDataset({"words": "text"}, tmp_path / "saved", {"words": "texts"}).rows())


@pytest.mark.parametrize("path", ["nobody/nothing", "/nowhere/at/all"])
def test_what_cannot_be_opened_says_how_to_go_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        list(HubDataset(KINDS, path, name="small", revision="v1").rows())
    assert str(caught.value).startswith(f"cannot open the dataset {path!r} (name 'small', revision 'v1'): ")
    assert "save_to_disk, and set data.path to the copy" in str(caught.value)


def test_name_and_revision_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, name: str | None, **settings: Any) -> datasets.DatasetDict:
        asked.append((path, name, settings))
        return datasets.DatasetDict({"train": some_rows(1), "test": some_rows(2)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    spec = DataSpec(source="hub", path="lab/birds", options={"name": "small", "revision": "v1"})
    assert load_dataset(spec, KINDS).splits == ["train", "test"]
    assert asked == [("lab/birds", "small", {"revision": "v1", "cache_dir": None})]
