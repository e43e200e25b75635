"""The result of a reproduction: figures beside the published ones, and verdicts on the claims."""

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
        recipe: name of the recipe in the family.
        cells: one cell for each seed, by label.
        failed: reason of a failure, by label.
    """

    recipe: str
    cells: Mapping[str, Sequence[Cell]]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """A measured task.

    Attributes:
        name: name of the task in the family.
        spec: table of the task in the family.
        units: units that the bootstrap draws, with their number, such as "1,000 groups".
        judged: figures of the task.
        readings: tests of the claims about the task.
    """

    name: str
    spec: FamilyTask
    units: str
    judged: Judged
    readings: tuple[Reading, ...]

    @property
    def title(self) -> str:
        """The heading of the task's table."""
        return self.spec.title or self.name


@dataclass(frozen=True)
class Reproduction:
    """The tables of a family, or those finished so far.

    Attributes:
        folder: folder of the reproduction.
        choice: selection from the family.
        facts: figures and claims of the paper.
        names: the paper's name of each model, by label; None for a model that the paper does not have.
        trained: trainings of every recipe.
        tasks: measured tasks, in the family's order.
        finished: true if all models are trained and measured.
    """

    folder: Path
    choice: Choice
    facts: Published
    names: Mapping[str, str | None]
    trained: tuple[Trained, ...]
    tasks: tuple[Done, ...]
    finished: bool

    def words(self) -> list[str]:
        """Return a sentence with the verdict on each claim."""
        return [
            f"{claim.name}: {claim.words} {_verdict(readings)}"
            for claim in self.facts.claims
            if (readings := self._of(claim))
        ]

    def _of(self, claim: Claim) -> list[Reading]:
        return [reading for reading in self.readings if reading.claim == claim]

    @property
    def readings(self) -> list[Reading]:
        """Tests of the claims, in the paper's order."""
        readings = [reading for task in self.tasks for reading in task.readings]
        return sorted(readings, key=lambda reading: self.facts.claims.index(reading.claim))

    def beside(self, task: Done) -> Table | None:
        """Return the published table of a task, or None."""
        return None if task.spec.published is None else self.facts.table(task.spec.published)

    def to_json(self) -> dict[str, Any]:
        """Return the content of reproduction.json."""
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
            "recipes": {trained.recipe: _trained(trained) for trained in self.trained},
            "tasks": {task.name: _task(task, self.beside(task)) for task in self.tasks},
            "words": self.words(),
            "claims": [_reading(reading) for reading in self.readings],
        }


def estimated(measure: str, draws: Draws) -> Estimate:
    """Return a measure's mean and intervals, cut at the measure's least value."""
    return estimate(draws, -1.0 if measure in CORRELATIONS else 0.0)


def _verdict(readings: Sequence[Reading]) -> str:
    """Return a sentence that counts the comparisons by verdict."""
    counts = Counter(WORDS[paired.word] for reading in readings for paired in reading.differences.values())
    total = sum(counts.values())
    if len(counts) == 1:
        return f"Here: {next(iter(counts))}, in all of {total} comparisons."
    each = ", ".join(f"{word} in {counts[word]}" for word in WORDS.values() if counts[word])
    return f"Here: {each} of {total} comparisons."


def remarks(done: Reproduction) -> list[str]:
    """Return the notes for readers of the tables."""
    choice = done.choice
    notes = [choice.family.about] if choice.family.about else []
    models = "; ".join(f"{entry.label} is {described(entry)}" for entry in choice.models)
    notes.append(f"Models: {models}. `dfe` is this library's encoder, `lightcrl_paper` the published network.")
    for trained in done.trained:
        groups = next((cells[0].groups for cells in trained.cells.values() if cells), None)
        if groups is not None:
            size = choice.size(trained.recipe)
            drawn = ", drawn from the training split by each seed" if size is not None else ""
            notes.append(f"Models of {trained.recipe} are trained on {groups:,} groups{drawn}.")
    seeds = ", ".join(map(str, choice.seeds))
    if len(choice.seeds) == 1:
        notes.append(
            f"One seed ({seeds}): intervals are 95 % over items alone (bootstrap); they do not cover "
            "the variation between trainings."
        )
    else:
        notes.append(
            f"Seeds {seeds}. Intervals are 95 %, over items (bootstrap) and seeds (Student's t) together. Differences "
            "are paired by items. Each interval is that of one comparison: among forty comparisons of equal models, "
            "one claim is expected to look as if it held."
        )
    notes.append(f"Published figures: {done.facts.source}. {done.facts.setting}. They come without intervals.")
    for trained in done.trained:
        notes += [f"{trained.recipe}: {label} failed: {reason}" for label, reason in trained.failed.items()]
    if not done.finished:
        notes.append("Not finished; the same command resumes it.")
    return notes


def described(entry: Entry) -> str:
    """Return a model's method and options as family.toml writes them.

    >>> described(Entry("DFE-1", "dfe", {"fusion": "addition"}))
    'dfe[fusion=addition]'
    """
    options = ",".join(f"{key}={value}" for key, value in entry.options.items())
    return f"{entry.method}[{options}]" if options else entry.method


def _trained(trained: Trained) -> dict[str, Any]:
    return {
        "failed": dict(trained.failed),
        "models": {label: [cell.to_json() for cell in cells] for label, cells in trained.cells.items()},
        "seconds": round(float(np.sum([cell.seconds for cells in trained.cells.values() for cell in cells])), 1),
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
                space: {measure: _figure(measure, draws) for measure, draws in measures.items()}
                for space, measures in spaces.items()
            }
            for label, spaces in task.judged.items()
        },
        "published": None if beside is None else {"table": task.spec.published, **beside.model_dump(mode="json")},
    }


def _figure(measure: str, draws: Draws) -> dict[str, Any]:
    figure = estimated(measure, draws)
    return {
        "mean": figure.mean,
        "seeds": figure.seeds and list(figure.seeds),
        "items": list(figure.items),
        "both": list(figure.both),
        "by_seed": draws.values.tolist(),
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
            label: {"difference": paired.mean, "interval": list(paired.interval), "word": paired.word}
            for label, paired in reading.differences.items()
        },
    }
