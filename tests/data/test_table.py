from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.data import DataSpec, Rejection, Row, load_dataset
from lightcrl.data.table import TableFile
from lightcrl.errors import DataError, ItemError, ModalityError

KINDS = {"image": "image", "text": "text"}
TEXTS = {"text": "text", "other": "text"}
SHARED = Path(__file__).parents[2] / "../shared"


def rows(path: Path, kinds: dict[str, str] = TEXTS, **settings: Any) -> list[Row | Rejection]:
    return list(TableFile(kinds, path, **settings).rows())


def told(found: list[Row | Rejection]) -> list[Any]:
    """Texts by modality of each row, or what was set aside, as a string."""
    return [
        {modality: [item.read() for item in items] for modality, items in row.cells.items()}
        if isinstance(row, Row)
        else f"{row.source} {row.reason}"
        for row in found
    ]


def test_json_lines_know_their_number(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(
        '{"text": "one", "other": "1"}\n'
        "\n"
        '{"text": "torn\n'
        '["a", "list"]\n'
        '{"text": ["two", "", null, "zwei"], "other": null, "more": 3}\n'
        '{"text": 4}\n'
        '{"other": "six"}'
    )
    found = rows(table)
    assert told(found) == [
        {"text": ["one"], "other": ["1"]},
        "t.jsonl:3 broken JSON line",
        "t.jsonl:4 broken JSON line",
        "t.jsonl:5 empty text",
        {"text": ["two", "zwei"]},
        "t.jsonl:6 not a text",
        {"other": ["six"]},
    ]
    assert [row.key for row in found if isinstance(row, Row)] == ["t.jsonl:1", "t.jsonl:5", "t.jsonl:7"]
    assert found[3] == Rejection("t.jsonl:5", "empty text", "", "text")


def test_one_broken_line_does_not_stop_a_run(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n{"text": "b"}\n' + b"[" * 100_000 + b'\n{"text": "c"}\n')
    data = load_dataset(DataSpec(path=str(table), max_rejected=0.5), {"text": "text"})
    assert [item.read() for item in data.items["text"]] == ["a", "b", "c"]
    assert [(one.source, one.reason) for one in data.rejected] == [
        ("t.jsonl:2", "broken JSON line"),
        ("t.jsonl:4", "broken JSON line"),
    ]


def test_csv_cells_that_are_empty_are_missing(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    lines = ["\ufefftext , other", "one,1", ",2", '"three, ""3""",', '" ",4', "", "five", '"si\nx",6', ""]
    table.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert told(rows(table)) == [
        {"text": ["one"], "other": ["1"]},
        {"other": ["2"]},
        {"text": ['three, "3"']},
        "t.csv:5 empty text",
        {"other": ["4"]},
        "t.csv:7 broken CSV line",
        {"text": ["si\nx"], "other": ["6"]},
    ]
    assert [row.key for row in rows(table) if isinstance(row, Row)] == [f"t.csv:{n}" for n in (2, 3, 4, 5, 8)]


def test_csv_that_is_not_utf8_loses_only_that_cell(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    lines = [b"text\tother", b"caf\xe9\tcoffee", "thé\ttea".encode(), b"x" * 200_000 + b"\tlong", b"last\tlast"]
    table.write_bytes(b"\n".join(lines))
    assert told(rows(table)) == [
        "t.tsv:2 text that is not Unicode",
        {"other": ["coffee"]},
        {"text": ["thé"], "other": ["tea"]},
        "t.tsv:4 broken CSV line",
        {"text": ["last"], "other": ["last"]},
    ]


def write_json_lines(path: Path, table: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "other"], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(table)


def write_parquet(path: Path, table: list[dict[str, Any]]) -> None:
    schema = pyarrow.schema({"text": pyarrow.string(), "other": pyarrow.string()})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table, schema), path, row_group_size=3)


WRITERS = {"t.jsonl": write_json_lines, "t.csv": write_csv, "t.tsv": write_csv, "t.parquet": write_parquet}

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip) | st.none()


@given(st.lists(st.fixed_dictionaries({"text": words, "other": words})))
def test_every_format_says_the_same(tmp_path_factory: pytest.TempPathFactory, table: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("formats", numbered=True)
    expected = [{key: [value] for key, value in row.items() if value is not None} for row in table]
    for name, write in WRITERS.items():
        write(folder / name, table)
        assert told(rows(folder / name)) == [row for row in expected if row], name


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv.gz"])
def test_gzip_is_read_and_a_torn_one_keeps_what_is_whole(name: str, tmp_path: Path) -> None:
    text = [f"line {number} of {number * 7919}" for number in range(5000)]
    lines = ["text", *text] if "csv" in name else [json.dumps({"text": one}) for one in text]
    table = tmp_path / name
    table.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert told(rows(table, {"text": "text"})) == [{"text": [one]} for one in text]
    table.write_bytes(table.read_bytes()[:-9000])
    *whole, last = rows(table, {"text": "text"})
    assert isinstance(last, Rejection)
    assert last.reason == "torn file"
    assert 100 < len(whole) < 5000
    assert told(whole) == [{"text": [one]} for one in text[: len(whole)]]


def test_rows_with_one_picture_are_one_group(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    table: list[dict[str, str]] = [{"image": "a.jpg", "text": f"a {n}"} for n in range(5)]
    table += [{"image": "./b.jpg", "text": "b"}, {"text": "alone"}]
    write_json_lines(tmp_path / "t.jsonl", table)
    data = load_dataset(DataSpec(path=str(tmp_path / "t.jsonl")), KINDS)
    assert data.groups == ["a.jpg", "b.jpg", "t.jsonl:7"]
    assert [item.read().name for item in data.items["image"]] == ["a.jpg", "b.jpg"]
    assert data.links["text"].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [4, 0], [5, 1], [6, 2]]


def test_the_key_column_groups_in_place_of_the_picture(tmp_path: Path) -> None:
    table = [{"text": "a", "id": 1}, {"text": "b", "id": 2}, {"text": "c", "id": 1}, {"text": "d", "id": None}]
    write_json_lines(tmp_path / "t.jsonl", table)
    data = load_dataset(DataSpec(path=str(tmp_path / "t.jsonl"), key="id"), {"text": "text"})
    assert data.groups == ["1", "2", "t.jsonl:4"]
    assert [item.read() for item in data.items["text"]] == ["a", "c", "b", "d"]
    assert data.links["text"].tolist() == [[0, 0], [1, 0], [2, 1], [3, 2]]


def test_the_key_may_be_a_second_picture(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "map.png"):
        (tmp_path / name).touch()
    write_json_lines(tmp_path / "t.jsonl", [{"image": "a.jpg", "map": "map.png"}, {"image": "b.jpg", "map": "map.png"}])
    kinds = {"image": "image", "map": "image"}
    assert load_dataset(DataSpec(path=str(tmp_path / "t.jsonl")), kinds).groups == ["a.jpg", "b.jpg"]
    assert load_dataset(DataSpec(path=str(tmp_path / "t.jsonl"), key="map"), kinds).groups == ["map.png"]


def test_the_split_column_splits(tmp_path: Path) -> None:
    names = ["train", "Validation", "val", "dev", "test", "restval", None]
    write_json_lines(tmp_path / "t.jsonl", [{"text": str(name), "split": name} for name in names])
    data = load_dataset(
        DataSpec(path=str(tmp_path / "t.jsonl"), split_column="split", max_rejected=1), {"text": "text"}
    )
    assert data.splits == ["train", "dev", "dev", "dev", "test"]
    assert [(one.source, one.reason) for one in data.rejected] == [
        ("t.jsonl:6", "unknown split"),
        ("t.jsonl:7", "unknown split"),
    ]


def test_columns_and_root_say_where_things_are(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(b"a")
    write_json_lines(tmp_path / "t.jsonl", [{"file": "a.jpg", "caption": "words"}])
    columns = {"image": "file", "text": "caption"}
    (row,) = rows(tmp_path / "t.jsonl", KINDS, columns=columns, root=tmp_path / "pictures")
    assert isinstance(row, Row)
    assert row.key == "a.jpg"
    assert row.cells["image"][0].read().read_bytes() == b"a"
    (gone, words) = rows(tmp_path / "t.jsonl", KINDS, columns=columns)
    assert gone == Rejection("t.jsonl:1", "missing file", str(tmp_path / "a.jpg"), "image")
    assert isinstance(words, Row)


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_column_that_is_not_there_is_named_with_the_nearest(name: str, tmp_path: Path) -> None:
    table = tmp_path / name
    WRITERS[name](table, [{"text": "a", "other": "b"}])
    with pytest.raises(ModalityError, match=r"^t\.\w+: unknown column 'texts'\. Did you mean 'text'\? Known: text, ot"):
        rows(table, {"words": "text"}, columns={"words": "texts"})
    with pytest.raises(DataError, match=r"unknown column 'othr'\. Did you mean 'other'\?.* Check data\.key"):
        rows(table, {"text": "text"}, key="othr")
    with pytest.raises(DataError, match=r"unknown column 'split'.* Check data\.split_column"):
        rows(table, {"text": "text"}, split_column="split")


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").touch()
    (tmp_path / "t.parquet").write_bytes(b"PAR1 is not all there is to it")
    (tmp_path / "t.parquet.gz").touch()
    with pytest.raises(DataError, match=r"found \.xlsx, expected \.csv, \.tsv, .*\.json, \.parquet"):
        rows(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        rows(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"is no table: found \.gz"):
        rows(tmp_path / "t.parquet.gz")
    with pytest.raises(DataError, match=r"is a folder with t\.parquet, t\.parquet\.gz; expected one table"):
        rows(tmp_path)


def test_parquet_pictures_are_not_held_in_memory(tmp_path: Path) -> None:
    pictures = [bytes([n]) * 50 for n in range(20)]
    table = pyarrow.table({"image": [[{"bytes": one, "path": f"{n}.png"}] for n, one in enumerate(pictures)]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    found = rows(tmp_path / "t.parquet", {"image": "image"})
    items = [row.cells["image"][0] for row in found if isinstance(row, Row)]
    assert all(not isinstance(item.raw, bytes) for item in items)
    assert [item.read() for item in items[::-1]] == pictures[::-1]
    assert [item.source for item in items[:2]] == ["t.parquet:1", "t.parquet:2"]


def test_parquet_rows_with_equal_pictures_are_one_group(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [b"one", b"two", b"one"], "text": ["a", "b", "c"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    data = load_dataset(DataSpec(path=str(tmp_path / "t.parquet")), KINDS)
    assert [item.read() for item in data.items["image"]] == [b"one", b"two"]
    assert [item.read() for item in data.items["text"]] == ["a", "c", "b"]
    assert data.links["text"].tolist() == [[0, 0], [1, 0], [2, 1]]


def test_parquet_that_changed_says_so(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"one"]}), tmp_path / "t.parquet")
    (row,) = rows(tmp_path / "t.parquet", {"image": "image"})
    assert isinstance(row, Row)
    raw = row.cells["image"][0].raw
    raw.table.cell = lambda number, column: b"another"
    with pytest.raises(ItemError, match=r"changed since it was listed: row 1, column 'image'"):
        raw()


@pytest.mark.real
def test_flickr8k_is_six_thousand_groups() -> None:
    table = SHARED / "data/flickr8k/train.jsonl"
    if not table.exists():
        pytest.skip(f"{table} is not there")
    data = load_dataset(DataSpec(path=str(table.resolve()), columns={"text": "caption"}), KINDS)
    assert len(data.groups) == len(data.items["image"]) == 6000
    assert 29_500 < len(data.items["text"]) <= 30_000
    assert data.rejected == []
    assert data.links["image"].tolist() == [[n, n] for n in range(6000)]
    assert 500 < data.splits.count("dev") < 700
    assert data.items["text"][0].source == "train.jsonl:1"
