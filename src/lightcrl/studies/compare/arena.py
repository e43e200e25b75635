"""The contestants of a comparison, as it sees them: their tries, and a cell for each training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightcrl.methods.spec import MethodSpec
from lightcrl.studies.cells import Cell, Ground, find_or_train
from lightcrl.studies.entries import Entry, tries
from lightcrl.tasks.base import Task


class Subject(Protocol):
    """The recipe of a comparison, as its reports name it."""

    @property
    def name(self) -> str:
        """Name of the recipe."""
        ...

    @property
    def evaluation(self) -> Any:
        """Settings of the evaluation; `split` names the split of the figures."""
        ...


class Arena(Protocol):
    """The common setting of all contestants.

    Attributes:
        folder: folder of the comparison.
        tasks: prepared tasks by label.
    """

    folder: Path
    tasks: Mapping[str, Task]

    @property
    def recipe(self) -> Subject:
        """The recipe of all trainings."""
        ...

    def tries(self, entry: Entry, tune: bool) -> list[tuple[dict[str, Any], Any]]:
        """Return the entry's tries on dev: changed options, and the contender with them; the first are the defaults."""
        ...

    def train(self, label: str, spec: Any, seed: int, groups: int | None) -> Cell:
        """Return the cell of a contender, trained on all groups or on a subset, and measured."""
        ...


@dataclass
class MethodArena:
    """Methods on the same features (`lightcrl.studies.cells`)."""

    ground: Ground

    def __post_init__(self) -> None:
        self.recipe, self.folder, self.tasks = self.ground.recipe, self.ground.folder, self.ground.tasks

    def tries(self, entry: Entry, tune: bool) -> list[tuple[dict[str, Any], MethodSpec]]:
        """Return the method's grid, or its defaults alone."""
        return tries(entry, self.ground.recipe, tune)

    def train(self, label: str, spec: MethodSpec, seed: int, groups: int | None) -> Cell:
        """Return the cell of a method."""
        return find_or_train(self.ground, label, spec, seed, groups)
