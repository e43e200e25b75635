"""The first recipe for a survey: modalities, their columns and encoders, groups and splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightcrl.data.files import SPLITS, some
from lightcrl.errors import DataError, EncoderNotFoundError, ModalityError, UnknownNameError
from lightcrl.studies.survey.columns import Column
from lightcrl.studies.survey.models import Candidate, usable
from lightcrl.studies.survey.tables import Survey, read_cells, set_name

PREFERRED = (
    "caption",
    "captions",
    "text",
    "sentence",
    "description",
    "title",
    "name",
    "prompt",
    "report",
    "transcript",
)
"""Names of columns of texts that are taken first."""
TRUTHS = ("label", "score", "similarity", "is_duplicate", "gold_label", "relatedness_score", "target")
"""Names of columns that say whether two texts mean the same."""
KEYS = ("key", "group", "image_id", "img_id", "id", "product_id", "sku", "item_id", "pair_id", "doc_id", "index")
"""Names of columns that name a group, if several rows share a value."""
DEV_GROUPS, TENTH, QUARTER = 50, 0.1, 0.25
"""Number of groups that a drawn dev split should have, and the least and the greatest share of all groups for it."""
SIMILAR = 0.8
"""Least score of a pair that belongs together, as a share of the greatest score."""


@dataclass(frozen=True)
class Plan:
    """A recipe in the making.

    Attributes:
        data: the `[data]` table, paths absolute.
        encoders: the `[encoders.<modality>]` tables.
        evaluation: the `[evaluation]` table.
        tables: rows of tables to write, by split; None is the split of all.
        reasons: remark for a key of the recipe, by `section.key`.
        notes: remarks for the user.
        dev_fraction: share of the groups to draw into dev; None if the data has a dev split of its own.
    """

    data: Mapping[str, Any]
    encoders: Mapping[str, Mapping[str, Any]]
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str | None, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dev_fraction: float | None = None


def choose_columns(survey: Survey, given: Mapping[str, str] | None = None) -> dict[str, Column]:
    """Return the column of every modality: the given ones, otherwise those that form pairs.

    Pictures and sounds come first, with the best column of texts; two columns of texts if there is neither; then
    columns of vectors, and at last labels, as far as they are needed for a pair.

    Raises:
        DataError: fewer than two columns hold items that belong together.
        ModalityError: a given column is missing.
    """
    by_name = {column.name: column for column in survey.columns}
    if given:
        for column in given.values():
            if column not in by_name:
                raise ModalityError(f"--column: {UnknownNameError('column', column, by_name)}")
        return {modality: by_name[column] for modality, column in given.items()}
    usable_now = survey.usable
    media = [column for column in usable_now if column.content in ("image", "audio")]
    texts = sorted((column for column in usable_now if column.content == "text"), key=_preference)
    arrays = [column for column in usable_now if column.content == "vectors"] if survey.source == "vectors" else []
    chosen = arrays if len(arrays) > 1 else [*arrays, *media, *texts[: 1 if media or arrays else 2]]
    for content in ("vectors", "label"):
        if len(chosen) < 2 and not (arrays and content == "vectors"):
            chosen += [column for column in survey.columns if column.content == content]
            chosen = chosen if content == "vectors" else chosen[:2]
    if len(chosen) < 2:
        raise DataError(_unpaired(survey, chosen))
    names = _modality_names(chosen)
    return dict(zip(names, chosen, strict=True))


def recipe_name(data: Path) -> str:
    """Return a name for the recipe: that of the table or folder, without a split."""
    path = data.absolute()
    if path.is_file():
        path = path.parent if path.stem.lower() in SPLITS else path.with_name(set_name(path).partition(".")[0])
    return re.sub(r"[^A-Za-z0-9]+", "_", path.name).strip("_") or "mine"


def _preference(column: Column) -> tuple[int, float]:
    """Return the place of a column among texts: well-known names first, then long texts."""
    name = column.name.lower().rpartition(":")[2]
    stem = name.rstrip("0123456789_")
    return (PREFERRED.index(stem) if stem in PREFERRED else len(PREFERRED), -column.words)


def _modality_names(columns: Sequence[Column]) -> list[str]:
    """Return a name for the modality of each column: its kind if no other has it, else the column's own name."""
    kinds = [column.content for column in columns]
    names: list[str] = []
    for column in columns:
        kind = "text" if column.content == "label" else column.content
        own = re.sub(r"_?(emb|embs|embedding|embeddings|vector|vectors|features)$", "", column.name.rpartition(":")[2])
        own = {"img": "image"}.get(own, re.sub(r"\W+", "_", own.removesuffix(".npy")).strip("_") or kind)
        name = kind if kinds.count(column.content) == 1 and kind != "vectors" else own
        while name in names:
            name += "_2"
        names.append(name)
    return names


def _unpaired(survey: Survey, chosen: Sequence[Column]) -> str:
    listed = "; ".join(f"{column.name}: {column.describe()}" for column in survey.columns[:8]) or "no columns"
    missing = f"{chosen[0].name} stands alone" if chosen else "no column has pictures, sounds, texts or vectors"
    return (
        f"{survey.path} has no pairs: {missing} ({listed}). Training needs two columns whose cells of a row belong "
        "together, such as image and caption. Add one, or name the columns: --column image=COLUMN --column text=COLUMN."
    )


def make_plan(
    survey: Survey,
    columns: Mapping[str, Column],
    candidates: Sequence[Candidate],
    *,
    encoders: Mapping[str, str] | None = None,
    key: str | None = None,
    split_column: str | None = None,
) -> Plan:
    """Return the recipe for a survey.

    Args:
        survey: the data.
        columns: column by modality.
        candidates: encoders on this machine, the best of each kind first.
        encoders: given model by modality.
        key: given column of the group's name.
        split_column: given column of the split.

    Raises:
        EncoderNotFoundError: no encoder of a kind works on this machine.
        ModalityError: `encoders` names an unknown modality.
    """
    for modality in encoders or {}:
        if modality not in columns:
            raise ModalityError(f"--encoder: {UnknownNameError('modality', modality, columns)}")
    notes: list[str] = []
    reasons: dict[str, str] = {}
    data: dict[str, Any] = {"source": survey.source, **survey.settings}
    if survey.source == "table":
        del data["source"]
    named = {modality: column.name for modality, column in columns.items() if column.name != modality}
    if named and survey.source not in ("folder", "synthetic"):
        data["columns"] = {modality: column.name for modality, column in columns.items()}
    if split_column:
        data["split_column"] = split_column
    if key or (key := _find_key(survey, columns)):
        data["key"] = key
        reasons["data.key"] = "rows of equal value are one group"
    tables = survey.made
    evaluation: dict[str, Any] = {}
    if _kinds(columns) == ["text", "text"]:
        tables, evaluation, words = _similar_pairs(survey, columns)
        notes += words
    if tables:
        for name in ("path", "train", "dev", "test"):
            data.pop(name, None)
    if survey.source == "folder" and survey.held_out:
        evaluation["zero_shot"] = {"data": survey.held_out}
        reasons["evaluation.zero_shot"] = "classes that no caption of this split was trained on"
    specs: dict[str, dict[str, Any]] = {}
    for modality, column in columns.items():
        specs[modality], reasons[f"encoders.{modality}"] = _encoder(modality, column, candidates, encoders or {}, notes)
    drawn = not {"dev", "split_column"} & data.keys() and "dev" not in (*survey.splits, *tables)
    share = dev_fraction(survey.rows) if drawn else None
    return Plan(data, specs, evaluation, tables, reasons, tuple(notes), share)


def dev_fraction(groups: int) -> float:
    """Return the share of some groups to draw into dev: a tenth, or more to have `DEV_GROUPS`, at most a quarter.

    With a tenth of few groups the best checkpoint is chosen by chance, and `check` has too few to look at.

    >>> dev_fraction(6000), dev_fraction(300), dev_fraction(100)
    (0.1, 0.17, 0.25)
    """
    return max(TENTH, min(QUARTER, round(DEV_GROUPS / max(1, groups), 2)))


def _kinds(columns: Mapping[str, Column]) -> list[str]:
    return [column.content for column in columns.values()]


def _find_key(survey: Survey, columns: Mapping[str, Column]) -> str | None:
    """Return the column of the group's name, where neither a picture nor a sound names it."""
    if set(_kinds(columns)) & {"image", "audio"} or survey.source in ("folder", "webdataset"):
        return None
    taken = {column.name for column in columns.values()}
    for column in survey.columns:
        likely = column.name.lower() in KEYS or column.name.lower().endswith(("_id", "_key", "_group", "_path", "url"))
        if (
            likely
            and column.name not in taken
            and column.content in ("id", "number", "label", "text")
            and column.repeats
        ):
            return column.name
    return None


def _encoder(
    modality: str, column: Column, candidates: Sequence[Candidate], given: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, Any], str]:
    """Return the table of a modality's encoder, and the reason for it."""
    kind = {"label": "text"}.get(column.content, column.content)
    if kind == "vectors":
        maker = given.get(modality, f"{modality} vectors")
        return {"kind": kind, "model": maker}, "the name of the program that made the vectors identifies them"
    if modality in given:
        return {"kind": kind, "model": given[modality]}, "as asked for"
    for candidate in (candidate for candidate in candidates if candidate.kind == kind):
        if (reason := usable(candidate)) is None:
            precision = {} if candidate.model == "builtin" else {"dtype": "auto"}
            return {"kind": kind, "model": candidate.model, **precision}, candidate.place
        if (note := f"{candidate.model} cannot be used: {reason}") not in notes:
            notes.append(note)
    raise EncoderNotFoundError(
        f"no encoder of kind {kind!r} on this machine for {modality!r}. Expected a folder or hub id of a model: "
        f"--encoder {modality}=FOLDER; or the built-in encoders, without weights: pip install 'lightcrl[builtin]'."
    )


def _similar_pairs(
    survey: Survey, columns: Mapping[str, Column]
) -> tuple[Mapping[str | None, Sequence[Mapping[str, Any]]], dict[str, Any], list[str]]:
    """Return the pairs that belong together by split, the task that measures all of them, and remarks.

    Pairs of texts often come with a label or a score; pairs that do not belong together are no positives.
    """
    truth = next((column for column in survey.columns if column.name.lower() in TRUTHS), None)
    if truth is None or truth.content not in ("number", "label"):
        return {}, {}, []
    files = {split: Path(survey.settings[split]) for split in ("train", "dev", "test") if split in survey.settings}
    paths: dict[str | None, Path] = dict(files.items())
    if not paths:
        paths[None] = Path(survey.settings["path"])
    rows = {
        split: [row for row in read_cells(path)[0] if _number(row, truth.name) is not None]
        for split, path in paths.items()
    }
    greatest = max((_number(row, truth.name) or 0.0 for part in rows.values() for row in part), default=1.0)
    if greatest <= 0:
        return {}, {}, []
    labelled = {_number(row, truth.name) for part in rows.values() for row in part} <= {0.0, 1.0}
    names = [column.name for column in columns.values()]
    kept = {
        split: [
            {name: row[name] for name in names}
            for row in part
            if (_number(row, truth.name) or 0.0) >= SIMILAR * greatest
        ]
        for split, part in rows.items()
    }
    measured = survey.held_out or str(files.get("test") or files.get("dev") or "")
    task: dict[str, Any] = {}
    if measured:
        given = {"text1": names[0], "text2": names[1], "label" if labelled else "score": truth.name}
        differ = {key: name for key, name in given.items() if key != name}
        task = {"data": measured, **({"columns": differ} if differ else {})}
        if labelled:
            task["calibration"] = str(next(iter(paths.values())))
    share = sum(map(len, kept.values())) / max(1, sum(map(len, rows.values())))
    what = f"{truth.name} = 1" if labelled else f"{truth.name} >= {SIMILAR * greatest:g} of {greatest:g}"
    remark = f"only pairs with {what} are trained on ({share:.0%} of {some([path.name for path in paths.values()])})"
    return kept, {"text_similarity": task} if task else {}, [remark]


def _number(row: Mapping[str, Any], name: str) -> float | None:
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):
        return None
