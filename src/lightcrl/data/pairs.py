"""Pairs of texts with a label (similar or not) or a score (degree of similarity), for text similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data import open_sources
from lightcrl.data.base import Rejection, Row
from lightcrl.data.spec import DataSpec
from lightcrl.data.table import READERS
from lightcrl.errors import DataError, EmptyDatasetError, UnknownNameError, first_line

TEXTS = ("text1", "text2")
TRUTHS = ("label", "score")
WITHHELD = -1.0
"""The label of every pair in a split whose labels GLUE withholds."""


@dataclass(frozen=True)
class TextPairs:
    """Pairs with their labels or scores.

    Attributes:
        name: origin of the pairs, for people.
        left: N texts.
        right: N texts.
        truth: [N] float64: 1 for similar and 0 for dissimilar, or scores that rise with similarity.
        scored: true if `truth` has scores.
        rejected: rows set aside.
    """

    name: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    truth: np.ndarray
    scored: bool
    rejected: tuple[Rejection, ...] = ()

    def __len__(self) -> int:
        return len(self.left)

    def keep(self, chosen: np.ndarray, rejected: Sequence[Rejection] = ()) -> TextPairs:
        """Return the pairs where `chosen` [N] is true; `rejected` lists the others with reasons."""
        left, right = (tuple(np.array(texts, dtype=object)[chosen]) for texts in (self.left, self.right))
        return replace(self, left=left, right=right, truth=self.truth[chosen], rejected=(*self.rejected, *rejected))

    def check(self) -> None:
        """Check that the pairs differ in their labels or scores.

        Raises:
            EmptyDatasetError: there are no pairs.
            DataError: all labels or all scores are the same.
        """
        if not len(self):
            raise EmptyDatasetError(f"{self.name} has no pairs ({len(self.rejected)} rows set aside).")
        if len(np.unique(self.truth)) < 2:
            what = "score" if self.scored else "label"
            wanted = "scores that differ" if self.scored else "similar (1) and dissimilar (0) pairs"
            raise DataError(
                f"{self.name}: every one of {len(self):,} pairs has {what} {self.truth[0]:g}; expected {wanted}."
            )


def read_pairs(
    data: str, calibration: str | None = None, columns: Mapping[str, str] | None = None
) -> tuple[TextPairs, TextPairs | None]:
    """Return the pairs to measure, and the pairs that calibrate a threshold: None if the pairs have scores.

    Each is a table with the columns `text1`, `text2` and `label` or `score`; or a data set on the Hugging Face hub or
    saved by `datasets`, `owner/name` or `owner/name/configuration`. The test split of a data set is measured (dev if
    the labels of test are withheld), and its train split calibrates. A pair of `data`, in either order of its texts, is
    removed from the calibration.

    Args:
        data: path or id of the pairs.
        calibration: path or id of the calibration pairs; None takes the train split of `data`.
        columns: column names of `text1`, `text2`, `label` or `score`, where they differ.

    Raises:
        DataError: a label is missing, or neither 0 nor 1 nor a score; there is only one class; labelled pairs have
            no calibration pairs; `calibration` is the data itself, has scores, or is given for scores.
        EmptyDatasetError: there are no pairs.
        ModalityError: a text's column is missing.
    """
    columns = dict(columns or {})
    for name in columns:
        if name not in (*TEXTS, *TRUTHS):
            raise UnknownNameError("column of text pairs", name, (*TEXTS, *TRUTHS))
    by_split = _read(data, columns)
    measured = next((by_split[split] for split in (None, "test", "dev") if split in by_split), None)
    if measured is None:
        raise EmptyDatasetError(f"{data} has no pairs in a test or dev split; it has {', '.join(map(str, by_split))}.")
    measured.check()
    if measured.scored:
        if calibration is not None:
            raise DataError(f"{data} has scores, which need no threshold: leave the calibration ({calibration}) out.")
        return measured, None
    given = by_split if calibration is None else _read(calibration, columns)
    fitted = given.get("train") or (None if calibration is None else next(iter(given.values()), None))
    if fitted is None:
        raise DataError(
            f"{data} has labels, and no split to calibrate their threshold on: one chosen on the pairs it is measured "
            "on, or fixed beforehand, says little. Give the training pairs: --calibration TRAIN.jsonl."
        )
    fitted.check()
    if fitted.scored:
        raise DataError(f"{fitted.name} has scores, {measured.name} has labels; expected labels (0, 1) in both.")
    seen = {frozenset(pair) for pair in zip(measured.left, measured.right, strict=True)}
    fresh = np.array([frozenset(pair) not in seen for pair in zip(fitted.left, fitted.right, strict=True)])
    if not fresh.any():
        raise DataError(f"{fitted.name} holds no pair that {measured.name} does not; expected the training split.")
    leaks = [Rejection(f"{fitted.name}, pair {at + 1}", "leak", "also measured on") for at in np.flatnonzero(~fresh)]
    fitted = fitted.keep(fresh, leaks)
    fitted.check()
    return measured, fitted


def is_table(place: str) -> bool:
    """Return true if a name is that of a table, existing or not; other names may be data sets on the hub.

    >>> is_table("pairs.jsonl.gz"), is_table("nyu-mll/glue/mrpc")
    (True, False)
    """
    return any(suffix in READERS for suffix in Path(place).suffixes)


def _read(place: str, columns: Mapping[str, str]) -> dict[str | None, TextPairs]:
    """Return all pairs by split (None if the source has no splits), without splits whose labels are withheld."""
    # A column given for label or score excludes the other.
    truths = {name: columns[name] for name in TRUTHS if name in columns} or {name: name for name in TRUTHS}
    spec = _spec(place, {name: columns[name] for name in TEXTS if name in columns}, tuple(truths.values()))
    rows: dict[str | None, list[Row]] = {}
    rejected: list[Rejection] = []
    for _, source in open_sources(spec, dict.fromkeys(TEXTS, "text")):
        for row in source.rows():
            if isinstance(row, Rejection):
                rejected.append(row)
            else:
                rows.setdefault(row.split, []).append(row)
    if not rows:
        raise EmptyDatasetError(f"{place} has no pairs ({len(rejected)} rows set aside).")
    by_split = {split: _pairs(f"{place}[{split}]" if split else place, part, truths) for split, part in rows.items()}
    return {
        split: replace(pairs, rejected=(*pairs.rejected, *rejected))
        for split, pairs in by_split.items()
        if split is None or not (pairs.truth == WITHHELD).all()
    }


def _spec(place: str, columns: dict[str, str], notes: tuple[str, ...]) -> DataSpec:
    path = Path(place)
    try:
        table = path.is_file() or is_table(place)
    except OSError as error:  # A name that no file can have.
        raise DataError(f"{place[:60]}: {first_line(error)} Expected a table of pairs, or a dataset's id.") from None
    if table:
        return DataSpec(path=str(path.absolute()), columns=columns, options={"notes": notes})
    options: dict[str, Any] = {"notes": notes}
    owner, _, rest = place.partition("/")
    name, _, configuration = rest.partition("/")
    if configuration and not path.is_dir():
        place, options["name"] = f"{owner}/{name}", configuration
    return DataSpec(source="hub", path=place, columns=columns, options=options)


def _pairs(name: str, rows: Sequence[Row], truths: Mapping[str, str]) -> TextPairs:
    kept, aside = [], []
    for row in rows:
        if all(len(row.cells.get(text, ())) == 1 for text in TEXTS):
            kept.append(row)
        else:
            counts = " and ".join(str(len(row.cells.get(text, ()))) for text in TEXTS)
            aside.append(Rejection(row.key, "not a pair", f"{counts} texts"))
    present = {truth: column for truth, column in truths.items() if any(column in row.notes for row in kept)}
    if kept and len(present) != 1:
        raise DataError(
            f"{name}: found {'both columns' if present else 'neither column'} {' and '.join(truths.values())}; "
            "expected one, with labels (0, 1) or with scores. Name it: --column label=COLUMN or --column score=COLUMN."
        )
    values = [_number(row, column) for column in present.values() for row in kept]
    truth = np.array(values, dtype=np.float64)
    scored = "score" in present
    if not scored and not np.isin(truth, (0, 1, WITHHELD)).all():
        # The hub's STS-B calls its scores labels.
        scored = bool((truth % 1 != 0).any())
    if not scored and not (np.isin(truth, (0, 1)).all() or (truth == WITHHELD).all()):
        odd = sorted({value for value in truth.tolist() if value not in (0, 1)})
        raise DataError(
            f"{name}: found labels {', '.join(f'{value:g}' for value in odd[:5])}; expected 1 (similar) and 0 "
            "(dissimilar). If they are scores that rise with similarity, say --column score=COLUMN."
        )
    left, right = (tuple(str(row.cells[text][0].read()) for row in kept) for text in TEXTS)
    return TextPairs(name, left, right, truth, scored, tuple(aside))


def _number(row: Row, column: str) -> float:
    value = row.notes.get(column)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        content = "no value" if value is None or value == "" else repr(value)
        raise DataError(f"{row.key}: found {content} in column {column!r}; expected a label (0 or 1) or a score.")
    return float(number)
