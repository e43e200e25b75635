"""A reproduction as tables: for the console, and as Markdown that fits into a page of documentation."""

from __future__ import annotations

from collections.abc import Mapping

from lightcrl.metrics.statistics import Difference, Draws
from lightcrl.sheets import Sheet, markdown_table
from lightcrl.studies.reproduce.claims import Reading
from lightcrl.studies.reproduce.outcome import Done, Reproduction, estimated, remarks
from lightcrl.studies.reproduce.published import RAW, Table
from lightcrl.tasks.base import EMBEDDING

SMALL = 0.1
"""Shares below this have two decimals of a per cent."""

HEADINGS = {"similar/f1": "similar F1", "dissimilar/f1": "dissimilar F1"}


def markdown(done: Reproduction) -> str:
    """Remarks, a table for each task, and what becomes of the claims."""
    lines = [f"# {done.choice.family.name}: the paper's tables", "", *[f"- {one}" for one in remarks(done)], ""]
    if words := done.words():
        lines += ["## The claims", "", *[f"- {one}" for one in words], ""]
    for sheet in sheets(done):
        lines += [f"## {sheet.title}", "", *markdown_table(sheet.headings, sheet.rows)]
        lines += [sheet.note, ""] if sheet.note else []
    return "\n".join(lines)


def sheets(done: Reproduction) -> list[Sheet]:
    """A table for each task, then that of the claims."""
    found = [_task(done, task) for task in done.tasks]
    return [*found, _claims(done)] if done.readings else found


def heading(measure: str) -> str:
    """A measure's name for people.

    >>> [heading(name) for name in ("epoch20/top1", "precision@10", "similar/f1", "dissimilar/recall")]
    ['20 epochs', 'P@10', 'similar F1', 'dissimilar recall']
    """
    if measure.startswith("epoch"):
        return f"{measure.removeprefix('epoch').removesuffix('/top1')} epochs"
    return HEADINGS.get(measure, measure.replace("precision@", "P@").replace("/", " "))


def figure(measure: str, found: Draws) -> str:
    """In per cent, with the interval over items and seeds."""
    known = estimated(measure, found)
    digits = 1 if abs(known.mean) >= SMALL else 2
    mean, low, high = (f"{100 * value:.{digits}f}" for value in (known.mean, *known.both))
    return f"{mean} ({low}–{high})"


def _task(done: Reproduction, task: Done) -> Sheet:
    """Every model's figures, and under each what the paper has for it."""
    judged, beside = task.judged, done.beside(task)
    measures = list(dict.fromkeys(name for spaces in judged.values() for found in spaces.values() for name in found))
    rows: list[tuple[str, ...]] = []
    models = {*done.facts.operations.values(), *done.facts.methods.values()}
    for label, spaces in judged.items():
        for space, found in spaces.items():
            cells = [figure(name, found[name]) if name in found else "" for name in measures]
            rows.append((_name(label, space), *cells))
        names = [done.names.get(label)] if label != RAW else [name for name in _rows(beside) if name not in models]
        rows += [_published(name, beside, measures) for name in names if name in _rows(beside)]
    return Sheet(f"{task.title}, %", ("model", *map(heading, measures)), rows, _note(done, task, beside))


def _rows(beside: Table | None) -> Mapping[str, tuple[float, ...]]:
    return {} if beside is None else beside.rows


def _published(name: str | None, beside: Table | None, measures: list[str]) -> tuple[str, ...]:
    """The paper's row of a model or an encoder."""
    assert beside is not None
    assert name is not None
    known = dict(zip(beside.measures, beside.rows[name], strict=True))
    return (f"*published: {name}*", *(f"*{known[one]:.2f}*" if one in known else "" for one in measures))


def _name(label: str, space: str) -> str:
    """A row's name: the model, and in which space where there are several.

    >>> _name("DFE-1", "embedding"), _name("DFE-1", "image_to_text"), _name("raw", "raw image")
    ('DFE-1', 'DFE-1, image → text', 'raw image')
    """
    if label == RAW:
        return space
    return label if space == EMBEDDING else f"{label}, {space.replace('_to_', ' → ').removeprefix('aligned ')}"


def _note(done: Reproduction, task: Done, beside: Table | None) -> str:
    said = [f"Intervals draw {task.units} anew."]
    if beside is not None:
        said.append(f"The published figures are of {beside.data}." if beside.rows else "")
        said.append(beside.note)
    return " ".join(one for one in said if one)


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
    note = (
        "Differences in points; a claim holds where the whole interval is above zero, and does not where it is below."
    )
    return Sheet("The claims, comparison by comparison", ("claim", "where", "at this size", *labels), rows, note)


def _place(reading: Reading) -> str:
    space = "" if reading.space == EMBEDDING else f"{_name('', reading.space).removeprefix(', ')}, "
    return f"{space}{heading(reading.measure)}, against {reading.against}"


def points(found: Difference) -> str:
    """A difference in points with its interval.

    >>> points(Difference(0.0312, (0.018, 0.0449)))
    '+3.1 (+1.8 to +4.5)'
    """
    digits = 1 if max(map(abs, found.interval)) >= SMALL / 10 else 2
    mean, low, high = (f"{100 * value:+.{digits}f}" for value in (found.mean, *found.interval))
    return f"{mean} ({low} to {high})"
