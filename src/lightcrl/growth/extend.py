"""A model extended: the whole way from a recipe to a checkpoint that has more in it, and nothing old that has moved.

recipe.json       the recipe as it was understood
rejected.jsonl    what was set aside, with its reason
anchors/          the embeddings of old modalities
training/         best/, last/ and log.jsonl of the training of what is new
best/             the extended model; `lightcrl.load` takes the folder
extension.json    what was added, the proof that nothing moved, figures
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.data.base import write_rejected
from lightcrl.embedder import Embedder, load
from lightcrl.encoders import settled
from lightcrl.errors import GrowthError
from lightcrl.events import Tell
from lightcrl.features import Features
from lightcrl.features.embed import embed_split, embed_together
from lightcrl.files.local import make_folder, write_json
from lightcrl.files.locks import only_writer
from lightcrl.growth.groups import Groups, open_groups
from lightcrl.growth.proof import Proof, prove
from lightcrl.growth.refusals import Growth, check_growth
from lightcrl.growth.replacement import Replacement, measure_replacement
from lightcrl.growth.spec import GrowthRecipe, load_growth_recipe
from lightcrl.methods import METHODS, Method
from lightcrl.methods.extension import NAME, Extension, grow, grown_up
from lightcrl.metrics.result import Result
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.processes import is_main, launched, main_first, wait_for_everyone
from lightcrl.training.loop import Judge, Judgement, Trained, train
from lightcrl.training.refusals import Combination, check_combination
from lightcrl.training.spec import TrainingSpec


@dataclass(frozen=True)
class Extended:
    """A model that has grown.

    Attributes:
        folder: where it lies; `lightcrl.load` takes it.
        added: modalities that are new.
        replaced: the modality that has another encoder.
        partners: old modalities that the training saw.
        parameters: trained ones.
        seconds: of training, its evaluations included.
        split: that the figures are of.
        result: retrieval in every direction from and to what is new.
        emergent: those directions whose modalities never met in this training.
        proof: that nothing old has moved.
        replacement: what became of recall, where an encoder was replaced and the old embeddings are at hand.
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
        """What extension.json holds."""
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
    """Add modalities to a model, or give one of its modalities another encoder; everything else stays, bit for bit.

    The same call goes on where it was stopped.

    Args:
        model: a run's folder, a checkpoint's folder or a hub id.
        recipe: what to extend it with, or the file that says so.
        replace: the modality whose encoder the recipe replaces; without, the recipe's modalities are added.
        overrides: `section.key=value` on top of the file.
        output: folder of the extended model, in place of the recipe's.
        encoders: where encoders of the model lie now, by modality, if not where they lay in training.
        trust_remote_code: see `lightcrl.load`.
        tell: called with what happens.

    Raises:
        GrowthError: what is asked is in `lightcrl.growth.refusals.REFUSALS`, or `output` is the model's own folder.
        LockedError: another process is writing the folder.
        LightCRLError: anything that the recipe, the data or the machine does not allow.
    """
    if not isinstance(recipe, GrowthRecipe):
        recipe = load_growth_recipe(recipe, overrides, output)
    elif output is not None:
        recipe = recipe.model_copy(update={"output": str(output)})
    check_apart(model, recipe.folder)
    embedder = load(model, encoders=encoders, trust_remote_code=trust_remote_code)
    if not is_main():
        return _extend(model, embedder, recipe, replace, tell)
    with only_writer(recipe.folder, tell) as hold:
        return _extend(model, embedder, recipe, replace, hold.guard(tell))


def _extend(model: Path | str, embedder: Embedder, recipe: GrowthRecipe, replaced: str | None, tell: Tell) -> Extended:
    base = embedder.checkpoint
    partners, others = sides(recipe, base.method, replaced)
    fresh, part = tuple(sorted(recipe.encoders)), (*partners, *others)
    check_growth(Growth(base.method, fresh, replaced, part, (*recipe.stores, *recipe.vectors, *recipe.weights)))
    folder = make_folder(recipe.folder)
    with main_first():
        groups = open_groups(embedder, recipe, part, folder / "anchors", tell)
    if is_main():
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        write_rejected(groups.rejected, folder / "rejected.jsonl")
    training, trained = _train(base, recipe, partners, groups, folder / "training", tell)
    grown = grown_checkpoint(base, training, recipe, replaced, groups)
    if is_main():
        grown.save(folder / "best")
    wait_for_everyone()
    # Both as they are on disk, and on the CPU: what another device computes is another number.
    proof = prove(load_checkpoint(model), load_checkpoint(folder), fresh)
    done = _measured(recipe, replaced, partners, groups, training, trained, proof)
    if is_main():
        write_json(folder / "extension.json", done.to_json())
    return done


def sides(recipe: GrowthRecipe, method: Method, replaced: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Old modalities that take part in training, and those that are only measured.

    Without `partners`, all take part; but old embeddings of the replaced modality are only measured if there are others
    to learn from: what the new encoder sees better than the old one, they do not know (docs/LOG.md).
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
    """What is new, trained; all old modalities are embeddings."""
    spec = growth_training(recipe.training, base)
    # The loop sees a method in growth, and cannot refuse for the one that grows.
    check_combination(Combination(type(base.method), (), launched(), spec.loss, base.method.options))
    fresh = {name: groups.features.specs[name] for name in recipe.encoders}
    weights = {groups.names[name]: weight for name, weight in recipe.weights.items()}
    method = grow(base.method, base.name, fresh, groups.names.values(), spec.loss, seed=recipe.seed, weights=weights)
    owner = {anchor: name for name, anchor in groups.names.items()}
    encoders = {name: settled(spec, groups.encoders[name]) for name, spec in recipe.encoders.items()}
    checkpoint = Checkpoint(
        method,
        name=NAME,
        loss=spec.loss,
        encoders={anchor: base.encoders[name] for anchor, name in owner.items()} | encoders,
        fingerprints={anchor: base.fingerprints[name] for anchor, name in owner.items()}
        | {name: encoder.fingerprint for name, encoder in groups.encoders.items()},
        recipe={"name": recipe.name},
    )
    seen = groups.only({*fresh, *(groups.names[name] for name in partners)})
    apart = {groups.names[name] for name in recipe.encoders if name in groups.names}
    name = {"method": f"{base.name} with {', '.join(fresh)}", "seed": recipe.seed}
    trained = train(
        checkpoint,
        seen,
        spec,
        place,
        seed=recipe.seed,
        report=lambda event: tell({**name, **event}),
        judge=_by_new_directions(fresh, apart),
    )
    tell({"event": "trained", **name, "seconds": trained.progress.seconds, "folder": str(place)})
    return checkpoint, trained


def growth_training(spec: TrainingSpec, base: Checkpoint) -> TrainingSpec:
    """What is `"auto"` as it suits the method that grows; the loss is that of its own training."""
    if spec.loss == "auto":
        spec = spec.model_copy(update={"loss": base.loss})
    return spec.suited(METHODS.load(base.name))


def _by_new_directions(fresh: Iterable[str], apart: Iterable[str]) -> Judge:
    """Mean R@1 on dev from and to what is new; old embeddings of the same items (`apart`) count only if alone."""
    new, skipped = set(fresh), set(apart)

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        vectors, links = embed_together(method, features, features.split("dev"))
        kept = links.keys() - skipped
        retrieval = Retrieval({name: links[name] for name in (kept if len(kept) > len(new) else links)}, of=new)
        return Judgement({"dev_mean_recall@1": retrieval.mean_recall(vectors)}, lambda: retrieval(vectors))

    return judge


def grown_checkpoint(
    base: Checkpoint, training: Checkpoint, recipe: GrowthRecipe, replaced: str | None, groups: Groups
) -> Checkpoint:
    """The model with what was trained in its place."""
    extension = training.method
    assert isinstance(extension, Extension)
    fresh = extension.options.fresh
    step = {"from": base.digest, "replaced": [replaced]} if replaced else {"from": base.digest, "added": list(fresh)}
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
    )


def _measured(
    recipe: GrowthRecipe,
    replaced: str | None,
    partners: tuple[str, ...],
    groups: Groups,
    training: Checkpoint,
    trained: Trained,
    proof: Proof,
) -> Extended:
    extension, split = training.method, recipe.evaluation.split
    assert isinstance(extension, Extension)
    fresh = extension.options.fresh
    vectors, links = embed_split(extension, groups.features, groups.features.split(split))
    result = Retrieval(links, of=fresh)(vectors)
    never = {groups.names[name] for name in recipe.evaluation.others if name != replaced}
    emergent = tuple(f"{a}_to_{b}" for new in fresh for other in sorted(never) for a, b in ((new, other), (other, new)))
    return Extended(
        recipe.folder,
        () if replaced else fresh,
        replaced,
        partners,
        sum(extension.parts().values()),
        trained.progress.seconds,
        split,
        result,
        emergent,
        proof,
        _replacement(replaced, groups, vectors, links),
    )


def _replacement(
    replaced: str | None, groups: Groups, vectors: Mapping[str, Tensor], links: Mapping[str, np.ndarray]
) -> Replacement | None:
    """Recall with the index kept and made anew, where there is something to compare with."""
    old = groups.names.get(replaced or "")
    others = {name: found for name, found in vectors.items() if name not in (replaced, old)}
    if replaced is None or old is None or not others:
        return None
    sides = {name: links[name] for name in others} | {"new": links[replaced], "old": links[old]}
    return measure_replacement(replaced, vectors[replaced], vectors[old], others, sides)


def remove(model: Path | str, modality: str, output: Path | str) -> Checkpoint:
    """A model without one of its modalities; everything else stays, bit for bit.

    Args:
        model: a run's folder, a checkpoint's folder or a hub id.
        modality: that goes.
        output: folder of the smaller model.

    Raises:
        GrowthError: the model has no such modality, or too few others, or `output` is its own folder.
    """
    folder = Path(output)
    check_apart(model, folder)
    base = load_checkpoint(model)
    check_growth(Growth(base.method, removed=modality))
    smaller = Checkpoint(
        base.method.without(modality),
        name=base.name,
        loss=base.loss,
        encoders={name: spec for name, spec in base.encoders.items() if name != modality},
        fingerprints={name: mark for name, mark in base.fingerprints.items() if name != modality},
        recipe=base.recipe,
        towers={name: tuned for name, tuned in base.towers.items() if name != modality},
        lineage=[*base.lineage, {"from": base.digest, "removed": [modality]}],
    )
    with only_writer(folder):
        smaller.save(make_folder(folder) / "best")
    found = load_checkpoint(folder)
    prove(base, found, [modality])
    return found


def check_apart(model: Path | str, folder: Path) -> None:
    """Refuse to write into the model's own folder.

    Raises:
        GrowthError: they are one.
    """
    place = Path(model)
    if place.is_dir() and folder.resolve() in (place.resolve(), *place.resolve().parents[:1]):
        raise GrowthError(f"--output {folder} is the model's own folder, which stays as it is. Choose another.")
