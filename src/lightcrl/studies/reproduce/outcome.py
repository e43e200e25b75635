"""What a reproduction came to: figures beside the published ones, and what becomes of the claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl import __version__
from lightcrl.metrics.similarity import CORRELATIONS
from lightcrl.metrics.statistics import Draws, Estimate, estimate
from lightcrl.studies.cells import Cell
from lightcrl.studies.entries import Entry
from lightcrl.studies.judge import Judged
from lightcrl.studies.reproduce.claims import WORDS, Reading
from lightcrl.studies.reproduce.family import Choice, FamilyTask
from lightcrl.studies.reproduce.published import Claim, Published, Table

FORMAT = 1


@dataclass(frozen=True)
class Trained:
    """The trainings of one recipe.

    Attributes:
        recipe: its name in the family.
        cells: by label, one for each seed.
        failed: by label, why there are none.
    """

    recipe: str
    cells: Mapping[str, Sequence[Cell]]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """A task that has been measured.

    Attributes:
        name: in the family.
        spec: its table there.
        units: what is drawn anew for intervals, and how many, such as "1,000 groups".
        judged: its figures.
        readings: what becomes of the claims that show in it.
    """

    name: str
    spec: FamilyTask
    units: str
    judged: Judged
    readings: tuple[Reading, ...]

    @property
    def title(self) -> str:
        """For people."""
        return self.spec.title or self.name


@dataclass(frozen=True)
class Reproduction:
    """A family's tables, or as many as are done.

    Attributes:
        folder: where it lies.
        choice: what was asked for.
        facts: what the paper published.
        names: by label, the paper's name of the model; None where it has none.
        trained: by recipe.
        tasks: measured, in the family's order.
        finished: all of it.
    """

    folder: Path
    choice: Choice
    facts: Published
    names: Mapping[str, str | None]
    trained: tuple[Trained, ...]
    tasks: tuple[Done, ...]
    finished: bool

    def words(self) -> list[str]:
        """What becomes of each claim, in a sentence."""
        return [
            f"{claim.name}: {claim.words} {_verdict(found)}"
            for claim in self.facts.claims
            if (found := self._of(claim))
        ]

    def _of(self, claim: Claim) -> list[Reading]:
        return [reading for reading in self.readings if reading.claim == claim]

    @property
    def readings(self) -> list[Reading]:
        """What becomes of the paper's claims, in its order."""
        found = [reading for task in self.tasks for reading in task.readings]
        return sorted(found, key=lambda reading: self.facts.claims.index(reading.claim))

    def beside(self, task: Done) -> Table | None:
        """The published table of a task."""
        return None if task.spec.published is None else self.facts.table(task.spec.published)

    def to_json(self) -> dict[str, Any]:
        """What reproduction.json holds."""
        family, seeds = self.choice.family, list(self.choice.seeds)
        return {
            "format": FORMAT,
            "lightcrl": __version__,
            "family": family.name,
            "about": family.about,
            "finished": self.finished,
            "seeds": seeds,
            "published": {"source": self.facts.source, "setting": self.facts.setting},
            "models": {
                entry.label: {
                    "method": entry.method,
                    "options": dict(entry.options),
                    "published_as": self.names[entry.label],
                }
                for entry in self.choice.models
            },
            "recipes": {one.recipe: _trained(one) for one in self.trained},
            "tasks": {task.name: _task(task, self.beside(task)) for task in self.tasks},
            "words": self.words(),
            "claims": [_reading(reading) for reading in self.readings],
        }


def estimated(measure: str, found: Draws) -> Estimate:
    """A measure with its intervals."""
    return estimate(found, -1.0 if measure in CORRELATIONS else 0.0)


def _verdict(readings: Sequence[Reading]) -> str:
    """How many comparisons say what."""
    counts = Counter(WORDS[found.word] for reading in readings for found in reading.differences.values())
    total = sum(counts.values())
    if len(counts) == 1:
        return f"Here: {next(iter(counts))}, in all of {total} comparisons."
    each = ", ".join(f"{word} in {counts[word]}" for word in WORDS.values() if counts[word])
    return f"Here: {each} of {total} comparisons."


def remarks(done: Reproduction) -> list[str]:
    """What a reader of the tables has to know."""
    choice = done.choice
    said = [choice.family.about] if choice.family.about else []
    models = "; ".join(f"{entry.label} is {described(entry)}" for entry in choice.models)
    said.append(f"Models: {models}. `dfe` is this library's encoder, `lightcrl_paper` the published network.")
    for one in done.trained:
        groups = next((cells[0].groups for cells in one.cells.values() if cells), None)
        if groups is not None:
            size = choice.size(one.recipe)
            drawn = ", drawn from the training split by each seed" if size is not None else ""
            said.append(f"Models of {one.recipe} are trained on {groups:,} groups{drawn}.")
    seeds = ", ".join(map(str, choice.seeds))
    if len(choice.seeds) == 1:
        said.append(
            f"One seed ({seeds}): intervals are 95 % over items alone (bootstrap), and say nothing of trainings."
        )
    else:
        said.append(
            f"Seeds {seeds}. Intervals are 95 %, over items (bootstrap) and seeds (Student's t) together; differences "
            "are paired by items, each interval that of one comparison: of forty that do not differ, one will look as "
            "if the claim held."
        )
    said.append(f"Published figures: {done.facts.source}. {done.facts.setting}. They come without intervals.")
    said += [f"{one.recipe}: {label} failed: {why}" for one in done.trained for label, why in one.failed.items()]
    if not done.finished:
        said.append("Not finished; the same command goes on with it.")
    return said


def described(entry: Entry) -> str:
    """A model as a family has it.

    >>> described(Entry("DFE-1", "dfe", {"fusion": "addition"}))
    'dfe[fusion=addition]'
    """
    options = ",".join(f"{key}={value}" for key, value in entry.options.items())
    return f"{entry.method}[{options}]" if options else entry.method


def _trained(one: Trained) -> dict[str, Any]:
    return {
        "failed": dict(one.failed),
        "models": {label: [cell.to_json() for cell in cells] for label, cells in one.cells.items()},
        "seconds": round(float(np.sum([cell.seconds for cells in one.cells.values() for cell in cells])), 1),
    }


def _task(task: Done, beside: Table | None) -> dict[str, Any]:
    return {
        "title": task.title,
        "task": task.spec.task,
        "recipe": task.spec.recipe,
        **task.spec.settings.model_dump(mode="json"),
        "units": task.units,
        "figures": {
            label: {
                space: {measure: _figure(measure, found) for measure, found in measures.items()}
                for space, measures in spaces.items()
            }
            for label, spaces in task.judged.items()
        },
        "published": None if beside is None else {"table": task.spec.published, **beside.model_dump(mode="json")},
    }


def _figure(measure: str, found: Draws) -> dict[str, Any]:
    known = estimated(measure, found)
    return {
        "mean": known.mean,
        "seeds": known.seeds and list(known.seeds),
        "items": list(known.items),
        "both": list(known.both),
        "by_seed": found.values.tolist(),
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "claim": reading.claim.name,
        "task": reading.task,
        "space": reading.space,
        "measure": reading.measure,
        "against": reading.against,
        "word": reading.word,
        "differences": {
            label: {"difference": found.mean, "interval": list(found.interval), "word": found.word}
            for label, found in reading.differences.items()
        },
    }
