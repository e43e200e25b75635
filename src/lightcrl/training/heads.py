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
from lightcrl.events import Tell
from lightcrl.features.base import Store
from lightcrl.features.embed import embed_rows
from lightcrl.features.rows import BARE, Rows
from lightcrl.features.table import Features
from lightcrl.heads.base import Head, Material
from lightcrl.heads.spec import HeadSpec, make_head
from lightcrl.heads.state import TrainedHead
from lightcrl.heads.training import NAME, HeadTraining
from lightcrl.methods import Method
from lightcrl.methods.spec import make_method
from lightcrl.metrics.result import Result
from lightcrl.specs import parse
from lightcrl.training.loop import Judge, Judgement, train
from lightcrl.training.spec import TrainingSpec


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
    material = gather_material(checkpoint, _held_out(only(features, head), spec))
    below = _checkpoint(checkpoint, spec, material)
    training = below.method
    assert isinstance(training, HeadTraining)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        training.head.start(checkpoint.method)
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
    tell({"event": "trained", **label, "seconds": done.progress.seconds, "folder": str(folder)})
    figures = {"split": "dev", "seconds": round(done.progress.seconds, 3), **done.result.to_json()}
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


def only(features: Features, head: Head) -> Features:
    """Return the features of the modalities that a head reads, without tokens of those whose raw items are its targets.

    Raises:
        ModalityError: the features lack a modality.
    """
    stores = {name: features.store(name) for name in head.modalities}
    stores |= {name: Rows(stores[name]) for name in head.targets}
    splits = {}
    for name, split in features.splits.items():
        members = {modality: split.members[modality] for modality in stores}
        splits[name] = type(split)(split.count, members)
    return Features.of(stores, splits, features.items)


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
            whole = store.whole if isinstance(store, Rows) else store
            self._made[name] = embed_rows(self._method, whole, name, np.arange(whole.rows)).float()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stores)

    def __len__(self) -> int:
        return len(self._stores)


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
