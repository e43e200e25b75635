from __future__ import annotations

from pathlib import Path

import pytest

from lightcrl.data import DataSpec, Rejection, Row, load_dataset
from lightcrl.data.folder import ClassFolder, class_folder, readable_class
from lightcrl.errors import DataError, ModalityError

KINDS = {"photo": "image", "words": "text"}


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("fire_truck", "fire truck"),
        ("GoldenRetriever", "golden retriever"),
        ("n02084071-dog", "dog"),
        ("n02084071", "n02084071"),
        ("001.Black_footed_Albatross", "black footed albatross"),
        ("dog-bark", "dog bark"),
        ("USA", "usa"),
        ("HTTPServer", "http server"),
        ("7", "7"),
        ("___", "___"),
        ("crème brûlée", "crème brûlée"),
    ],
)
def test_a_class_is_said_as_words(folder: str, said: str) -> None:
    assert readable_class(folder) == said


def test_every_file_is_a_group_with_its_class(tmp_path: Path) -> None:
    fill(tmp_path, "fire_truck/2.png", "fire_truck/1.JPG", "dog/1.png", ".git/x/1.png", "dog/.hidden.png")
    rows = list(ClassFolder(KINDS, tmp_path, template="a photo of a {}.").rows())
    assert all(isinstance(row, Row) and row.split is None for row in rows)
    found = [
        (row.key, row.cells["photo"][0].read(), row.cells["words"][0].read()) for row in rows if isinstance(row, Row)
    ]
    assert found == [
        ("dog/1.png", tmp_path / "dog/1.png", "a photo of a dog."),
        ("fire_truck/1.JPG", tmp_path / "fire_truck/1.JPG", "a photo of a fire truck."),
        ("fire_truck/2.png", tmp_path / "fire_truck/2.png", "a photo of a fire truck."),
    ]


def test_split_folders_give_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "val/a/1.png", "test/a/1.png", "notes/todo.txt")
    data = load_dataset(DataSpec(source="folder", path=str(tmp_path)), KINDS)
    assert dict(zip(data.groups, data.splits, strict=True)) == {
        "test/a/1.png": "test",
        "train/a/1.png": "train",
        "val/a/1.png": "dev",
    }
    assert data.rejected == []
    assert len(data.items["words"]) == 1


def test_a_folder_per_split_gives_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, "one/a/1.png", "two/a/1.png")
    data = load_dataset(DataSpec(source="folder", train=str(tmp_path / "one"), test=str(tmp_path / "two")), KINDS)
    assert dict(zip(data.groups, data.splits, strict=True)) == {"one/a/1.png": "train", "two/a/1.png": "test"}


def test_file_names_give_the_splits_of_folds(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1-a.png", "dog/3-b.png", "cat/4-a.png", "cat/5-a.png", "cat/x.png")
    splits = {"[123]-*": "train", "4-*": "val", "5-*": "test"}
    data = load_dataset(DataSpec(source="folder", path=str(tmp_path), options={"splits": splits}), KINDS)
    assert dict(zip(data.groups, data.splits, strict=True)) == {
        "cat/4-a.png": "dev",
        "cat/5-a.png": "test",
        "dog/1-a.png": "train",
        "dog/3-b.png": "train",
    }
    assert list(map(str, data.rejected)) == ["cat/x.png: no split (no pattern of [123]-*, 4-*, 5-* fits)"]


def test_sounds_and_pictures_go_to_their_modalities(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.png", "dog/2.wav", "dog/3.txt")
    rows = list(ClassFolder({**KINDS, "noise": "audio", "again": "image"}, tmp_path).rows())
    assert [list(row.cells) if isinstance(row, Row) else str(row) for row in rows] == [
        ["photo", "words", "again"],
        ["words", "noise"],
        "dog/3.txt: not a picture or sound (extension '.txt')",
    ]
    first = next(ClassFolder({"noise": "audio"}, tmp_path).rows())
    assert first == Rejection("dog/1.png", "no modality of kind 'image'")


def test_errors_say_what_is_expected(tmp_path: Path) -> None:
    fill(tmp_path, "flat/1.png", "one/dog/1.png", "one/cat/notes.txt", "file.png")
    with pytest.raises(DataError, match=r"flat has no class folders: found 1\.png\. Expected .*<path>/<class>/<file>"):
        list(ClassFolder(KINDS, tmp_path / "flat").rows())
    with pytest.raises(DataError, match=r"file\.png is a file"):
        list(ClassFolder(KINDS, tmp_path / "file.png").rows())
    with pytest.raises(DataError, match=r"template 'a photo' has no \{\}"):
        list(ClassFolder(KINDS, tmp_path / "one", template="a photo").rows())
    with pytest.raises(DataError, match=r"unknown split 'tran'\. Did you mean 'train'\?.* given for '1\*'"):
        list(ClassFolder(KINDS, tmp_path / "one", splits={"1*": "tran"}).rows())
    fill(tmp_path, "given/train/dog/1.png")
    with pytest.raises(DataError, match=r"has the split folder 'train'; leave options\.splits out"):
        list(ClassFolder(KINDS, tmp_path / "given", splits={"1*": "train"}).rows())
    with pytest.raises(DataError, match=r"found files that fit '2\*' in 0 of the folders"):
        class_folder(tmp_path / "one", "2*")
    with pytest.raises(ModalityError, match="Expected one of kind 'image' or 'audio'"):
        list(ClassFolder({"words": "text"}, tmp_path / "one").rows())
    with pytest.raises(DataError, match="found files in 1 of the folders cat, dog; expected at least two classes"):
        class_folder(tmp_path / "one")
    with pytest.raises(DataError, match="has no class folders"):
        class_folder(tmp_path / "flat")


def test_class_folder_lists_files_with_their_class(tmp_path: Path) -> None:
    fill(tmp_path, "dog/1.png", "cat/2.png", "cat/1.png", "cat/notes.txt", "empty/.keep")
    assert class_folder(tmp_path) == (
        ["cat", "dog"],
        [(tmp_path / "cat/1.png", 0), (tmp_path / "cat/2.png", 0), (tmp_path / "dog/1.png", 1)],
    )
    assert class_folder(tmp_path, "1*") == (["cat", "dog"], [(tmp_path / "cat/1.png", 0), (tmp_path / "dog/1.png", 1)])
