"""The proof that a written recipe runs: it is read, its data is loaded, and its groups are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from lightcrl.data import Rejection, load_dataset
from lightcrl.pipeline import check_tasks
from lightcrl.recipe import load_recipe
from lightcrl.studies.survey.plan import Plan, dev_fraction
from lightcrl.studies.survey.tables import Survey
from lightcrl.studies.survey.write import write_recipe
from lightcrl.training.early import check_groups


@dataclass(frozen=True)
class Proof:
    """The data as the recipe reads it.

    Attributes:
        name: name of the run.
        groups: number of groups by split.
        items: number of unique items by modality.
        rejected: items and rows that were set aside.
    """

    name: str
    groups: dict[str, int]
    items: dict[str, int]
    rejected: tuple[Rejection, ...]


def write_and_prove(plan: Plan, survey: Survey, recipe: Path, *, force: bool = False) -> tuple[list[Path], Proof]:
    """Write a recipe and its tables, and prove it; a drawn dev split follows the number of groups found.

    Returns:
        The files written, the recipe first, and the proof.

    Raises:
        LightCRLError: see `write_recipe` and `prove`.
    """
    files, proof = write_recipe(plan, survey, recipe, force=force), prove(recipe)
    if plan.dev_fraction is not None:
        share = dev_fraction(proof.groups["train"] + proof.groups["dev"])
        if share != plan.dev_fraction:
            files = write_recipe(replace(plan, dev_fraction=share), survey, recipe, force=True)
            proof = prove(recipe)
    return files, proof


def prove(recipe: Path) -> Proof:
    """Read a recipe and its data as a run does, without encoding.

    Raises:
        LightCRLError: a run would be refused, with the same message.
    """
    parsed = load_recipe(recipe)
    check_tasks(parsed)
    dataset = load_dataset(parsed.data, parsed.kinds)
    check_groups(dataset)
    items = {modality: len(each) for modality, each in dataset.items.items()}
    return Proof(parsed.name, dict(Counter(dataset.splits)), items, tuple(dataset.rejected))
