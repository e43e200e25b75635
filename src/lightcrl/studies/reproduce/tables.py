"""The tables of a reproduction, for the console and as Markdown for a page of documentation."""

from __future__ import annotations

from collections.abc import Mapping

from lightcrl.metrics.statistics import Difference, Draws
from lightcrl.sheets import Sheet, markdown_sheet
from lightcrl.studies.reproduce.claims import Reading
from lightcrl.studies.reproduce.outcome import Done, Reproduction, estimated, remarks
from lightcrl.studies.reproduce.published import RAW, Table
from lightcrl.tasks.base import EMBEDDING

SMALL = 0.1
"""Shares below this value are given in per cent with two decimals."""

HEADINGS = {"similar/f1": "similar F1", "dissimilar/f1": "dissimilar F1"}


def markdown(done: Reproduction) -> str:
    """Return Markdown with the notes, the verdicts on the claims and a table for each task."""
    lines = [f"# {done.choice.family.name}: the paper's tables", "", *[f"- {note}" for note in remarks(done)], ""]
    if words := done.words():
        lines += ["## The claims", "", *[f"- {verdict}" for verdict in words], ""]
    for sheet in sheets(done):
        lines += markdown_sheet(sheet)
    return "\n".join(lines)


def sheets(done: Reproduction) -> list[Sheet]:
    """Return a table for each task, then the table of the claims."""
    tables = [_task(done, task) for task in done.tasks]
    return [*tables, _claims(done)] if done.readings else tables


def heading(measure: str) -> str:
    """Return the heading of a measure.

    >>> [heading(name) for name in ("epoch20/top1", "precision@10", "similar/f1", "dissimilar/recall")]
    ['20 epochs', 'P@10', 'similar F1', 'dissimilar recall']
    """
    if measure.startswith("epoch"):
        return f"{measure.removeprefix('epoch').removesuffix('/top1')} epochs"
    return HEADINGS.get(measure, measure.replace("precision@", "P@").replace("/", " "))


def figure(measure: str, draws: Draws) -> str:
    """Return a figure in per cent, with the interval over items and seeds."""
    total = estimated(measure, draws)
    digits = 1 if abs(total.mean) >= SMALL else 2
    mean, low, high = (f"{100 * value:.{digits}f}" for value in (total.mean, *total.both))
    return f"{mean} ({low}–{high})"


def _task(done: Reproduction, task: Done) -> Sheet:
    """Return the table of a task: the figures of every model, and the published ones below them."""
    judged, beside = task.judged, done.beside(task)
    measures = list(
        dict.fromkeys(name for spaces in judged.values() for figures in spaces.values() for name in figures)
    )
    rows: list[tuple[str, ...]] = []
    models = {*done.facts.operations.values(), *done.facts.methods.values()}
    for label, spaces in judged.items():
        for space, figures in spaces.items():
            cells = [figure(name, figures[name]) if name in figures else "" for name in measures]
            rows.append((_name(label, space), *cells))
        names = [done.names.get(label)] if label != RAW else [name for name in _rows(beside) if name not in models]
        rows += [_published(name, beside, measures) for name in names if name in _rows(beside)]
    return Sheet(f"{task.title}, %", ("model", *map(heading, measures)), rows, _note(done, task, beside))


def _rows(beside: Table | None) -> Mapping[str, tuple[float, ...]]:
    return {} if beside is None else beside.rows


def _published(name: str | None, beside: Table | None, measures: list[str]) -> tuple[str, ...]:
    """Return the published row of a model or an encoder."""
    assert beside is not None
    assert name is not None
    figures = dict(zip(beside.measures, beside.rows[name], strict=True))
    cells = (f"*{figures[measure]:.2f}*" if measure in figures else "" for measure in measures)
    return (f"*published: {name}*", *cells)


def _name(label: str, space: str) -> str:
    """Return a row's name: the model, and the space if the model has several.

    >>> _name("DFE-1", "embedding"), _name("DFE-1", "image_to_text"), _name("raw", "raw image")
    ('DFE-1', 'DFE-1, image → text', 'raw image')
    """
    if label == RAW:
        return space
    return label if space == EMBEDDING else f"{label}, {space.replace('_to_', ' → ').removeprefix('aligned ')}"


def _note(done: Reproduction, task: Done, beside: Table | None) -> str:
    notes = [f"Intervals draw {task.units} anew."]
    if beside is not None:
        notes.append(f"The published figures are of {beside.data}." if beside.rows else "")
        notes.append(beside.note)
    return " ".join(filter(None, notes))


def _claims(done: Reproduction) -> Sheet:
    labels = list(dict.fromkeys(label for reading in done.readings for label in reading.differences))
    rows = [
        (
            reading.claim.name,
            f"{reading.task}: {_place(reading)}",
            reading.word,
            *(points(reading.differences[label]) if label in reading.differences else "" for label in labels),
        )
        for reading in done.readings
    ]
    note = "Differences in points. A claim holds if its whole interval is above zero, and does not if it is below zero."
    return Sheet("The claims, comparison by comparison", ("claim", "where", "at this size", *labels), rows, note)


def _place(reading: Reading) -> str:
    space = "" if reading.space == EMBEDDING else f"{_name('', reading.space).removeprefix(', ')}, "
    return f"{space}{heading(reading.measure)}, against {reading.against}"


def points(difference: Difference) -> str:
    """Return a difference in percentage points with its interval.

    >>> points(Difference(0.0312, (0.018, 0.0449)))
    '+3.1 (+1.8 to +4.5)'
    """
    digits = 1 if max(map(abs, difference.interval)) >= SMALL / 10 else 2
    mean, low, high = (f"{100 * value:+.{digits}f}" for value in (difference.mean, *difference.interval))
    return f"{mean} ({low} to {high})"
