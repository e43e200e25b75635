from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightcrl.data import Dataset, DataSpec, load_dataset
from lightcrl.data.base import Item, cell_items
from lightcrl.data.loose import loose_items
from lightcrl.data.vectors import ArrayRow, open_array, read_tokens
from lightcrl.errors import DataError, ItemError, ModalityError

RNG = np.random.default_rng(0)
IMAGES, TEXTS = RNG.normal(size=(6, 3)).astype(np.float32), RNG.normal(size=(6, 2)).astype(np.float32)
KINDS = {"image": "vectors", "text": "vectors"}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tokens(dataset: Dataset, modality: str) -> list[Any]:
    return [read_tokens(item.read()).tolist() for item in dataset.items[modality]]


def rows(array: np.ndarray) -> list[Any]:
    return [row.reshape(-1, array.shape[-1]).tolist() for row in array]


# --- one cell ---


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ([1, 2.5], [[[1, 2.5]]]),
        ([[1, 2], [3, 4]], [[[1, 2], [3, 4]]]),
        ([[[1, 2]], [[3, 4], [5, 6]]], [[[1, 2]], [[3, 4], [5, 6]]]),
        ("[1, 2.5]", [[[1, 2.5]]]),
        ("[[1, 2], [3, 4]]", [[[1, 2], [3, 4]]]),
        ("[1.  2.5]", [[[1, 2.5]]]),
        ("[[1. 2.]\n [3. 4.]]", [[[1, 2], [3, 4]]]),
        (np.float16([1, 2.5]), [[[1, 2.5]]]),
        (npy(np.array([1.0, 2.5])), [[[1, 2.5]]]),
        ({"bytes": npy(np.array([[1.0], [2.5]])), "path": None}, [[[1], [2.5]]]),
        (None, []),
    ],
)
def test_a_cell_holds_vectors_in_any_usual_form(cell: Any, expected: list[Any], tmp_path: Path) -> None:
    items = list(cell_items(cell, "vectors", tmp_path, "row 1"))
    assert all(isinstance(item, Item) for item in items)
    assert [read_tokens(item.read()).tolist() for item in items if isinstance(item, Item)] == expected


def test_equal_vectors_are_one_item_and_files_have_their_path(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES[:2])
    first, again, other = (next(cell_items(cell, "vectors", tmp_path, "")) for cell in ([1, 2], "[1.0, 2]", [2, 1]))
    (file,) = cell_items("a.npy", "vectors", tmp_path, "")
    assert all(isinstance(item, Item) for item in (first, again, other, file))
    assert first.key == again.key != other.key
    assert file.source == "a.npy"
    assert read_tokens(file.read()).tolist() == IMAGES[:2].tolist()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[1, 2, ..., 9]", "shortened vector"),
        ("[one, two]", "not a vector"),
        ([1, "two"], "not a vector"),
        ([[1, 2], [3]], "not a vector"),
        ([True, False], "not a vector"),
        ("nowhere.npy", "missing file"),
        ("", "missing file"),
        ([1, None], "not finite"),
        ([1, float("inf")], "not finite"),
        (b"no array", "unreadable vector"),
        ([], "not a vector"),
    ],
)
def test_a_cell_without_a_vector_is_set_aside_with_the_reason(cell: Any, reason: str, tmp_path: Path) -> None:
    (item,) = cell_items(cell, "vectors", tmp_path, "")
    if isinstance(item, Item):  # the content is looked at when it is encoded
        with pytest.raises(ItemError) as error:
            read_tokens(item.read())
        item = error.value
    assert item.reason == reason


# --- tables ---


def table(folder: Path, form: str) -> DataSpec:
    """Six rows of two vectors each, in a file of that form."""
    records = [{"image": image.tolist(), "text": text.tolist()} for image, text in zip(IMAGES, TEXTS, strict=True)]
    path = folder / f"rows.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif form == "csv":
        lines = [f'"{record["image"]}";"{record["text"]}"' for record in records]
        path.write_text("\n".join(["image;text", *lines]))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=4)
    else:
        datasets.Dataset.from_list(records).save_to_disk(str(path))
        return DataSpec(source="hub", path=str(path))
    return DataSpec(path=str(path))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "hub"])
def test_columns_of_lists_of_numbers_are_read_from_every_table(form: str, tmp_path: Path) -> None:
    dataset = load_dataset(table(tmp_path, form), KINDS)
    assert tokens(dataset, "image") == rows(IMAGES)
    assert tokens(dataset, "text") == rows(TEXTS)
    assert len(dataset.groups) == 6
    held = [isinstance(item.raw, np.ndarray) for item in dataset.items["image"]]
    assert all(held) if form in ("jsonl", "csv") else not any(held)


def test_a_column_of_vectors_can_name_the_groups(tmp_path: Path) -> None:
    lines = [{"image": [1, 2], "text": "a dog"}, {"image": [1, 2], "text": "two dogs"}, {"image": [3, 4], "text": "x"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kinds = {"image": "vectors", "text": "text"}
    assert len(load_dataset(DataSpec(path=str(tmp_path / "t.jsonl")), kinds).groups) == 3
    grouped = load_dataset(DataSpec(path=str(tmp_path / "t.jsonl"), key="image"), kinds)
    assert grouped.links["text"].tolist() == [[0, 0], [1, 0], [2, 1]]
    # Rows of one vector are never in two splits.
    drawn = load_dataset(DataSpec(path=str(tmp_path / "t.jsonl"), dev_fraction=0.5), kinds)
    assert drawn.splits[0] == drawn.splits[1]


# --- arrays beside a table ---


def clip_retrieval(folder: Path, parts: int = 2) -> Path:
    """The folder that `clip-retrieval inference` writes."""
    for number, chosen in enumerate(np.array_split(np.arange(6), parts)):
        for name, array in (("img", IMAGES), ("text", TEXTS)):
            (folder / f"{name}_emb").mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}_emb" / f"{name}_emb_{number}.npy", array[chosen])
        (folder / "metadata").mkdir(exist_ok=True)
        columns = {"image_path": [f"{row}.jpg" for row in chosen], "caption": [f"caption {row}" for row in chosen]}
        pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def test_the_layout_of_clip_retrieval_is_read_and_mapped(tmp_path: Path) -> None:
    spec = DataSpec(source="vectors", path=str(clip_retrieval(tmp_path / "emb")), key="image_path")
    dataset = load_dataset(spec, KINDS)
    assert (tokens(dataset, "image"), tokens(dataset, "text")) == (rows(IMAGES), rows(TEXTS))
    assert dataset.groups == [f"{row}.jpg" for row in range(6)]
    raw = dataset.items["image"][4].raw
    assert isinstance(raw, ArrayRow)
    assert (raw.path.name, raw.row) == ("img_emb_1.npy", 1)
    assert np.shares_memory(raw(), open_array(raw.path))
    assert isinstance(open_array(raw.path), np.memmap)
    # A column of the table beside the arrays.
    mixed = load_dataset(spec.model_copy(update={"columns": {"text": "caption"}}), {"image": "vectors", "text": "text"})
    assert [item.raw for item in mixed.items["text"]] == [f"caption {row}" for row in range(6)]
    assert mixed.links["image"].tolist() == [[row, row] for row in range(6)]


def test_an_array_lies_beside_a_table_or_without_any(tmp_path: Path) -> None:
    np.save(tmp_path / "sounds.npy", np.stack([IMAGES, IMAGES + 1], 1))
    lines = [f"caption {row},{'train' if row else 'dev'}\n" for row in range(6)]
    (tmp_path / "t.csv").write_text("text,split\n" + "".join(lines))
    spec = DataSpec(
        source="vectors", path=str(tmp_path / "t.csv"), columns={"audio": "sounds.npy"}, split_column="split"
    )
    dataset = load_dataset(spec, {"audio": "vectors", "text": "text"})
    assert dataset.splits == ["dev", *["train"] * 5]
    assert tokens(dataset, "audio") == rows(np.stack([IMAGES, IMAGES + 1], 1))
    np.save(tmp_path / "image.npy", IMAGES), np.save(tmp_path / "text.npy", TEXTS), (tmp_path / "t.csv").unlink()
    bare = load_dataset(DataSpec(source="vectors", path=str(tmp_path)), KINDS)
    assert bare.groups == [f"{tmp_path.name}:{row}" for row in range(1, 7)]
    assert tokens(bare, "text") == rows(TEXTS)


def test_arrays_that_do_not_fit_their_table_are_refused(tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path / "emb")
    spec = DataSpec(source="vectors", path=str(folder))
    (folder / "metadata").rename(tmp_path / "elsewhere")
    with pytest.raises(ModalityError, match=r"has no arrays of modality 'audio'.*img_emb"):
        load_dataset(spec, {"audio": "vectors", "text": "vectors"})
    with pytest.raises(DataError, match="elsewhere2 is not there"):
        load_dataset(spec.model_copy(update={"options": {"metadata": "../elsewhere2"}}), KINDS)
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "elsewhere" / "metadata_1.parquet")
    with pytest.raises(DataError, match=r"4 readable rows in metadata_0.parquet, metadata_1.parquet, and 6 in 'image'"):
        load_dataset(spec.model_copy(update={"options": {"metadata": "../elsewhere"}}), KINDS)
    np.save(folder / "text_emb" / "text_emb_1.npy", TEXTS[:1])
    with pytest.raises(DataError, match=r"arrays of different lengths \(image 6, text 4\)"):
        load_dataset(spec, KINDS)
    np.save(folder / "text_emb" / "text_emb_1.npy", TEXTS[0])
    with pytest.raises(DataError, match=r"float32 of shape \[2\]; expected numbers \[N, D\]"):
        load_dataset(spec, KINDS)


# --- files with ids ---


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_ids_in_the_data_are_joined_with_vectors_in_a_file(form: str, tmp_path: Path) -> None:
    ids = [f"c{row}" for row in range(6)]
    if form == "npy":
        np.save(tmp_path / "v.npy", TEXTS)
        (tmp_path / "v.json").write_text(json.dumps({"ids": ids}))
    else:
        pq.write_table(pa.table({"id": ids, "embedding": list(TEXTS)}), tmp_path / "v.parquet")
    lines = [{"image": image.tolist(), "captions": [f"c{row}", "c0"]} for row, image in enumerate(IMAGES)]
    lines.append({"image": [9, 9, 9], "captions": ["nobody"]})
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {"text": {"path": str(tmp_path / f"v.{form}"), "column": "captions"}}
    dataset = load_dataset(DataSpec(path=str(tmp_path / "t.jsonl"), vectors=given), KINDS)
    assert sorted(tokens(dataset, "text")) == sorted(rows(TEXTS))
    assert [item.source for item in dataset.items["text"]] == ids
    assert [str(rejection) for rejection in dataset.rejected] == ["t.jsonl:7: no vector of this id (nobody)"]
    with pytest.raises(ModalityError, match="expected a modality of kind 'vectors'; there are text \\(text\\)"):
        load_dataset(DataSpec(path=str(tmp_path / "t.jsonl"), vectors=given), {"text": "text"})
    # The same file alone, as `lightcrl embed` reads it.
    items, _ = loose_items(tmp_path / f"v.{form}", "vectors")
    assert [item.source for item in items] == ids
    assert [read_tokens(item.read()).tolist() for item in items] == rows(TEXTS)
