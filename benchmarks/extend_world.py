"""Emergent pairs in the generated world: sound is added to pictures and captions through captions alone.

    python benchmarks/extend_world.py               # every fusion operation, against joint training
    python benchmarks/extend_world.py --ablation    # what the context of a new modality carries

Settings are those of recipes/world.toml. R@1 between sounds and pictures, mean of both directions, on the test split,
which chooses nothing; means over seeds, 95 % intervals over seeds and groups. Prints Markdown and writes JSON. What is
trained already is taken as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lightcrl
from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.files.local import write_json
from lightcrl.growth.anchors import anchor_items
from lightcrl.growth.extend import growth_training
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.methods.extension import NAME, Extension, grow, grown_up
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.metrics.statistics import Draws, bootstrap_ratios, difference, draws, estimate
from lightcrl.pipeline import prepare
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.specs import parse
from lightcrl.training.loop import train

ROOT = Path(__file__).parents[1]
DATA = {"source": "synthetic", "options": {"groups": 1000}, "dev_fraction": 0.15, "test_fraction": 0.35}
METHOD = {"dim": 64, "feedforward": 64}
TRAINING = {"epochs": 20, "tensorboard": False}
KINDS = {"image": "image", "text": "text", "audio": "audio", "note": "text", "mirror": "text"}
"""`note` has further captions by the encoder of `text`, `mirror` others by an encoder of the same width."""


NEW = ("audio", "note", "mirror")


class Mirrored:
    """Texts read backwards by the built-in encoder: the same width, and nothing else in common."""

    def __init__(self) -> None:
        self.encoder = load_encoder(EncoderSpec(kind="text", model="builtin"))
        self.slots, self.dim = self.encoder.slots, self.encoder.dim

    def encode(self, items: Sequence[str]) -> Any:
        return self.encoder.encode([self.encoder.prepare(item[::-1]) for item in items])


def encoder(name: str) -> dict[str, str]:
    """The table of a modality's encoder."""
    own = "benchmarks.extend_world:Mirrored"
    return {"kind": KINDS[name], "model": own if name == "mirror" else "builtin"}


def world(names: Sequence[str], fusion: str, seed: int, folder: Path) -> Recipe:
    """A run on some of the world's modalities."""
    return make_recipe(
        {
            "name": "-".join(names),
            "data": DATA,
            "encoders": {name: encoder(name) for name in names},
            "features": {"folder": str(folder / "features")},
            "method": {"fusion": fusion, **METHOD},
            "training": TRAINING,
            "evaluation": {"split": "test", "seeds": [seed]},
        }
    )


def trained(names: Sequence[str], fusion: str, seed: int, folder: Path) -> Path:
    """The folder of such a run, done."""
    place = folder / f"{fusion}-{'-'.join(names)}-{seed}"
    lightcrl.run(world(names, fusion, seed, folder), output=place)
    return place


def hit_sums(vectors: dict[str, Tensor], links: dict[str, np.ndarray], pair: tuple[str, str]) -> np.ndarray:
    """[2, 2, G] hits and queries of each group, in both directions between a pair."""
    retrieval = Retrieval({name: links[name] for name in pair})
    size = 1 + max(int(found[:, 1].max()) for found in links.values())
    found = [
        [np.bincount(groups, hits(counts, 1), size), np.bincount(groups, minlength=size).astype(float)]
        for counts, groups in retrieval.per_query(vectors).values()
    ]
    return np.array(found)


def recall(sums: Sequence[np.ndarray]) -> Draws:
    """Mean R@1 of both directions by seed, and its bootstrap over groups, from `hit_sums` of every seed."""
    values = np.array([(one[:, 0].sum(1) / one[:, 1].sum(1)).mean() for one in sums])
    items = np.mean([bootstrap_ratios(one[:, 0], one[:, 1]).mean(1) for one in sums], 0)
    return draws(values, items, 0)


def shown(found: Draws) -> str:
    """A figure and its interval."""
    one = estimate(found)
    return f"{one.mean:.3f} ({one.both[0]:.3f}-{one.both[1]:.3f})"


def emergent(folder: Path, fusions: Sequence[str], seeds: Sequence[int], features: Features) -> dict[str, Any]:
    """Sound to picture and back, sound added through captions, against all three trained together."""
    both, result = only(features, ("image", "audio")), {}
    print("| fusion operation | added through text | trained together | ratio | times chance | difference |")
    print("|---|---|---|---|---|---|")
    for fusion in fusions:
        sums: dict[str, list[np.ndarray]] = {"added": [], "joint": []}
        for seed in seeds:
            base = trained(("image", "text"), fusion, seed, folder)
            joint = trained(("image", "text", "audio"), fusion, seed, folder)
            table = {
                "name": "sound",
                "seed": seed,
                "partners": ["text"],
                "data": DATA,
                "encoders": {"audio": encoder("audio")},
                "features": {"folder": str(folder / "features")},
                "training": TRAINING,
            }
            recipe = parse(GrowthRecipe, table)
            grown = lightcrl.extend(base, recipe, output=folder / f"{fusion}-sound-{seed}").folder
            for label, place in (("added", grown), ("joint", joint)):
                vectors, links = embed_split(load_checkpoint(place).method, both, both.split("test"))
                sums[label].append(hit_sums(vectors, links, ("image", "audio")))
        added, joint_recall = recall(sums["added"]), recall(sums["joint"])
        apart = difference(added, joint_recall)
        ratio = added.mean / joint_recall.mean
        chance = added.mean * len(both.split("test"))
        low, high = apart.interval
        print(
            f"| {fusion} | {shown(added)} | {shown(joint_recall)} | {ratio:.2f} | {chance:.0f} | "
            f"{apart.mean:+.3f} ({low:+.3f} to {high:+.3f}) |",
            flush=True,
        )
        result[fusion] = {
            "added": added.values.tolist(),
            "joint": joint_recall.values.tolist(),
            "ratio": ratio,
            "times_chance": chance,
            "difference": {"mean": apart.mean, "interval": [low, high]},
        }
    return result


def only(features: Features, names: Sequence[str]) -> Features:
    """Stores of some modalities, with the groups of all."""
    splits = features.splits
    for name, split in list(splits.items()):
        members = {modality: found for modality, found in split.members.items() if modality in names}
        splits = {**splits, name: type(split)(len(split), members)}
    return Features.of({name: features.store(name) for name in names}, splits)


def free(made: Extension, name: str) -> None:
    """Stem and context are trained."""


def zero(made: Extension, name: str) -> None:
    """The context is zero and stays so."""
    with torch.no_grad():
        made.body.context.vectors[name].zero_()
    made.body.context.vectors[name].requires_grad_(False)


def stem_only(made: Extension, name: str) -> None:
    """The context stays what it was drawn as."""
    made.body.context.vectors[name].requires_grad_(False)


def context_only(made: Extension, name: str) -> None:
    """The stem, and what is solved, are those of `text`, and stay so."""
    state = made.body.state_dict()
    for leaf in made.body.leaves_of(name):
        if not leaf.startswith("context."):
            state[leaf].copy_(state[leaf.replace(f".{name}.", ".text.")])
    made.body.stems[name].requires_grad_(False)
    made.solves = False


VARIANTS: dict[str, Callable[[Extension, str], None]] = {
    "context frozen at zero": zero,
    "stem only": stem_only,
    "context only": context_only,
    "both": free,
}


def ablation(
    folder: Path, fusions: Sequence[str], seeds: Sequence[int], features: Features, new: Sequence[str] = NEW
) -> dict[str, Any]:
    """Each part of a new modality frozen in turn; R@1 between it and pictures, which it never met."""
    result: dict[str, Any] = {}
    print("| fusion operation | new modality | trained | R@1 from and to pictures | both minus this |")
    print("|---|---|---|---|---|")
    # No other modality has the width of sounds, so they cannot have another's stem.
    cells = [(name, variant) for name in new for variant in VARIANTS if (name, variant) != ("audio", "context only")]
    for fusion in fusions:
        sums: dict[tuple[str, str], list[np.ndarray]] = {cell: [] for cell in cells}
        for seed in seeds:
            base = load_checkpoint(trained(("image", "text"), fusion, seed, folder))
            groups = {name: split for split in features.splits for name in features.names(split)}
            place = folder / f"{fusion}-anchors-{seed}"
            anchors = anchor_items(base.method, "text", features.store("text"), groups, base.digest, place)
            for name, variant in cells:
                seen = Features({name: features.store(name), "text": anchors})
                method = change(base, name, variant, seen, folder / f"{fusion}-{name}-{variant}-{seed}", seed)
                both = only(features, ("image", name))
                vectors, links = embed_split(method, both, both.split("test"))
                sums[name, variant].append(hit_sums(vectors, links, ("image", name)))
        recalls = {cell: recall(counts) for cell, counts in sums.items()}
        for (name, variant), figure in recalls.items():
            less = difference(recalls[name, "both"], figure)
            low, high = less.interval
            worth = "" if variant == "both" else f"{less.mean:+.3f} ({low:+.3f} to {high:+.3f})"
            print(f"| {fusion} | {name} | {variant} | {shown(figure)} | {worth} |", flush=True)
            result[f"{fusion}/{name}/{variant}"] = {
                "recall@1": figure.values.tolist(),
                "both_minus_this": {"mean": less.mean, "interval": [low, high]},
            }
    return result


def change(base: Checkpoint, name: str, variant: str, seen: Features, place: Path, seed: int) -> Any:
    """The base with a modality, trained as the variant has it."""
    spec = growth_training(world(("image", "text"), "addition", 0, place).training, base)
    fixed = {"standardise": False} if variant == "context only" else {}
    made = grow(base.method, base.name, {name: seen.specs[name]}, ["text"], spec.loss, seed=seed, **fixed)
    VARIANTS[variant](made, name)
    checkpoint = Checkpoint(
        made,
        name=NAME,
        loss=spec.loss,
        encoders=dict.fromkeys(seen.stores, EncoderSpec(kind="text", model="builtin")),
        fingerprints=dict.fromkeys(seen.stores, ""),
    )
    train(checkpoint, seen, spec, place, seed=seed)
    return grown_up(base.method, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusions", nargs="+", default=list(OPERATIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--new", nargs="+", default=list(NEW), choices=NEW, help="new modalities of the ablation")
    parser.add_argument("--output", default="runs/extend_world", type=Path)
    given = parser.parse_args()
    sys.path.append(str(ROOT))  # of Mirrored
    folder = given.output.absolute()
    features, _, _ = prepare(world(tuple(KINDS), "addition", 0, folder))
    if given.ablation:
        result = ablation(folder, given.fusions, given.seeds, features, given.new)
    else:
        result = emergent(folder, given.fusions, given.seeds, features)
    write_json(folder / ("ablation.json" if given.ablation else "emergent.json"), result)


if __name__ == "__main__":
    main()
