"""Extension of a model, from a recipe to a checkpoint: new modalities are trained, all old weights stay bit for bit.

The folder of an extended model:

recipe.json       the recipe with all defaults
rejected.jsonl    rejected items with reasons
anchors/          embeddings of old modalities
training/         best/, last/ and log.jsonl of the training of the new modalities
best/             the extended model; `lightcrl.load` takes the folder
extension.json    new modalities, figures, and the proof that old weights and embeddings are unchanged
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightcrl.checkpoint import Checkpoint, load_checkpoint, write_layout
from lightcrl.data.base import write_rejected
from lightcrl.embedder import Embedder, load
from lightcrl.encoders import settled
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.contents import training_data
from lightcrl.features.embed import embed_split, embed_together
from lightcrl.files.local import make_folder, write_json
from lightcrl.files.locks import only_writer
from lightcrl.growth.groups import Groups, met_groups, open_groups
from lightcrl.growth.history import dated_like, make_step
from lightcrl.growth.proof import Proof, prove
from lightcrl.growth.refusals import Growth, check_apart, check_growth
from lightcrl.growth.replacement import Replacement, measure_replacement
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.heads.state import TrainedHead
from lightcrl.methods import METHODS, Method
from lightcrl.methods.extension import NAME, Extension, grow, grown_up
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.processes import is_main, launched, main_first, wait_for_everyone
from lightcrl.training.judge import Judge, Judgement, judge_ranks
from lightcrl.training.loop import Trained, train
from lightcrl.training.refusals import Combination, check_combination
from lightcrl.training.spec import TrainingSpec


@dataclass(frozen=True)
class Extended:
    """Result of an extension.

    Attributes:
        folder: folder of the extended model; `lightcrl.load` takes it.
        added: new modalities.
        replaced: modality whose encoder was replaced; None if modalities were added.
        partners: old modalities in the training.
        parameters: number of trained parameters.
        seconds: duration of the training in seconds, its evaluations included.
        split: split of the figures.
        result: retrieval in every direction from and to a modality that was trained.
        emergent: those directions between modalities that never met in this training.
        proof: proof that old weights and embeddings are unchanged.
        replacement: recall with the old and a new index; None unless an encoder was replaced and its old embeddings and
            another modality take part.
    """

    folder: Path
    added: tuple[str, ...]
    replaced: str | None
    partners: tuple[str, ...]
    parameters: int
    seconds: float
    split: str
    result: Result
    emergent: tuple[str, ...]
    proof: Proof
    replacement: Replacement | None

    def to_json(self) -> dict[str, Any]:
        """Return the content of extension.json."""
        return {
            "added": list(self.added),
            "replaced": self.replaced,
            "partners": list(self.partners),
            "parameters": self.parameters,
            "seconds": round(self.seconds, 3),
            "split": self.split,
            "retrieval": self.result.to_json(),
            "emergent": list(self.emergent),
            "unchanged": self.proof.to_json(),
            "replacement": self.replacement.to_json() if self.replacement else None,
        }


def extend(
    model: Path | str,
    recipe: GrowthRecipe | Path | str,
    *,
    replace: str | None = None,
    overrides: Iterable[str] = (),
    output: Path | str | None = None,
    encoders: Mapping[str, Path | str] | None = None,
    trust_remote_code: bool = False,
    tell: Tell = lambda event: None,
) -> Extended:
    """Add modalities to a model, or replace the encoder of one of its modalities; everything else stays bit for bit.

    The same call resumes a stopped extension.

    Args:
        model: a run's folder, a checkpoint's folder or a hub id.
        recipe: recipe of the extension, or its file.
        replace: modality whose encoder the recipe replaces; by default the recipe's modalities are added.
        overrides: changes of the file's keys, `section.key=value`.
        output: folder of the extended model, in place of the recipe's.
        encoders: current folders of the model's encoders by modality, where they differ from those in training.
        trust_remote_code: see `lightcrl.load`.
        tell: function that is called with events.

    Raises:
        GrowthError: the extension is in `lightcrl.growth.refusals.REFUSALS`, or `output` is the model's own folder.
        LockedError: another process writes into the folder.
        LightCRLError: the recipe, the data or the machine does not allow the extension.
    """
    recipe = GrowthRecipe.opened(recipe, model, overrides, output)
    embedder = load(model, encoders=encoders, trust_remote_code=trust_remote_code)
    if not is_main():
        return _extend(model, embedder, recipe, replace, tell)
    with only_writer(recipe.folder, tell) as hold:
        return _extend(model, embedder, recipe, replace, hold.guard(tell))


def _extend(model: Path | str, embedder: Embedder, recipe: GrowthRecipe, replaced: str | None, tell: Tell) -> Extended:
    base = embedder.checkpoint
    partners, others = sides(recipe, base.method, replaced)
    fresh, part = tuple(sorted(recipe.encoders)), (*partners, *others)
    given = (*recipe.stores, *recipe.vectors, *recipe.weights)
    check_growth(Growth(base.method, fresh, replaced, part, given, tuned=tuple(recipe.tuning)))
    folder = make_folder(recipe.folder)
    with main_first():
        groups = open_groups(embedder, recipe, partners, others, folder / "anchors", tell)
    if is_main():
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        write_rejected(groups.rejected, folder / "rejected.jsonl")
    training, trained = _train(base, recipe, partners, groups, folder / "training", tell)
    measured = measure(recipe, replaced, groups, training.method)
    if is_main():
        grown = grown_checkpoint(base, training, recipe, replaced, groups, measured.result)
        dated_like(grown, folder).save(folder / "best")
        write_layout(folder, "best")
    wait_for_everyone()
    # Both models come from disk and run on the CPU, since another device computes other bits.
    proof = prove(load_checkpoint(model), load_checkpoint(folder), fresh)
    done = _extended(recipe, replaced, partners, measured, training, trained, proof)
    if is_main():
        write_json(folder / "extension.json", done.to_json())
    return done


def sides(recipe: GrowthRecipe, method: Method, replaced: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the old modalities in training, and those that are only measured.

    By default all old modalities outside `evaluation.others` take part in training. If there are others, the old
    embeddings of the replaced modality are only measured: they lack the improvements of the new encoder (docs/LOG.md).
    """
    others = recipe.evaluation.others
    if recipe.partners is not None:
        return recipe.partners, others
    partners = tuple(name for name in method.modalities if name not in others)
    if replaced in partners and len(partners) > 1:
        return tuple(name for name in partners if name != replaced), (*others, replaced)
    return partners, others


def _train(
    base: Checkpoint, recipe: GrowthRecipe, partners: tuple[str, ...], groups: Groups, place: Path, tell: Tell
) -> tuple[Checkpoint, Trained]:
    """Train the new modalities; all old modalities are embeddings."""
    spec = growth_training(recipe.training, base)
    # The loop sees an `Extension`, and cannot check the method below it.
    check_combination(Combination(type(base.method), (), launched(), spec.loss, base.method.options))
    fresh = {name: groups.features.specs[name] for name in recipe.encoders}
    weights = {groups.names[name]: weight for name, weight in recipe.weights.items()}
    method = grow(base.method, base.name, fresh, groups.names.values(), spec.loss, seed=recipe.seed, weights=weights)
    owner = {anchor: name for name, anchor in groups.names.items()}
    encoders = {name: settled(spec, groups.encoders[name]) for name, spec in recipe.encoders.items()}
    seen = groups.only({*fresh, *(groups.names[name] for name in partners)})
    split = seen.split("train")
    if len(met := met_groups(split, fresh)) < len(split):  # groups of old items alone teach a new modality nothing
        seen = seen.replace_split("train", split.subset(met))
    checkpoint = Checkpoint(
        method,
        name=NAME,
        loss=spec.loss,
        encoders={anchor: base.encoders[name] for anchor, name in owner.items()} | encoders,
        fingerprints={anchor: base.fingerprints[name] for anchor, name in owner.items()}
        | {name: encoder.fingerprint for name, encoder in groups.encoders.items()},
        recipe={"name": recipe.name},
        data=training_data(seen),
    )
    apart = {groups.names[name] for name in recipe.encoders if name in groups.names}
    name = {"method": f"{base.name} with {', '.join(fresh)}", "seed": recipe.seed}
    trained = train(
        checkpoint,
        seen,
        spec,
        place,
        seed=recipe.seed,
        report=lambda event: tell({**name, **event}),
        judge=by_new_directions(fresh, apart),
    )
    tell({"event": "trained", **name, "seconds": trained.progress.seconds, "folder": str(place)})
    return checkpoint, trained


def growth_training(spec: TrainingSpec, base: Checkpoint) -> TrainingSpec:
    """Return the training settings with `"auto"` resolved for the method of `base`; its loss is that of `base`."""
    if spec.loss == "auto":
        spec = spec.model_copy(update={"loss": base.loss})
    return spec.suited(METHODS.load(base.name))


def by_new_directions(fresh: Iterable[str], apart: Iterable[str]) -> Judge:
    """Return a judge by mean R@1 on dev from and to the new modalities.

    Old embeddings of the same items (`apart`) count only if there are no other old modalities.
    """
    new, skipped = set(fresh), set(apart)

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        vectors, links = embed_together(method, features, features.split("dev"))
        kept = links.keys() - skipped
        retrieval = Retrieval({name: links[name] for name in (kept if len(kept) > len(new) else links)}, of=new)
        return judge_ranks(retrieval, vectors)

    return judge


def grown_checkpoint(
    base: Checkpoint,
    training: Checkpoint,
    recipe: GrowthRecipe,
    replaced: str | None,
    groups: Groups,
    result: Result,
) -> Checkpoint:
    """Return the checkpoint of the extended model: the base with the trained modalities and this step of growth."""
    extension = training.method
    assert isinstance(extension, Extension)
    fresh = extension.options.fresh
    recalls = {name: value for name, value in result.metrics.items() if name.endswith("recall@1")}
    figures = {"split": recipe.evaluation.split, "metrics": recalls}
    kind = "replaced" if replaced else "added"
    step, former = make_step(base, kind, fresh, data=groups.data, figures=figures)
    return Checkpoint(
        grown_up(base.method, extension),
        name=base.name,
        loss=base.loss,
        encoders=base.encoders | {name: training.encoders[name] for name in fresh},
        fingerprints=base.fingerprints | {name: training.fingerprints[name] for name in fresh},
        recipe=recipe.model_dump(mode="json"),
        figures=training.figures,
        towers={name: tuned for name, tuned in base.towers.items() if name not in fresh},
        lineage=[*base.lineage, step],
        former=base.former | former,
        heads=without(base.heads, fresh),
        data=training.data,
    )


@dataclass(frozen=True)
class Measured:
    """Figures of new modalities on the recipe's split.

    Attributes:
        result: retrieval in every direction from and to a new modality.
        emergent: those directions between modalities that never met in this training.
        replacement: recall with the old and a new index, where that can be measured.
    """

    result: Result
    emergent: tuple[str, ...]
    replacement: Replacement | None


def measure(recipe: GrowthRecipe, replaced: str | None, groups: Groups, extension: Method) -> Measured:
    """Measure the new modalities of a trained `Extension`."""
    assert isinstance(extension, Extension)
    fresh = extension.options.fresh
    vectors, links = embed_split(extension, groups.features, groups.features.split(recipe.evaluation.split))
    never = {groups.names[name] for name in recipe.evaluation.others if name != replaced}
    pairs = [(new, other) for new in fresh for other in sorted(never)]
    emergent = tuple(f"{a}_to_{b}" for new, other in pairs for a, b in ((new, other), (other, new)))
    return Measured(Retrieval(links, of=fresh)(vectors), emergent, _replacement(replaced, groups, vectors, links))


def without(heads: Mapping[str, TrainedHead], changed: Collection[str]) -> dict[str, TrainedHead]:
    """Return the heads that read none of the modalities `changed`; their embeddings are as they were."""
    return {name: head for name, head in heads.items() if not set(head.modalities) & set(changed)}


def _extended(
    recipe: GrowthRecipe,
    replaced: str | None,
    partners: tuple[str, ...],
    measured: Measured,
    training: Checkpoint,
    trained: Trained,
    proof: Proof,
) -> Extended:
    extension = training.method
    assert isinstance(extension, Extension)
    return Extended(
        recipe.folder,
        () if replaced else extension.options.fresh,
        replaced,
        partners,
        sum(extension.parts().values()),
        trained.progress.seconds,
        recipe.evaluation.split,
        measured.result,
        measured.emergent,
        proof,
        measured.replacement,
    )


def _replacement(
    replaced: str | None, groups: Groups, vectors: Mapping[str, Tensor], links: Mapping[str, np.ndarray]
) -> Replacement | None:
    """Return recall with the old and a new index; None without old embeddings or without another modality."""
    old = groups.names.get(replaced or "")
    others = {name: embeddings for name, embeddings in vectors.items() if name not in (replaced, old)}
    if replaced is None or old is None or not others:
        return None
    sides = {name: links[name] for name in others} | {"new": links[replaced], "old": links[old]}
    return measure_replacement(replaced, vectors[replaced], vectors[old], others, sides)


def remove(model: Path | str, modality: str, output: Path | str) -> Checkpoint:
    """Remove a modality from a model, and return the checkpoint; everything else stays bit for bit.

    Args:
        model: a run's folder, a checkpoint's folder or a hub id.
        modality: modality to remove.
        output: folder of the smaller model.

    Raises:
        GrowthError: the model lacks the modality, has too few others, or `output` is its own folder.
    """
    folder = Path(output)
    check_apart(model, folder)
    base = load_checkpoint(model)
    check_growth(Growth(base.method, removed=modality))
    step, former = make_step(base, "removed", [modality])
    smaller = Checkpoint(
        base.method.without(modality),
        name=base.name,
        loss=base.loss,
        encoders={name: spec for name, spec in base.encoders.items() if name != modality},
        fingerprints={name: mark for name, mark in base.fingerprints.items() if name != modality},
        recipe=base.recipe,
        towers={name: tuned for name, tuned in base.towers.items() if name != modality},
        lineage=[*base.lineage, step],
        former=base.former | former,
        heads=without(base.heads, [modality]),
        data=base.data,
    )
    with only_writer(folder):
        dated_like(smaller, folder).save(make_folder(folder) / "best")
    written = load_checkpoint(folder)
    prove(base, written, [modality])
    return written
