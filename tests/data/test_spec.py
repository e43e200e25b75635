from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from lightcrl.data import DataSpec, Row, load_dataset, open_sources
from lightcrl.data.base import text_item
from lightcrl.errors import DataError, EmptyDatasetError, ModalityError, UnknownNameError

KINDS = {"image": "image", "text": "text"}


def write(path: Path, *rows: dict[str, object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "a", "train": "b", "dev": "c"}, "found path and train, dev; expected either"),
        ({"train": "b", "split_column": "s"}, "found split_column and train"),
        ({"path": "a", "dev_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
        ({"path": "a", "dev_fraction": -0.1}, "dev_fraction"),
        ({"path": "a", "pth": "b"}, "pth"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSpec.model_validate(settings)


def test_a_spec_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DataSpec(path="a").path = "b"  # type: ignore[misc]


def test_a_source_that_needs_a_path_says_so() -> None:
    with pytest.raises(DataError, match=r"source 'table': missing .*'path'.* Expected data\.path, or data\.train"):
        load_dataset(DataSpec(), KINDS)


def test_unknown_sources_settings_and_modalities_are_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown source 'tabel'\. Did you mean 'table'"):
        load_dataset(DataSpec(source="tabel", path="a"), KINDS)
    with pytest.raises(
        UnknownNameError, match=r"unknown setting of source 'folder' 'templte'\. Did you mean 'template'"
    ):
        load_dataset(DataSpec(source="folder", path="a", options={"templte": "{}"}), KINDS)
    with pytest.raises(UnknownNameError, match="unknown setting of source 'synthetic' 'split_column'"):
        load_dataset(DataSpec(source="synthetic", split_column="s"), KINDS)
    with pytest.raises(ModalityError, match=r"unknown modality 'txt'\. Did you mean 'text'"):
        load_dataset(DataSpec(path="a", columns={"txt": "caption"}), KINDS)


def test_an_empty_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmptyDatasetError, match=r"empty\.jsonl: the data has no groups"):
        load_dataset(DataSpec(path=write(tmp_path / "empty.jsonl")), KINDS)


def test_a_path_per_split_gives_the_splits(tmp_path: Path) -> None:
    paths = {split: write(tmp_path / f"{split}.jsonl", {"text": split}) for split in ("train", "dev", "test")}
    data = load_dataset(DataSpec(**paths), {"text": "text"})
    assert data.groups == ["train.jsonl:1", "dev.jsonl:1", "test.jsonl:1"]
    assert data.splits == ["train", "dev", "test"]


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    """`train/1.jpg` and `dev/1.jpg`, each known as `1.jpg` to the table beside it, are no leak."""
    paths = {}
    for split in ("train", "dev"):
        paths[split] = write(tmp_path / split / "rows.jsonl", {"image": "1.jpg", "text": split}, {"text": "alone"})
        (tmp_path / split / "1.jpg").write_bytes(split.encode())
    data = load_dataset(DataSpec(**paths), KINDS)
    assert data.rejected == []
    assert data.groups == ["train/1.jpg", "train/rows.jsonl:2", "dev/1.jpg", "dev/rows.jsonl:2"]
    assert [item.source for item in data.items["image"]] == ["train/1.jpg", "dev/1.jpg"]


def test_one_root_for_two_tables_shows_what_they_share(tmp_path: Path) -> None:
    paths = {}
    for split in ("train", "dev"):
        rows = [{"image": f"{split}{n}.jpg"} for n in range(3)]
        for row in [*rows, {"image": "1.jpg"}]:
            (tmp_path / row["image"]).touch()
        paths[split] = write(tmp_path / split / "rows.jsonl", *rows, {"image": "1.jpg"})
    data = load_dataset(DataSpec(**paths, root=str(tmp_path)), {"image": "image"})
    assert data.groups == [*(f"train{n}.jpg" for n in range(3)), *(f"dev{n}.jpg" for n in range(3)), "1.jpg"]
    assert [str(rejection) for rejection in data.rejected] == ["1.jpg: leak (1.jpg is also in another split)"]


class Mine:
    """A user's own source: it takes what it likes."""

    def __init__(self, kinds: Mapping[str, str], path: str, shout: bool = False) -> None:
        self.kinds, self.path, self.shout = kinds, path, shout

    def rows(self) -> Iterator[Row]:
        for modality in self.kinds:
            word = self.path.upper() if self.shout else self.path
            yield Row(word, {modality: [text_item(word, word)]})


def test_a_users_own_source_is_opened_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "my_lab", type("my_lab", (), {"Mine": Mine}))
    spec = DataSpec(source="my_lab:Mine", train="hello", options={"shout": True})
    assert [(split, type(source)) for split, source in open_sources(spec, {"text": "text"})] == [("train", Mine)]
    data = load_dataset(spec, {"text": "text"})
    assert (data.groups, data.splits) == (["HELLO"], ["train"])
    with pytest.raises(UnknownNameError, match="unknown setting of source 'my_lab:Mine' 'key'"):
        load_dataset(spec.model_copy(update={"key": "id"}), {"text": "text"})
