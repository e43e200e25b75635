"""The interface of all heads: cached tokens and the embeddings of a frozen space in, a loss and predictions out.

A head never changes the space. It is trained by the one loop (`heads.training`), and saved beside the space with a
digest for each leaf (`heads.state`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lightcrl.data.base import Item
from lightcrl.errors import HeadError
from lightcrl.features.base import item_keys
from lightcrl.features.table import Features, Split
from lightcrl.methods.base import Method
from lightcrl.tokens import TokenBatch, TokenSpec


@dataclass(frozen=True)
class Space:
    """The shape of a space, as far as a head depends on it.

    Attributes:
        modalities: token shapes by modality.
        dim: d, width of an embedding.
    """

    modalities: Mapping[str, TokenSpec]
    dim: int


def other_modality(names: Iterable[str], name: str) -> str:
    """Return the first of some modalities that is not `name`; `name` if there is no other."""
    return next((other for other in names if other != name), name)


@dataclass(frozen=True)
class HeadBatch:
    """The items of a step, by modality.

    Attributes:
        tokens: features [N_m, T, D_m] of the head's modalities.
        embeddings: unit vectors [N_m, d] of the same items.
        groups: group numbers [N_m]; equal numbers belong together.
        rows: rows [N_m] of the feature store.
        done: share of all steps that are done, 0 at the first step.
    """

    tokens: Mapping[str, TokenBatch]
    embeddings: Mapping[str, Tensor]
    groups: Mapping[str, Tensor]
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    done: float = 0.0

    def to(self, device: torch.device) -> HeadBatch:
        """Return the same items with all tensors on `device`."""
        tokens = {name: tokens.to(device) for name, tokens in self.tokens.items()}
        vectors, groups = (
            {name: tensor.to(device) for name, tensor in each.items()} for each in (self.embeddings, self.groups)
        )
        return replace(self, tokens=tokens, embeddings=vectors, groups=groups)


@dataclass(frozen=True)
class Material:
    """The data that a head is trained on: features, embeddings and raw items.

    Attributes:
        features: stores, and the groups of the splits `train` and `dev`; `dev` chooses the best head.
        vectors: unit vectors [R, d] of all rows of the stores by modality, from a space that was not trained on these
            groups if the head's table sets groups apart.
    """

    features: Features
    vectors: Mapping[str, Tensor]

    def items(self, modality: str) -> list[Item]:
        """Return the raw items of a modality in order of rows, such as the captions that a head learns to say.

        Raises:
            HeadError: the features have no raw items of this modality.
        """
        if modality not in self.features.items:
            raise HeadError(f"no raw items of {modality!r} beside its features; expected those of the recipe's data.")
        by_key = {item.key: item for item in self.features.items[modality]}
        keys = item_keys(self.features.store(modality))
        if missing := [key for key in keys if key not in by_key]:
            raise HeadError(
                f"{len(missing)} features of {modality!r} have no raw item beside them; expected the data from which "
                "they were made. Give the [data] of the features."
            )
        return [by_key[key] for key in keys]

    def batch(self, rows: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], sequence: bool) -> HeadBatch:
        """Return stored tokens and embeddings of the items at `rows` [N_m]."""
        tokens = {
            name: self.features.store(name).gather(chosen, sequence=sequence).to("cpu", torch.float32)
            for name, chosen in rows.items()
        }
        vectors = {name: self.vectors[name][torch.from_numpy(np.asarray(chosen))] for name, chosen in rows.items()}
        return HeadBatch(tokens, vectors, {name: torch.from_numpy(np.asarray(g)) for name, g in groups.items()}, rows)


@dataclass(frozen=True)
class Graph:
    """A part of a head that `lightcrl export` writes.

    Attributes:
        module: network with positional tensors as arguments.
        inputs: example of each input by name, in order.
        dynamic: axes of variable length of each input, as in `torch.export.export`.
        output: name of the output.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, Any]]
    output: str


class HeadOptions(BaseModel):
    """Options of every head; the `[heads.<name>]` table of a recipe is `kind`, `seed`, `training` and these keys.

    Attributes:
        standardise: true to compute statistics of features from a sample of the training split (`Head.fit`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    standardise: bool = True


class Head(nn.Module, ABC):
    """A small network on the tokens and embeddings of some modalities of a space.

    Attributes:
        space: shape of the space.
        options: the head's options.
        suits: values that `"auto"` resolves to in the head's `training` table, where they differ from the default.
        defaults: values of `apart` and `held_out` (`HeadSpec`) where they differ from the default.
        sequences: true if the head reads the tokens after the slots; otherwise they are cut off.
        closed_form: true if `prepare` determines everything, so that there are no steps.
        targets: modalities of which the head reads no tokens: the raw items of the training data, such as captions, or
            embeddings alone.
        coordinates: true if the head gives embeddings of the space, or depends on more than their angles: no second
            space can stand in for it (`HeadSpec.apart`).
    """

    Options: ClassVar[type[HeadOptions]] = HeadOptions
    suits: ClassVar[Mapping[str, Any]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    sequences: ClassVar[bool] = True
    closed_form: bool = False
    coordinates: ClassVar[bool] = False
    targets: tuple[str, ...] = ()

    def __init__(self, space: Space, options: HeadOptions) -> None:
        """Make a head with initial weights from torch's global generator.

        Raises:
            HeadError: the space lacks a modality or tokens that the head needs.
        """
        super().__init__()
        self.space = space
        self.options = options

    @property
    @abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the head reads, in a fixed order."""

    def start(self, method: Method) -> None:
        """Take initial weights from the space's method, which is not changed; draws come from torch's generator."""

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set statistics of features from a sample of the training split."""

    def prepare(self, material: Material) -> None:
        """Receive the training data before the first step, also of a resumed training: targets, hard negatives.

        What is kept of it must not be part of the state.
        """

    def settle(self, space: Method, features: Features) -> None:
        """Receive the model's own method and all training data after the last step; buffers may be set from them.

        With groups set apart, all that came before was embedded by a second space.
        """

    def attach(self, material: Material) -> None:
        """Receive the data whose rows batches name, without learning from it: for predictions of a loaded head."""

    def make_optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser of groups of parameters (`training.gradient.parameter_groups`)."""
        return torch.optim.AdamW(groups)

    @abstractmethod
    def loss(self, batch: HeadBatch) -> Tensor:
        """Return the scalar to minimise. Random draws come from torch's global generator, seeded for each step."""

    @abstractmethod
    def forward(self, batch: HeadBatch) -> Tensor:
        """Return predictions [N, ...] for N aligned items; a prediction depends on its own items alone."""

    @abstractmethod
    def judge(self, material: Material) -> Mapping[str, float]:
        """Return figures on the split `dev` of the material; the first, larger is better, chooses the best head.

        It may set buffers, such as a calibrated weight; they are saved with the head that it judges.
        """

    def graphs(self) -> Mapping[str, Graph]:
        """Return the graphs of an export by suffix of the file's name; none by default."""
        return {}

    def parts(self) -> dict[str, int]:
        """Return the number of trained parameters by part."""
        counts = {name: _count(part) for name, part in self.named_children()}
        counts |= {name: p.numel() for name, p in self.named_parameters(recurse=False) if p.requires_grad}
        return {name: count for name, count in counts.items() if count}

    def need(self, modality: str) -> TokenSpec:
        """Return the token shape of a modality.

        Raises:
            HeadError: the space has no such modality, or no tokens of it that this head could read.
        """
        if modality not in self.space.modalities:
            raise HeadError(
                f"{type(self).__name__} reads {modality!r}, and the space has {', '.join(self.space.modalities)}. "
                "Name modalities of the space."
            )
        return self.space.modalities[modality]


def features_of(head: Head, features: Features) -> Features:
    """Return the features of the modalities that a head reads, with the raw items of all.

    Raises:
        HeadError: the features lack a modality, or have other tokens than the head reads.
    """
    for name in head.modalities:
        expected, shape = head.space.modalities[name], features.specs.get(name)
        if shape != expected:
            have = f"tokens {shape}" if shape else "no tokens"
            raise HeadError(
                f"{type(head).__name__} reads tokens {expected} of {name!r}, and the features have {have}. Encode the "
                "items with the model's own encoder: leave the store out, or name one that holds its tokens."
            )
    stores = {name: features.stores[name] for name in head.modalities}
    splits = {
        name: Split(split.count, {modality: split.members[modality] for modality in stores})
        for name, split in features.splits.items()
    }
    return Features.of(stores, splits, features.items)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
