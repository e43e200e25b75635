"""Training of a head on features, by the one loop: the material, the training, and the state to keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.data import DataSpec
from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.errors import HeadError, TrainingError
from lightcrl.events import Tell
from lightcrl.features.base import Store
from lightcrl.features.embed import embed_rows
from lightcrl.features.extract import encode_each
from lightcrl.features.rows import BARE, Rows
from lightcrl.features.spec import FeaturesSpec
from lightcrl.features.table import Features
from lightcrl.heads.base import Material, features_of
from lightcrl.heads.spec import HeadSpec, make_head
from lightcrl.heads.state import TrainedHead
from lightcrl.heads.training import NAME, HeadTraining
from lightcrl.machine import seed_draws
from lightcrl.methods import Method
from lightcrl.methods.spec import make_method
from lightcrl.metrics.result import Result
from lightcrl.specs import parse
from lightcrl.training.early import read_groups
from lightcrl.training.hubs import measure_hubs
from lightcrl.training.judge import Judge, Judgement
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec

APART_SEED = 0
"""Seed of the groups set apart and of the second space, which do not depend on the seed of the head."""


def head_training(spec: HeadSpec, name: str = "") -> TrainingSpec:
    """Return the training settings of a head's table.

    Raises:
        RecipeError: a key or value is invalid.
    """
    training: TrainingSpec = parse(TrainingSpec, spec.training, f"heads.{name or spec.kind}.training")
    return training


def train_head(
    checkpoint: Checkpoint,
    name: str,
    spec: HeadSpec,
    features: Features,
    folder: Path,
    tell: Tell = lambda event: None,
) -> TrainedHead:
    """Train a head on the frozen space of a checkpoint, which is not changed.

    The same call resumes a stopped training.

    Args:
        checkpoint: model with the space.
        name: name of the head, for events.
        spec: settings of the head and its training.
        features: features of the model's encoders with the splits `train` and `dev`, and raw items for heads that learn
            from them.
        folder: folder of the training.
        tell: function that is called with events.

    Raises:
        HeadError: the space or the features lack what the head needs.
        TrainingError: see `training.loop.train`.
        CheckpointError: `folder` has a training with other settings.
    """
    head = make_head(spec.kind, checkpoint.space, spec.options, spec.seed)
    if spec.apart and head.coordinates:
        raise HeadError(
            f"heads.{name or spec.kind}.apart is {spec.apart}; expected 0: {type(head).__name__} learns the "
            "coordinates of the model's own space, and a second space has others."
        )
    whole = features_of(head, features)
    space, features = _apart(checkpoint, name, spec, whole, folder.parent, tell)
    features = features.replace_stores({target: Rows(features.store(target)) for target in head.targets})
    material = gather_material(space, features)
    below = _checkpoint(checkpoint, spec, material)
    training = below.method
    assert isinstance(training, HeadTraining)
    with torch.random.fork_rng(devices=[]):
        seed_draws(spec.seed)
        training.head.start(space.method)
        training.head.prepare(material)
    training.material = material
    label = {"method": f"head {name}", "seed": spec.seed}
    done = train(
        below,
        material.features,
        head_training(spec, name),
        folder,
        seed=spec.seed,
        report=lambda event: tell({**label, **event}),
        judge=_judge(material),
    )
    training.head.settle(checkpoint.method, whole)
    tell({"event": "trained", **label, "seconds": done.progress.seconds, "folder": str(folder)})
    figures = {
        "split": "held out" if spec.held_out else "dev",
        "seconds": round(done.progress.seconds, 3),
        **done.result.to_json(),
    }
    return TrainedHead.of(training.head, spec.kind, checkpoint.digest, figures)


def _held_out(features: Features, spec: HeadSpec) -> Features:
    """Return features in which a share of the training groups takes the place of dev."""
    if not spec.held_out:
        return features
    whole = features.split("train")
    order = np.random.default_rng([spec.seed]).permutation(whole.usable)
    count = max(1, round(spec.held_out * len(order)))
    train_split = features.replace_split("train", whole.subset(order[count:]))
    return train_split.replace_split("dev", whole.subset(order[:count]))


def gather_material(checkpoint: Checkpoint, features: Features) -> Material:
    """Embed all rows of the features by the space, and return the material of a head."""
    return Material(features, _Vectors(checkpoint.method, features.stores))


class _Vectors(Mapping[str, Tensor]):
    """Embeddings of all rows by modality, made when they are first needed: some heads read no embeddings."""

    def __init__(self, method: Method, stores: Mapping[str, Store]) -> None:
        self._method, self._stores = method, dict(stores)
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            store = self._stores[name]
            whole = store.wrapped if isinstance(store, Rows) else store
            self._made[name] = embed_rows(self._method, whole, name, np.arange(whole.rows)).float()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stores)

    def __len__(self) -> int:
        return len(self._stores)


def _apart(
    checkpoint: Checkpoint, name: str, spec: HeadSpec, features: Features, folder: Path, tell: Tell
) -> tuple[Checkpoint, Features]:
    """Return the space of a head's training, and the features whose splits are those of the head.

    With groups set apart, the space is a second one, trained on the other groups; `dev` has no part in its training.
    All heads below `folder` that set the same share apart use the same groups and the same second space.
    """
    if not spec.apart:
        return checkpoint, _held_out(features, spec)
    train_split = features.split("train")
    order = np.random.default_rng(APART_SEED).permutation(train_split.usable)
    count = round(spec.apart * len(order))
    held = round(spec.held_out * count)
    if len(order) - count < 2 or count - held < 2:
        raise TrainingError(
            f"{len(order)} training groups, of which heads.{name}.apart = {spec.apart} sets {count} apart; expected "
            "two or more on both sides. Give more groups, or apart = 0."
        )
    second = Checkpoint(
        make_method(
            checkpoint.name, features.specs, checkpoint.method_config()["options"], checkpoint.loss, seed=APART_SEED
        ),
        name=checkpoint.name,
        loss=checkpoint.loss,
        encoders={modality: checkpoint.encoders[modality] for modality in features.stores},
        fingerprints={modality: checkpoint.fingerprints[modality] for modality in features.stores},
    )
    label = {"method": f"second space of head {name}", "seed": APART_SEED}
    mark = fingerprint([spec.apart, dict(spec.space_training), sorted(features.stores)])[:8]
    rest = features.replace_split("train", train_split.subset(order[count:]))
    done = train(
        second,
        rest,
        _second_training(checkpoint, name, spec),
        folder / f"space-{mark}",
        seed=APART_SEED,
        report=lambda event: tell({**label, **event}),
    )
    if checkpoint.method.hubs is not None:
        second.method.hubs = measure_hubs(second.method, rest)
    tell({"event": "trained", **label, "seconds": done.progress.seconds, "folder": str(done.folder)})
    splits = {"train": train_split.subset(order[held:count])}
    splits["dev"] = train_split.subset(order[:held]) if held else features.split("dev")
    return second, Features.of(features.stores, splits, features.items)


def _second_training(checkpoint: Checkpoint, name: str, spec: HeadSpec) -> TrainingSpec:
    """Return the model's own training settings with the changes of `spec`, evaluated once, at the end."""
    own = checkpoint.recipe.get("training", {})
    table = {**own, "loss": checkpoint.loss, "patience": 0, "evaluate_every": 10**9, **spec.space_training}
    training: TrainingSpec = parse(TrainingSpec, table, f"heads.{name}.space_training")
    return training


def _checkpoint(base: Checkpoint, spec: HeadSpec, material: Material) -> Checkpoint:
    """Return the checkpoint of a head's training, with fresh weights."""
    names = tuple(material.features.stores)
    options: dict[str, Any] = {
        "dim": base.method.dim,
        "standardise": bool(spec.options.get("standardise", True)),
        "kind": spec.kind,
        "below": spec.options,
        "space": base.digest,
        "body": {name: asdict(shape) for name, shape in base.method.modalities.items()},
    }
    shapes = {
        name: BARE if isinstance(store, Rows) else base.method.modalities[name]
        for name, store in material.features.stores.items()
    }
    return Checkpoint(
        make_method(NAME, shapes, options, "info_nce", spec.seed),
        name=NAME,
        loss="info_nce",
        encoders={name: base.encoders[name] for name in names},
        fingerprints={name: base.fingerprints[name] for name in names},
    )


def _judge(material: Material) -> Judge:
    """Return the head's own judge on the split `dev` of its material."""

    def judge(method: Method, features: Features, epoch: int) -> Judgement:
        assert isinstance(method, HeadTraining)
        method.eval()
        with torch.inference_mode():
            figures: Mapping[str, float] = method.head.judge(material)
        return Judgement(figures, lambda: Result(dict(figures)))

    return judge


def head_features(
    checkpoint: Checkpoint, encoders: Mapping[str, Encoder], data: DataSpec, storage: FeaturesSpec, tell: Tell
) -> Features:
    """Return the features of a model's own encoders for its heads, with the raw items beside them.

    Stores that exist are reused; a trained encoder has one of its own.

    Args:
        checkpoint: the model.
        encoders: its encoders, with their trained weights, by modality.
        data: groups.
        storage: folder and form of the feature stores.
        tell: function that is called with events.

    Raises:
        LightCRLError: the data or an encoder is unusable.
    """
    kinds = {modality: spec.kind for modality, spec in checkpoint.encoders.items()}
    dataset = read_groups(data, kinds, tell)
    stores, _ = encode_each(encoders, dataset, storage, tell, strict=data.strict, max_rejected=data.max_rejected)
    return Features(stores, dataset.items)
