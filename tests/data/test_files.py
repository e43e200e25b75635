from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.data.files import existing, expand, name_below, some
from lightcrl.errors import DataError


def test_what_is_there_is_returned(tmp_path: Path) -> None:
    assert existing(str(tmp_path), "a folder") == tmp_path


def test_what_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / ".hidden").touch()
    with pytest.raises(DataError) as caught:
        existing(tmp_path / "trian.jsonl", "a table")
    assert str(caught.value) == (
        f"{tmp_path}/trian.jsonl is not there. Did you mean 'train.jsonl'? "
        f"Expected a table; {tmp_path} holds train.jsonl."
    )


def test_the_first_folder_above_that_exists_is_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} holds nothing"):
        existing(tmp_path / "a" / "b" / "c.csv", "a table")


def test_a_file_elsewhere_keeps_its_full_name() -> None:
    assert name_below(Path("/a/b/c.png"), Path("/a")) == "b/c.png"
    assert name_below(Path("/x/c.png"), Path("/a")) == "/x/c.png"


@given(st.integers(0, 300), st.integers(0, 12), st.integers(1, 6))
def test_a_range_in_braces_is_every_number_with_its_zeros(first: int, more: int, width: int) -> None:
    pattern = f"s-{{{first:0{width}}..{first + more}}}.tar"
    digits = len(f"{first:0{width}}")
    assert expand(pattern) == [f"s-{number:0{digits}}.tar" for number in range(first, first + more + 1)]


def test_braces_multiply() -> None:
    assert expand("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand("plain.tar") == ["plain.tar"]


def test_long_lists_are_cut() -> None:
    assert some(list("abcdefghij")) == "a, b, c, d, e, f, g, h and 2 more"
    assert some([]) == "nothing"
