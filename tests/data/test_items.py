from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.data.base import Item, bytes_item, cell_items, digest, file_item, read_cells, text_item
from lightcrl.errors import ItemError


def found(value: Any, kind: str, root: Path = Path("/nowhere")) -> list[Any]:
    """Raw items, and the reasons of those that are none."""
    return [one.raw if isinstance(one, Item) else one.reason for one in cell_items(value, kind, root, "here")]


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_a_digest_knows_where_its_parts_end(parts: list[str]) -> None:
    joined = ["".join(parts)]
    assert (digest(*parts) == digest(*joined)) == (parts == joined)
    assert len(digest(*parts)) == 32


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ([], []),
        ("a dog", ["a dog"]),
        (["a dog", None, "a cat"], ["a dog", "a cat"]),
        ("", ["empty text"]),
        ([" \t", "a cat"], ["empty text", "a cat"]),
        (7, ["not a text"]),
        (float("nan"), ["not a text"]),
        ("half a pair \ud83d", ["text that is not Unicode"]),
    ],
)
def test_texts_of_a_cell(value: Any, expected: list[str]) -> None:
    assert found(value, "text") == expected


def test_pictures_of_a_cell(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    here = tmp_path / "a.png"
    assert found("a.png", "image", tmp_path) == [here]
    assert found(["a.png", str(here), Path("a.png")], "image", tmp_path) == [here, here, here]
    assert found({"bytes": None, "path": "a.png"}, "image", tmp_path) == [here]
    assert found({"bytes": b"b", "path": "gone.png"}, "image", tmp_path) == [b"b"]
    assert found([b"b", b""], "audio") == [b"b", "empty file"]


@pytest.mark.parametrize("path", ["gone.png", "", "zero\0byte.png", "half \ud83d", "x" * 5000, {"path": "gone.png"}])
def test_a_file_that_is_not_there_is_said_to_be_missing(path: Any, tmp_path: Path) -> None:
    assert found(path, "image", tmp_path) == ["missing file"]


def test_what_is_neither_path_nor_bytes_is_refused() -> None:
    assert found([3, {}], "image") == ["not a path or image"] * 2


def test_a_file_is_known_by_place_size_and_time(tmp_path: Path) -> None:
    one = tmp_path / "one.png"
    one.write_bytes(b"abc")
    os.utime(one, ns=(1, 1))
    key = file_item(one, tmp_path).key
    assert file_item(one, tmp_path).key == key
    assert file_item(one, tmp_path.parent).key != key
    one.write_bytes(b"abcd")
    os.utime(one, ns=(1, 1))
    assert file_item(one, tmp_path).key != key
    one.write_bytes(b"abc")
    os.utime(one, ns=(2, 2))
    assert file_item(one, tmp_path).key != key


def test_files_of_one_name_below_two_roots_differ_under_a_common_base(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(folder.encode())
        os.utime(tmp_path / folder / "1.jpg", ns=(1, 1))
    cells = {"image": "1.jpg"}
    alone = [read_cells(cells, {"image": "image"}, tmp_path / folder, "row")[0]["image"][0] for folder in "ab"]
    assert alone[0].key == alone[1].key
    (one,), (other,) = (
        read_cells(cells, {"image": "image"}, tmp_path / folder, "row", tmp_path)[0]["image"] for folder in "ab"
    )
    assert (one.source, other.source) == ("a/1.jpg", "b/1.jpg")
    assert one.key != other.key


def test_equal_content_is_one_item() -> None:
    assert text_item("a dog", "here").key == text_item("a dog", "there").key
    assert bytes_item(b"a dog", "here").key != text_item("a dog", "here").key


def test_an_item_is_fetched_when_it_is_read() -> None:
    assert Item("key", "here", lambda: "fetched").read() == "fetched"
    assert Item("key", "here", "as it is").read() == "as it is"


def test_an_empty_file_in_memory_is_no_item() -> None:
    with pytest.raises(ItemError, match="empty file"):
        bytes_item(b"", "here")
