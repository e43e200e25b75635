"""The decoder (unCLIP, arXiv 2204.06125): small pictures from the embedding of a picture and the words of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from lightcrl.encoders.image import read_image
from lightcrl.errors import HeadError, ItemError
from lightcrl.heads.base import Head, HeadBatch, HeadOptions, Material, Space, other_modality
from lightcrl.heads.captioning.head import draw_owners
from lightcrl.heads.condition import Condition
from lightcrl.heads.drawing.network import GROUPS, PictureNetwork
from lightcrl.heads.flow import draw_noise, draw_times, flow_loss, guided, integrate, mix
from lightcrl.heads.muon import Muon
from lightcrl.heads.prior.head import first_pairs
from lightcrl.machine import multiplies_bfloat16
from lightcrl.tokens import TokenBatch

MIDDLE = -0.8
"""Middle of the times of training, before the logistic function: most of them near the noise, where things arise."""
SHIFT = 3.0
"""Shift of the steps of a drawing towards the noise, where number and place of things arise."""
MUON_SHARE = 5.0
"""Rate of Muon relative to that of AdamW."""
MOST_PIXELS = 50_000_000
"""Greatest number of pixels of a picture that is read."""
JUDGED_AT = (0.2, 0.5, 0.8)
"""Times at which predictions judge the head."""


class DrawingOptions(HeadOptions):
    """Options of drawing.

    Attributes:
        source: modality of the texts.
        target: modality of the pictures; by default the first that is not `source`.
        size: width and height of a drawn picture in pixels.
        words: true to read the text's tokens beside the embedding of the picture.
        width: width of the condition.
        channels: channels of the network at a quarter of the resolution; three times as many at an eighth.
        blocks: blocks of the network at each resolution, on the way down and on the way up.
        dropout: share of the condition set to zero in training.
        input_dropout: share of the encoder's features set to zero in training.
        unconditional: share of training in which words and embedding are hidden, for guidance.
        without_embedding: share of training in which the embedding alone is hidden: words should do without it.
        embedding_noise: length of the noise that is added to the unit vector in training: a picture must not be known
            by its embedding, and what a prior makes is not exact.
        draws: number of pictures that are drawn for each one; the nearest to the text in the space is taken, as DALL-E
            does with CLIP (arXiv 2102.12092).
        guidance: strength of guidance; 1 has none.
        steps: number of steps of a drawing.
        judged: greatest number of groups that judge the head.
    """

    source: str = "text"
    target: str | None = None
    size: int = Field(default=64, ge=16, multiple_of=8)
    words: bool = True
    width: int = Field(default=128, gt=0)
    channels: int = Field(default=48, gt=0, multiple_of=GROUPS)
    blocks: int = Field(default=1, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    input_dropout: float = Field(default=0.1, ge=0, lt=1)
    unconditional: float = Field(default=0.1, ge=0, lt=1)
    without_embedding: float = Field(default=0.4, ge=0, lt=1)
    embedding_noise: float = Field(default=0.5, ge=0)
    draws: int = Field(default=4, gt=0)
    guidance: float = Field(default=3.0, ge=0)
    steps: int = Field(default=24, gt=0, le=64)
    judged: int = Field(default=100, gt=0)

    @model_validator(mode="after")
    def _check(self) -> DrawingOptions:
        if self.unconditional + self.without_embedding >= 1:
            raise ValueError("unconditional and without_embedding leave no share of training with the embedding")
        return self


class Drawing(Head):
    """A decoder of a picture's embedding, with a text's words, to pixels.

    Attributes:
        source: modality of the texts.
        target: modality of the pictures.
        mean: mean of the training pictures by channel, [3, 1, 1] in [0, 255].
        deviation: mean deviation of their pixels.
    """

    Options: ClassVar[type[HeadOptions]] = DrawingOptions
    suits: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 2e-3,
        "weight_decay": 0.01,
        "batch_size": 16,
        "items_per_group": 1,
        "epochs": 12,
    }
    defaults: ClassVar[Mapping[str, Any]] = {"held_out": 0.02}
    coordinates: ClassVar[bool] = True
    options: DrawingOptions
    mean: Tensor
    deviation: Tensor

    def __init__(self, space: Space, options: DrawingOptions) -> None:
        super().__init__(space, options)
        self.source = options.source
        self.target = options.target or other_modality(space.modalities, self.source)
        self.need(self.target)
        if self.target == self.source:
            raise HeadError(f"drawing makes {self.target!r} of itself; expected a modality of pictures as target.")
        self.targets = (self.target,)
        self.condition = Condition(self.need(self.source), space.dim, options)
        self.absent = nn.Parameter(torch.randn(space.dim) * 0.02)
        self.nothing = nn.Parameter(torch.randn(options.width) * 0.02)
        self.network = PictureNetwork(options.size, options.channels, options.blocks, options.width)
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("deviation", torch.ones(()))
        fast = multiplies_bfloat16("cpu")
        self.suits = {"precision": "bfloat16" if fast else "float32", **type(self).suits}  # type: ignore[misc]
        # What `prepare` keeps of the data.
        self._pictures: dict[int, np.ndarray] = {}
        self._vectors: Mapping[str, Tensor] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modality of the texts and that of the pictures, whose tokens are not read."""
        return self.source, self.target

    def make_optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return Muon for the inner weights of the network, AdamW for all others."""
        return Muon(groups, self.network.hidden(), MUON_SHARE)

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set statistics of the texts' features."""
        if modality == self.source:
            self.condition.fit(tokens)

    def prepare(self, material: Material) -> None:
        """Read all pictures, and set the statistics of those of the training split.

        Raises:
            HeadError: the target modality has no pictures.
        """
        self.attach(material)
        rows = np.unique(material.features.split("train").members[self.target].rows)
        pixels = np.stack([self._pictures[row] for row in rows.tolist()])
        mean = pixels.mean((0, 1, 2), dtype=np.float64)
        self.mean.copy_(torch.from_numpy(mean)[:, None, None])
        self.deviation.fill_(float(np.sqrt(pixels.var((0, 1, 2), dtype=np.float64).mean()).clip(1e-6)))

    def attach(self, material: Material) -> None:
        """Read the pictures of all splits, and keep the embeddings."""
        items, self._vectors = material.items(self.target), material.vectors
        splits = material.features.splits.values()
        rows = np.unique(np.concatenate([split.members[self.target].rows for split in splits]))
        self._pictures = {row: read_pixels(items[row].read(), self.options.size) for row in rows.tolist()}

    def loss(self, batch: HeadBatch) -> Tensor:
        """Return the flow's loss on every picture of the batch, told of a text of its group, drawn at random."""
        owners, taken = draw_owners(batch.groups[self.source], batch.groups[self.target])
        rows = np.asarray(batch.rows[self.target])[taken.cpu().numpy()]
        drawn = torch.rand(len(rows), 1).to(self.mean.device)
        hidden, alone = drawn < self.options.unconditional, drawn >= 1 - self.options.without_embedding
        embeddings = self._embeddings(rows)
        noise = torch.randn(embeddings.shape).to(embeddings.device) / embeddings.shape[1] ** 0.5
        embeddings = embeddings + self.options.embedding_noise * noise
        condition = self._condition(batch.tokens[self.source].rows(owners), embeddings, alone)
        condition = torch.where(hidden, self.nothing.to(condition.dtype), condition)
        times = draw_times(len(rows), MIDDLE).to(self.mean.device)
        return flow_loss(partial(self._predict, condition=condition), self._data(rows), times)

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return the predicted pixels [N, 3, S, S] of each picture, half-way from noise that is the same for all."""
        rows = np.asarray(batch.rows[self.target])
        condition = self._condition(batch.tokens[self.source], self._embeddings(rows))
        return self._judged(rows, condition, 0.5, [0] * len(rows))

    @torch.inference_mode()
    def draw(
        self,
        tokens: TokenBatch,
        embeddings: Tensor | None,
        *,
        numbers: Sequence[int],
        guidance: float | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Return pictures [N, S, S, 3] uint8.

        Args:
            tokens: tokens [N, T, D] of texts.
            embeddings: embeddings [N, d] of pictures, such as those that a prior makes; None draws from words alone.
            numbers: numbers of the pictures; a picture's noise depends on `seed` and its number alone.
            guidance: strength of guidance; by default that of the options, as `steps`.
            steps: number of steps.
            seed: seed of the noise.
        """
        device, size, options = self.mean.device, self.options.size, self.options
        absent = embeddings is None
        given = self.absent.expand(len(tokens), -1) if embeddings is None else embeddings.to(device)
        condition = self._condition(tokens.to(device, torch.float32), given, torch.full((len(tokens), 1), absent))
        predict = guided(
            partial(self._predict, condition=condition),
            partial(self._predict, condition=self.nothing.expand_as(condition)),
            options.guidance if guidance is None else guidance,
        )
        noise = draw_noise(seed, numbers, (3, size, size)).to(device)
        pixels = integrate(predict, noise, steps or options.steps, SHIFT) * self.deviation + self.mean
        return pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()

    def judge(self, material: Material) -> Mapping[str, float]:
        """Return the explained share of the variance of dev's pictures, in the mean over places of their paths."""
        pairs = first_pairs(material.features.split("dev"), self.source, self.target)
        if not len(pairs):
            raise HeadError(
                f"no group of dev has both {self.source!r} and {self.target!r}; expected some, to choose the best "
                "decoder. Give data.dev, or heads.drawing.held_out."
            )
        pairs = pairs[np.sort(np.random.default_rng(0).permutation(len(pairs))[: self.options.judged])]
        batch = material.batch({self.source: pairs[:, 0]}, {}, self.sequences)
        condition = self._condition(batch.tokens[self.source].to(self.mean.device), self._embeddings(pairs[:, 1]))
        data = self._data(pairs[:, 1])
        errors = [
            float((self._judged(pairs[:, 1], condition, time, range(len(pairs))) - data).square().mean())
            for time in JUDGED_AT
        ]
        variance = float(data.var((0, 2, 3), correction=0).mean())
        return {"dev_explained": 1 - float(np.mean(errors)) / max(variance, 1e-12)}

    def _judged(self, rows: np.ndarray, condition: Tensor, time: float, numbers: Sequence[int]) -> Tensor:
        data = self._data(rows)
        noise = draw_noise(0, numbers, data.shape[1:]).to(data.device)
        times = data.new_full((len(rows),), time)
        return self._predict(mix(data, noise, times), times, condition).float()

    def _condition(self, tokens: TokenBatch, embeddings: Tensor, absent: Tensor | None = None) -> Tensor:
        if absent is not None:
            embeddings = torch.where(absent.to(embeddings.device), self.absent, embeddings)
        return self.condition(tokens, embeddings)

    def _predict(self, places: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        return self.network(places, times, condition)

    def _embeddings(self, rows: np.ndarray) -> Tensor:
        return self._vectors[self.target][torch.from_numpy(rows)].to(self.mean.device)

    def _data(self, rows: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.stack([self._pictures[row] for row in rows.tolist()]))
        return (pixels.permute(0, 3, 1, 2).to(self.mean.device, torch.float32) - self.mean) / self.deviation


def read_pixels(raw: Any, size: int) -> np.ndarray:
    """Return the pixels [size, size, 3] uint8 of a picture in any form that encoders read.

    Raises:
        HeadError: the item is no picture, or it is unreadable.
    """
    try:
        picture = read_image(raw, MOST_PIXELS, size)
    except ItemError as error:
        raise HeadError(f"drawing learns from pictures ({error}). Name their modality as target.") from None
    smaller = min(picture.size) >= size
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC))
