"""The contestants of an extension study, made and trained on the same groups.

| name | new modality | old modalities |
|---|---|---|
| `extension` | what `lightcrl extend` trains | embeddings, frozen |
| `linear` | an affine map, trained with the same loss | embeddings, frozen |
| `least_squares` | an affine map, solved | embeddings, frozen |
| `procrustes` | a rotation, solved | embeddings, frozen |
| `anew` | trained | trained again, with the model's own method |

On a subset of the groups, `anew` also keeps the old items of all other groups, which the model has learnt from too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.checkpoint import Checkpoint
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import TrainingError, UnknownNameError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.table import Split, make_members
from lightcrl.files.locks import in_turn
from lightcrl.growth.extend import by_new_directions
from lightcrl.growth.groups import met_groups
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.methods import METHODS, Method
from lightcrl.methods.extension import NAME, grow
from lightcrl.methods.joining import Joining
from lightcrl.methods.spec import make_method
from lightcrl.methods.stems import MethodOptions
from lightcrl.specs import parse
from lightcrl.studies.cells import FORMAT, Cell, PeakMemory, figures, read_cell, write_cell
from lightcrl.studies.entries import Entry
from lightcrl.tasks.base import Task
from lightcrl.training.hubs import correct_hubs
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec

RIVALS: Mapping[str, str] = {
    "extension": NAME,
    "linear": "lightcrl.methods.bridge:LinearBridge",
    "least_squares": "lightcrl.methods.bridge:LeastSquares",
    "procrustes": "lightcrl.methods.bridge:Procrustes",
    "anew": "",
}
"""Contestants by name, and the method of each; `anew` has that of the model."""


@dataclass(frozen=True)
class Rival:
    """A contestant with its options.

    Attributes:
        name: a member of `RIVALS`.
        options: options on top of its defaults.
    """

    name: str
    options: Mapping[str, Any]


@dataclass
class Scene:
    """The common setting of an extension study; an `Arena` of `lightcrl.studies.compare`.

    Attributes:
        base: the model that is extended.
        recipe: recipe of the extension.
        folder: folder of the study.
        training: training settings of all contestants.
        fresh: names of the new modalities.
        seen: new modalities as features, old ones as embeddings.
        whole: all of them as features; None if old items are not at hand.
        tasks: retrieval from and to the new modalities.
        tell: function that is called with events.
    """

    base: Checkpoint
    recipe: GrowthRecipe
    folder: Path
    training: TrainingSpec
    fresh: tuple[str, ...]
    seen: Features
    whole: Features | None
    tasks: Mapping[str, Task]
    tell: Tell

    def tries(self, entry: Entry, tune: bool) -> list[tuple[dict[str, Any], Rival]]:
        """Return the entry's tries on dev: the grid of a map, and the defaults of the others.

        Raises:
            UnknownNameError: there is no such contestant.
        """
        if entry.method not in RIVALS:
            raise UnknownNameError("contestant of an extension", entry.method, RIVALS)
        path = RIVALS[entry.method]
        grid = METHODS.load(path).grid if tune and entry.method not in ("extension", "anew") else ({},)
        options = [{key: value for key, value in tried.items() if key not in entry.options} for tried in grid]
        distinct = [tried for at, tried in enumerate(options) if tried not in options[:at]]
        return [(dict(tried), Rival(entry.method, {**tried, **entry.options})) for tried in distinct]

    def train(self, label: str, spec: Rival, seed: int, groups: int | None) -> Cell:
        """Return the cell of a contestant, trained and measured if necessary.

        Raises:
            TrainingError: the contestant cannot be trained here.
        """
        features = self.features(spec.name, seed, groups)
        method = self.make(spec, seed)
        training = self.training.suited(METHODS.load(self.base.name))
        stores = [f"{name} {store.fingerprint}" for name, store in sorted(features.stores.items())]
        settings = [FORMAT, spec.name, spec.options, self.base.digest, training.identity(), seed, groups, stores]
        identity = fingerprint([*settings, method.options, "corrected", training.hubs])
        subset = "" if groups is None else f"-{groups}"
        folder = self.folder / "cells" / f"{re.sub(r'[^a-z_]', '.', spec.name)}-seed{seed}{subset}-{identity[:10]}"
        measured = fingerprint([identity, self.recipe.evaluation.split])
        if (cell := read_cell(folder, measured)) is not None:
            return cell
        with in_turn(folder, self.tell) as hold:
            cell = read_cell(folder, measured)
            if cell is None:
                held = replace(self, tell=hold.guard(self.tell))
                cell = held._train(label, spec, method, features, training, seed, folder)
                write_cell(cell, measured)
        return cell

    def features(self, name: str, seed: int, groups: int | None) -> Features:
        """Return the features of a contestant; subsets of a seed are nested, and the same for all.

        Raises:
            TrainingError: `anew` without old items.
        """
        features = self.seen
        if name == "anew":
            if self.whole is None:
                raise TrainingError("anew needs old items in the data, or stores; some are given as vectors.")
            features = self.whole
        if groups is None:
            return features
        split = self.seen.split("train")
        chosen = np.random.default_rng([seed, len(split)]).permutation(met_groups(split, self.fresh))[:groups]
        if name != "anew":
            return features.replace_split("train", split.subset(chosen))
        return features.replace_split("train", only_in(features.split("train"), self.fresh, chosen))

    def make(self, spec: Rival, seed: int) -> Method:
        """Return the method of a contestant, with initial weights."""
        loss, options = self.training.loss, dict(spec.options)
        old = [name for name in self.seen.stores if name not in self.fresh]
        fresh = {name: self.seen.specs[name] for name in self.fresh}
        if spec.name == "extension":
            return grow(self.base.method, self.base.name, fresh, old, loss, seed=seed, **options)
        if spec.name == "anew":
            assert self.whole is not None
            own = {**self.base.method.options.model_dump(mode="json"), **options}
            return make_method(self.base.name, self.whole.specs, own, loss, seed)
        given = {"dim": self.base.method.dim, "fresh": sorted(self.fresh), **options}
        kind = METHODS.load(RIVALS[spec.name])
        checked: MethodOptions = parse(kind.Options, given, "method")
        made = make_method(RIVALS[spec.name], self.seen.specs, checked.model_dump(mode="json"), loss, seed)
        assert isinstance(made, Joining)
        return made.joined_to(self.base.method)

    def _train(
        self,
        label: str,
        spec: Rival,
        method: Method,
        features: Features,
        training: TrainingSpec,
        seed: int,
        folder: Path,
    ) -> Cell:
        def report(event: Mapping[str, Any]) -> None:
            self.tell({"method": label, "seed": seed, **event})

        peak = PeakMemory()
        names = features.stores
        checkpoint = Checkpoint(
            method,
            name=RIVALS[spec.name] or self.base.name,
            loss=training.loss,
            encoders={name: self.base.encoders.get(name) or self.recipe.encoders[name] for name in names},
            fingerprints=dict.fromkeys(names, ""),
        )
        judge = by_new_directions(self.fresh, ())
        trained = train(checkpoint, features, training, folder, seed=seed, report=report, judge=judge)
        result = trained.result
        if spec.name == "anew":  # the others have the correction of the model that they join
            result = correct_hubs(checkpoint, features, training, trained, judge, report)
        memory = peak.read()
        outcomes = {name: self.measured(task, features).measure(checkpoint) for name, task in self.tasks.items()}
        plan = trained.plan
        seconds = trained.progress.seconds
        report({"event": "trained", "method": label, "seed": seed, "seconds": seconds, "folder": str(folder)})
        return Cell(
            folder,
            seed,
            len(met_groups(features.split("train"), self.fresh)),
            {name: getattr(plan, name) for name in ("batch_size", "epochs", "steps")}
            | {"steps_done": trained.progress.step},
            sum(checkpoint.parts().values()),
            round(trained.progress.seconds, 3),
            memory,
            result.metrics["mean_recall@1"],
            outcomes,
            figures(self.tasks, outcomes),
            fresh=True,
        )

    def measured(self, task: Task, features: Features) -> Any:
        """Return the task on a contestant's own features, with the same groups and queries."""
        return replace(task, features=features)  # type: ignore[type-var]


def only_in(split: Split, fresh: tuple[str, ...], chosen: np.ndarray) -> Split:
    """Return a split without new items outside of the groups `chosen`; old items stay."""
    members = dict(split.members)
    for name in fresh:
        items = members[name]
        kept = np.isin(items.groups, chosen)
        members[name] = make_members(items.rows[kept], items.groups[kept], len(split))
    return Split(len(split), members)
