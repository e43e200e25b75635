"""Console output of `lightcrl init`: what the data is, and what the recipe makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from lightcrl.report.progress import console
from lightcrl.studies.survey.plan import Plan
from lightcrl.studies.survey.probe import probe
from lightcrl.studies.survey.proof import Proof
from lightcrl.studies.survey.tables import Survey

SHOWN = 3
"""Greatest number of examples in a list."""


def print_survey(survey: Survey) -> None:
    """Print shape, columns, splits, and the files of a sample that cannot be read."""
    _say(f"{survey.path}: {survey.title}; {survey.rows:,} rows looked at")
    table = Table(show_header=False, box=None, padding=(0, 2))
    for column in survey.columns[:20]:
        table.add_row(escape(column.name), escape(column.describe()))
    console.print(table)
    if survey.splits:
        _say("splits: " + ", ".join(f"{count:,} {split}" for split, count in survey.splits.items()))
    if survey.root is not None and survey.root != survey.path.parent:
        _say(f"paths start at {survey.root}")
    for column in survey.columns:
        if column.content in ("image", "audio") and column.samples:
            result = probe(column, survey.root)
            state = (
                f"{len(result.broken)} of {result.tried} sampled files cannot be read"
                if result.broken
                else (f"{result.tried} sampled files can be read")
            )
            _say(f"{column.name}: {state}{f', {result.detail}' if result.detail else ''}")
            for reason in result.broken[:SHOWN]:
                _say(f"  {reason}")
    for note in survey.notes:
        _say(note)


def print_recipe(files: Sequence[Path], plan: Plan, proof: Proof, better: Sequence[str]) -> None:
    """Print encoders and groups of the recipe, better encoders elsewhere, and the next commands."""
    for note in plan.notes:
        _say(note)
    for modality, spec in plan.encoders.items():
        _say(f"{modality}: {spec['model']} ({plan.reasons[f'encoders.{modality}']})")
    _say("groups: " + ", ".join(f"{count:,} {split}" for split, count in proof.groups.items()))
    if proof.rejected:
        counts = Counter(rejection.reason for rejection in proof.rejected)
        _say("set aside: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()))
    if better:
        _say("with a network, better encoders are one key away (model = ...):")
        for line in better:
            _say(f"  {line}")
    _say(f"wrote {', '.join(str(file) for file in files)}. Next:")
    name = files[0].relative_to(Path.cwd()) if files[0].is_relative_to(Path.cwd()) else files[0]
    _say(f"  lightcrl run {name} --rehearse   # what the run takes")
    _say(f"  lightcrl run {name}\n  lightcrl report runs/{proof.name}")


def to_json(survey: Survey, plan: Plan, proof: Proof, files: Sequence[Path], better: Sequence[str]) -> dict[str, Any]:
    """Return survey, recipe and proof as JSON."""
    return {
        "path": str(survey.path),
        "shape": survey.title,
        "columns": {column.name: column.content for column in survey.columns},
        "rows": survey.rows,
        "notes": [*survey.notes, *plan.notes],
        "recipe": str(files[0]),
        "tables": [str(file) for file in files[1:]],
        "encoders": {modality: str(spec["model"]) for modality, spec in plan.encoders.items()},
        "groups": proof.groups,
        "items": proof.items,
        "rejected": [str(rejection) for rejection in proof.rejected],
        "better": list(better),
    }


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
