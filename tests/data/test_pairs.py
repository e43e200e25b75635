"""Pairs of texts from files: what is read, and what is refused before anything is encoded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightcrl.data.pairs import read_pairs
from lightcrl.errors import DataError, EmptyDatasetError, ModalityError, UnknownNameError

ROWS = (("one", "two", 1), ("three", "four", 0), ("five", "six", 1))
OTHERS = (("a", "b", 1), ("c", "d", 0), ("two", "one", 0))


def write(path: Path, rows: Sequence[Sequence[Any]], names: Sequence[str] = ("text1", "text2", "label")) -> str:
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows]
    path.write_text("".join(lines))
    return str(path)


def test_labelled_pairs_and_what_they_are_calibrated_on(tmp_path):
    test, train = write(tmp_path / "test.jsonl", ROWS), write(tmp_path / "train.jsonl", OTHERS)
    pairs, calibration = read_pairs(test, train)
    assert (pairs.left, pairs.right) == (("one", "three", "five"), ("two", "four", "six"))
    assert pairs.truth.tolist() == [1, 0, 1]
    assert not pairs.scored
    assert calibration is not None
    assert list(zip(calibration.left, calibration.right, calibration.truth, strict=True)) == list(OTHERS[:2])
    assert [(one.source, one.reason) for one in calibration.rejected] == [(f"{train}, pair 3", "leak")]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "jsonl.gz"])
def test_any_table_will_do(tmp_path, form):
    path = tmp_path / f"pairs.{form}"
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = dict(zip(("text1", "text2", "score"), zip(*ROWS, strict=True), strict=True))
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    elif form == "jsonl.gz":
        import gzip

        path.write_bytes(gzip.compress(Path(write(tmp_path / "p", ROWS, ("text1", "text2", "score"))).read_bytes()))
    else:
        mark = {"csv": ",", "tsv": "\t"}[form]
        lines = [("text1", "text2", "score"), *ROWS]
        path.write_text("".join(mark.join(map(str, line)) + "\n" for line in lines))
    pairs, calibration = read_pairs(str(path))
    assert calibration is None
    assert pairs.scored
    assert list(zip(pairs.left, pairs.right, pairs.truth.tolist(), strict=True)) == list(ROWS)


def saved(folder: Path, splits: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    import datasets

    made = {
        split: datasets.Dataset.from_list(
            [
                dict(zip(("sentence1", "sentence2", "label", "idx"), (*row, n), strict=True))
                for n, row in enumerate(rows)
            ]
        )
        for split, rows in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return str(folder)


COLUMNS = {"text1": "sentence1", "text2": "sentence2"}


def test_a_data_set_with_splits_brings_its_own_calibration(tmp_path):
    """As GLUE's MRPC: labels everywhere."""
    place = saved(tmp_path / "mrpc", {"train": OTHERS, "validation": ROWS[:2], "test": ROWS})
    pairs, calibration = read_pairs(place, columns=COLUMNS)
    assert pairs.name == f"{place}[test]"
    assert len(pairs) == 3
    assert calibration is not None
    assert (calibration.name, len(calibration)) == (f"{place}[train]", 2)


def test_a_test_split_without_labels_gives_way_to_dev(tmp_path):
    """As GLUE's QQP and STS-B; the latter calls its scores labels."""
    hidden = [(*row[:2], -1.0) for row in ROWS]
    scores = [(*row[:2], value) for row, value in zip(ROWS, (5.0, 3.8, 0.0), strict=True)]
    place = saved(tmp_path / "stsb", {"train": scores, "validation": scores, "test": hidden})
    pairs, calibration = read_pairs(place, columns=COLUMNS)
    assert (pairs.name, pairs.scored, calibration) == (f"{place}[dev]", True, None)
    assert pairs.truth.tolist() == [5.0, 3.8, 0.0]


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([(*row[:2], 1) for row in ROWS], "label", r"every one of 3 pairs has label 1; expected similar \(1\) and"),
        ([(*row[:2], 2.5) for row in ROWS], "score", r"every one of 3 pairs has score 2\.5; expected scores that"),
        ([*ROWS, ("x", "y", None)], "label", r"pairs\.jsonl:4: found no value in column 'label'; expected a label"),
        ([*ROWS, ("x", "y", "yes")], "label", r"pairs\.jsonl:4: found 'yes' in column 'label'; expected a label"),
        ([*ROWS, ("x", "y", float("nan"))], "score", r"pairs\.jsonl:4: found nan in column 'score'"),
        ([*ROWS, ("x", "y", 2)], "label", r"found labels 2; expected 1 \(similar\) and 0 \(dissimilar\)\. If they are"),
        (ROWS, "gold", "found neither column label and score; expected one, with labels"),
        (ROWS, "label", r"has labels, and no split to calibrate .* --calibration TRAIN\.jsonl"),
        ([("", "b", 1)], "label", r"has no pairs \(2 rows set aside\)"),
        ([], "label", "has no pairs"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, rows, names, message):
    place = write(tmp_path / "pairs.jsonl", rows, ("text1", "text2", names))
    with pytest.raises(DataError, match=message):
        read_pairs(place)


def test_a_calibration_that_is_none_is_refused(tmp_path):
    test, train = write(tmp_path / "test.jsonl", ROWS), write(tmp_path / "train.jsonl", OTHERS)
    scores = write(
        tmp_path / "scores.jsonl", [(*row[:2], n) for n, row in enumerate(OTHERS)], ("text1", "text2", "score")
    )
    one = write(tmp_path / "one.jsonl", OTHERS[:1])
    with pytest.raises(DataError, match=r"holds no pair that .* does not; expected the training split"):
        read_pairs(test, test)
    with pytest.raises(DataError, match=r"has scores, .* has labels; expected labels"):
        read_pairs(test, scores)
    with pytest.raises(DataError, match="has scores, which need no threshold: leave the calibration"):
        read_pairs(scores, train)
    with pytest.raises(DataError, match="every one of 1 pairs has label 1"):
        read_pairs(test, one)
    with pytest.raises(DataError, match="absent"):
        read_pairs(test, str(tmp_path / "absent.jsonl"))


def test_columns_of_other_names_are_named(tmp_path):
    place = write(tmp_path / "pairs.jsonl", ROWS, ("q1", "q2", "grade"))
    with pytest.raises(ModalityError, match="unknown column 'text1'"):
        read_pairs(place)
    with pytest.raises(UnknownNameError, match=r"unknown column of text pairs 'txt1'\. Did you mean 'text1'"):
        read_pairs(place, columns={"txt1": "q1"})
    pairs, _ = read_pairs(place, columns={"text1": "q1", "text2": "q2", "score": "grade"})
    assert pairs.scored
    assert pairs.truth.tolist() == [1, 0, 1]


def test_an_unreachable_hub_id_is_said_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.load_dataset", _absent)
    with pytest.raises(DataError, match=r"cannot open the dataset 'nyu-mll/glue' \(name 'mrpc'"):
        read_pairs("nyu-mll/glue/mrpc", columns=COLUMNS)


def _absent(*_: object, **__: object) -> None:
    raise FileNotFoundError("not here")


def test_a_row_without_both_texts_is_set_aside(tmp_path):
    place = write(tmp_path / "pairs.jsonl", [*ROWS, ("alone", None, 1)], ("text1", "text2", "score"))
    pairs, _ = read_pairs(place)
    assert len(pairs) == 3
    assert [(one.reason, one.detail) for one in pairs.rejected] == [("not a pair", "1 and 0 texts")]
    assert issubclass(EmptyDatasetError, DataError)


@pytest.mark.parametrize("place", ["", " ", "/", "//"])
def test_a_place_without_a_name_is_refused(place):
    with pytest.raises(DataError, match=f"cannot open the dataset '{place}': expected an id on the hub, such as owner"):
        read_pairs(place)


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(DataError, match=r"^x{60}: .*File name too long"):
        read_pairs("x" * 300)
