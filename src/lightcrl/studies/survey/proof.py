"""The proof that a written recipe runs: it is read, its data is loaded, and its groups are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lightcrl.data import Rejection, load_dataset
from lightcrl.pipeline import check_tasks
from lightcrl.recipe import load_recipe
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
