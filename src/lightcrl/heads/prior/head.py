"""The prior (unCLIP, arXiv 2204.06125): items of one modality to embeddings, or encoder features, of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.errors import HeadError
from lightcrl.features.base import Store
from lightcrl.features.table import Split
from lightcrl.heads.base import Head, HeadBatch, HeadOptions, Material, Space, other_modality
from lightcrl.heads.captioning.head import draw_owners
from lightcrl.heads.flow import draw_noise
from lightcrl.heads.prior.model import MODELS, PriorModel
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.ranks import ranks
from lightcrl.tokens import TokenBatch

PART = 256
"""Number of items for which targets are generated together."""


class PriorOptions(HeadOptions):
    """Options of a prior.

    Attributes:
        source: modality of the items that are given.
        target: modality whose embeddings are generated; by default the first that is not `source`.
        slot: number of a slot of the target's tokens, which is generated in place of the embedding; such as the image
            features that a pipeline of diffusers expects.
        model: a member of `MODELS`: `"ridge"`, `"mlp"`, `"flow"`, or `"package.module:Class"`.
        words: true to read the item's tokens beside its embedding.
        width: width of the network.
        blocks: number of blocks of the flow's network.
        dropout: share of the condition set to zero in training.
        input_dropout: share of the encoder's features set to zero in training.
        unconditional: share of training in which the condition is hidden, for guidance.
        draws: number of embeddings that are drawn; the nearest to the item's own embedding is taken.
        guidance: strength of guidance; 1 has none.
        steps: number of steps of the flow.
        judged: greatest number of groups that judge the head.
    """

    source: str = "text"
    target: str | None = None
    slot: int | None = Field(default=None, ge=0)
    model: str = "flow"
    words: bool = True
    width: int = Field(default=256, gt=0)
    blocks: int = Field(default=3, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    unconditional: float = Field(default=0.1, ge=0, lt=1)
    draws: int = Field(default=2, gt=0)
    guidance: float = Field(default=1.5, ge=0)
    steps: int = Field(default=32, gt=0, le=64)
    judged: int = Field(default=500, gt=1)


class Prior(Head):
    """A prior from one modality to another.

    Attributes:
        source: modality of the given items.
        target: modality of what is generated.
        width: width of a target.
        model: the map, on targets of zero mean and unit variance.
        mean: mean of the targets, [out].
        deviation: their mean deviation.
    """

    Options: ClassVar[type[HeadOptions]] = PriorOptions
    suits: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "items_per_group": 1}
    defaults: ClassVar[Mapping[str, Any]] = {"held_out": 0.05}
    coordinates: ClassVar[bool] = True
    options: PriorOptions
    mean: Tensor
    deviation: Tensor

    def __init__(self, space: Space, options: PriorOptions) -> None:
        super().__init__(space, options)
        self.source = options.source
        spec = self.need(self.source)
        self.target = options.target or other_modality(space.modalities, self.source)
        if self.target == self.source:
            raise HeadError(
                f"a prior from {self.source!r} to itself; expected another modality, one of "
                f"{', '.join(name for name in space.modalities if name != self.source) or 'none'}. Set heads.*.target."
            )
        shape = self.need(self.target)
        if options.slot is not None and options.slot >= shape.slots:
            raise HeadError(f"slot {options.slot} of {self.target!r}, which has {shape.slots} slots (from 0).")
        self.width = space.dim if options.slot is None else shape.dim
        # Embeddings come with the material; only encoder features are read.
        self.targets = (self.target,) if options.slot is None else ()
        kind: Any = MODELS.load(options.model)
        self.model: PriorModel = kind(spec, space.dim, self.width, options)
        self.closed_form = self.model.closed_form
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(()))
        self._vectors: Mapping[str, Tensor] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The given modality and the generated one."""
        return self.source, self.target

    @property
    def guided(self) -> bool:
        """True if guidance changes what is made."""
        return self.model.guided and self.options.unconditional > 0

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set statistics of the given modality's features."""
        if modality == self.source:
            self.model.fit(tokens)

    def prepare(self, material: Material) -> None:
        """Set the statistics of the targets, and let the model see all pairs."""
        self._vectors = material.vectors
        rows = np.unique(material.features.split("train").members[self.target].rows)
        targets = torch.cat([self._targets(material, part) for part in _parts(rows)])
        self.mean.copy_(targets.mean(0))
        self.deviation.copy_(targets.var(0, correction=0).mean().sqrt().clamp(min=1e-6))
        self.model.learn(partial(self._pairs, material, "train"), partial(self._pairs, material, "dev"))

    def attach(self, material: Material) -> None:
        """Keep the embeddings of the data."""
        self._vectors = material.vectors

    def loss(self, batch: HeadBatch) -> Tensor:
        """Return the model's loss on every given item and an item of its group, drawn at random."""
        owners, taken = draw_owners(batch.groups[self.target], batch.groups[self.source])
        if self.options.slot is None:
            rows = torch.from_numpy(np.asarray(batch.rows[self.target]))
            targets = self._vectors[self.target][rows].to(self.mean.device)
        else:
            targets = batch.tokens[self.target].values[:, self.options.slot].float()
        standard = (targets[owners] - self.mean) / self.deviation
        return self.model.loss(batch.tokens[self.source].rows(taken), batch.embeddings[self.source][taken], standard)

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return a target [N, out] for each item; all items have the same noise."""
        tokens, embeddings = batch.tokens[self.source], batch.embeddings[self.source]
        return self.generate(tokens, embeddings, numbers=[0] * len(embeddings))

    def sample(
        self,
        tokens: TokenBatch,
        embeddings: Tensor,
        *,
        numbers: Sequence[int],
        draws: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Return targets [N, K, out] drawn for each item: unit vectors, or features in place of embeddings.

        Args:
            tokens: tokens [N, T, D] of the items.
            embeddings: embeddings [N, d] of the items.
            numbers: numbers of the items; an item's noise depends on `seed` and its number alone.
            draws: K; by default that of the options, as `guidance` and `steps`.
            guidance: strength of guidance.
            steps: number of steps, at most 64.
            seed: seed of the noise.
        """
        options = self.options
        noise = draw_noise(seed, numbers, (draws or options.draws, self.width)).to(embeddings.device)
        strength = options.guidance if guidance is None else guidance
        values = self.model.generate(tokens, embeddings, noise, strength, steps or options.steps)
        values = values.float() * self.deviation + self.mean
        return normalize(values, dim=-1) if options.slot is None else values

    def generate(self, tokens: TokenBatch, embeddings: Tensor, **settings: Any) -> Tensor:
        """Return a target [N, out] for each item: of its samples the nearest to its embedding, or the first.

        Args:
            tokens: tokens [N, T, D] of the items.
            embeddings: embeddings [N, d] of the items.
            settings: those of `sample`.
        """
        samples = self.sample(tokens, embeddings, **settings)
        return choose(samples, embeddings) if self.options.slot is None else samples[:, 0]

    def generate_rows(self, store: Store, rows: np.ndarray, embeddings: Tensor, **settings: Any) -> Tensor:
        """Return samples [N, K, out] for the stored items at `rows` [N], whose numbers are 0, 1, ...

        Args:
            store: store of the given modality.
            rows: their rows.
            embeddings: their embeddings [N, d].
            settings: those of `sample`, without `numbers`.
        """
        made = []
        for start in range(0, len(rows), PART):
            chosen = slice(start, start + PART)
            tokens = store.gather(rows[chosen], sequence=self.sequences).to(self.mean.device, torch.float32)
            given = embeddings[chosen].to(self.mean.device)
            made.append(self.sample(tokens, given, numbers=range(start, start + len(given)), **settings).cpu())
        return torch.cat(made)

    def judge(self, material: Material) -> Mapping[str, float]:
        """Return the mean cosine to the true targets of dev, a pair of each group, and R@1 among them."""
        pairs = first_pairs(material.features.split("dev"), self.source, self.target)
        if len(pairs) < 2:
            raise HeadError(
                f"{len(pairs)} groups of dev with items of {self.source!r} and {self.target!r}; expected two or more, "
                "to choose the best prior. Give data.dev, or heads.prior.held_out."
            )
        pairs = pairs[np.sort(np.random.default_rng(0).permutation(len(pairs))[: self.options.judged])]
        truths = normalize(self._targets(material, pairs[:, 1]), dim=1)
        given = material.vectors[self.source][torch.from_numpy(pairs[:, 0])]
        samples = self.generate_rows(material.features.store(self.source), pairs[:, 0], given)
        made = choose(samples, given) if self.options.slot is None else normalize(samples[:, 0], dim=1)
        own = np.stack([np.arange(len(pairs))] * 2, 1)
        recall = hits(ranks(made, truths, own), 1).mean()
        return {"dev_cosine": float((made * truths).sum(1).mean()), "dev_recall@1": float(recall)}

    def _targets(self, material: Material, rows: np.ndarray) -> Tensor:
        """Return the true targets [N, out] of stored items at `rows` [N]."""
        if self.options.slot is None:
            return material.vectors[self.target][torch.from_numpy(np.asarray(rows))]
        tokens = material.features.store(self.target).gather(rows, sequence=False).to("cpu", torch.float32)
        return tokens.values[:, self.options.slot]

    def _pairs(self, material: Material, split: str) -> Iterator[tuple[TokenBatch, Tensor, Tensor]]:
        """Yield tokens, embeddings and targets of every given item of a split, with an item of its group."""
        pairs = all_pairs(material.features.split(split), self.source, self.target)
        for part in _parts(pairs):
            batch = material.batch({self.source: part[:, 0]}, {}, self.sequences)
            targets = (self._targets(material, part[:, 1]) - self.mean.cpu()) / self.deviation.cpu()
            yield batch.tokens[self.source], batch.embeddings[self.source], targets


def choose(samples: Tensor, embeddings: Tensor) -> Tensor:
    """Return of samples [N, K, d] for each item the nearest to its embedding [N, d], as unCLIP does."""
    best = torch.einsum("nkd,nd->nk", samples, embeddings.to(samples)).argmax(1)
    return samples[torch.arange(len(samples)), best]


def first_pairs(split: Split, source: str, target: str) -> np.ndarray:
    """Return the rows [G, 2] of the first item of each modality, of every group with both."""
    left, right = split.members[source], split.members[target]
    whole = np.flatnonzero((left.counts > 0) & (right.counts > 0))
    return np.stack([left.rows[left.starts[whole]], right.rows[right.starts[whole]]], 1)


def all_pairs(split: Split, source: str, target: str) -> np.ndarray:
    """Return the rows [P, 2] of every item of `source` with an item of `target` in its group, these in turn."""
    left, right = split.members[source], split.members[target]
    counts = right.counts[left.groups]
    within = np.arange(len(left.rows)) - left.starts[left.groups]
    chosen = counts > 0
    rows = right.rows[right.starts[left.groups[chosen]] + within[chosen] % counts[chosen]]
    return np.stack([left.rows[chosen], rows], 1)


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), 16 * PART):
        yield rows[start : start + 16 * PART]
