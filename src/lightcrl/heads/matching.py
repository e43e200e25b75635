"""Matching (ITM of BLIP, arXiv 2201.12086): a score for a pair of items of two modalities, from the tokens of both.

    s(a, b) = scale * (e_a · e_b - local * (r_a + r_b)) + weight * F(tokens of a, tokens of b, e_a * e_b)

r is how crowded an item's place is (`heads.crowding`). The last layer of F is zero at the start, so the first score is
the space's, and training learns a residual. Both weights are chosen on groups without a part in the training; with
weights of 0 the score is the space's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightcrl.errors import HeadError
from lightcrl.features.embed import embed_rows, sample_rows
from lightcrl.features.table import Features
from lightcrl.heads.base import Graph, Head, HeadBatch, HeadOptions, Material, Space, features_of
from lightcrl.heads.crossing import AlignedTokens, Crossing
from lightcrl.heads.crowding import Crowding
from lightcrl.heads.negatives import Nearest, nearest, positives
from lightcrl.heads.weighing import Hits, Scored, choose_weights, figures
from lightcrl.methods.base import Method
from lightcrl.methods.dropout import Dropout
from lightcrl.metrics.reordering import first_hits
from lightcrl.metrics.retrieval import Scorer
from lightcrl.tokens import TokenBatch

PAIRS = 2_048
"""Number of pairs that are scored at once outside of training."""
JUDGED = 1_000
"""Greatest number of queries per direction that judge a head."""


@dataclass(frozen=True)
class Encoded:
    """Items of a modality, ready for pairing.

    Attributes:
        tokens: aligned tokens [N, T, w].
        vectors: embeddings [N, d].
        crowding: r of the embeddings [N].
        asked: queries and hidden parts of the tokens, if they attend to those of the other modality.
        keys: keys of the tokens [N, T, w], if those of the other modality attend to them.
    """

    tokens: TokenBatch
    vectors: Tensor
    crowding: Tensor
    asked: tuple[Tensor, Tensor] | None
    keys: Tensor | None

    def at(self, index: Tensor) -> Encoded:
        """Return the items at `index` [P]."""
        asked = None if self.asked is None else (self.asked[0][index], self.asked[1][index])
        keys = None if self.keys is None else self.keys[index]
        return Encoded(self.tokens.rows(index), self.vectors[index], self.crowding[index], asked, keys)


class MatchingOptions(HeadOptions):
    """Options of matching.

    Attributes:
        modalities: the two modalities; by default those of a space with two.
        asking: modalities whose tokens attend to those of the other; both by default. BLIP has words alone, which costs
            less where a picture has many more tokens than a caption.
        width: w, width of the aligned tokens.
        heads: attention heads.
        hidden: number of features of a pair in each direction.
        dropout: share of a pair's features set to zero in training.
        input_dropout: share of the encoder's features set to zero in training.
        negatives: negatives of each query in a step.
        pool: number of nearest items of other groups from which negatives are drawn at first.
        hardest: number of those from which they are drawn at last.
        ramp: share of the training in which the pool shrinks.
        candidates: number of first hits that are reordered when the head is judged.
    """

    modalities: tuple[str, str] | None = None
    asking: tuple[str, ...] | None = Field(default=None, min_length=1)
    width: int = Field(default=128, gt=0)
    heads: int = Field(default=4, gt=0)
    hidden: int = Field(default=128, gt=0)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    input_dropout: float = Field(default=0.3, ge=0, lt=1)
    negatives: int = Field(default=15, gt=0)
    pool: int = Field(default=512, gt=0)
    hardest: int = Field(default=32, gt=0)
    ramp: float = Field(default=0.5, ge=0, le=1)
    candidates: int = Field(default=32, gt=1)

    @model_validator(mode="after")
    def _divides(self) -> MatchingOptions:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        return self


class Matching(Head):
    """A residual to the space's similarity, from cross-attention in both directions and the product of embeddings.

    Attributes:
        weight: weight of the residual, chosen by `judge`.
        local: weight of crowding, chosen by `judge`.
        scale: the space's logit scale.
        log_factor: log of a factor of all scores in the loss, trained.
    """

    Options: ClassVar[type[HeadOptions]] = MatchingOptions
    suits: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "batch_size": 32, "epochs": 4, "items_per_group": 1}
    defaults: ClassVar[Mapping[str, Any]] = {"apart": 0.5, "held_out": 0.2}
    options: MatchingOptions
    weight: Tensor
    local: Tensor
    scale: Tensor

    def __init__(self, space: Space, options: MatchingOptions) -> None:
        super().__init__(space, options)
        names = options.modalities or tuple(space.modalities)
        if len(names) != 2 or names[0] == names[1]:
            raise HeadError(
                f"matching reads two modalities, and the space has {', '.join(names)}. Name two with "
                'heads.matching.modalities, such as ["image", "text"].'
            )
        self._names = (names[0], names[1])
        # The space may gain modalities; the head stays on these.
        self.options = options = options.model_copy(update={"modalities": self._names})
        width = options.width
        self.tokens = nn.ModuleDict({m: AlignedTokens(self.need(m), width, options.input_dropout) for m in names})
        asking = names if options.asking is None else options.asking
        if unknown := sorted(set(asking) - set(names)):
            raise HeadError(f"heads.matching.asking has {', '.join(unknown)}; expected {' or '.join(names)}.")
        self.crossings = nn.ModuleDict(
            {m: Crossing(width, options.heads, options.hidden) for m in names if m in asking}
        )
        self.dropout = Dropout(options.dropout)
        self.score = nn.Linear(len(self.crossings) * options.hidden + space.dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        # The space is too sure among its own hardest negatives; the order of scores does not depend on this factor.
        self.log_factor = nn.Parameter(torch.zeros(1))
        self.crowding = nn.ModuleDict({m: Crowding(space.dim) for m in names})
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("local", torch.tensor(0.5))
        self.register_buffer("scale", torch.tensor(1 / 0.07))
        self._nearest: dict[str, Nearest] = {}
        self._positives: dict[str, dict[int, list[int]]] = {}
        self._material: Material | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The two modalities."""
        return self._names

    @torch.no_grad()
    def start(self, method: Method) -> None:
        """Take the stems, the pools and the logit scale of the space's method."""
        self.scale.copy_(method.scale)
        size = method.trained_dim
        rotation = torch.linalg.qr(torch.randn(size, max(size, self.options.width)))[0][:, : self.options.width]
        for name in self.modalities:
            tokens = self.tokens[name]
            assert isinstance(tokens, AlignedTokens)
            if self.options.width <= size:
                tokens.start(method, name, rotation)

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of features that the space does not give."""
        aligned = self.tokens[modality]
        assert isinstance(aligned, AlignedTokens)
        aligned.fit(tokens)

    def prepare(self, material: Material) -> None:
        """Find the nearest items of other groups in the training split."""
        self._material = material
        split = material.features.split("train")
        for source, target in (self._names, self._names[::-1]):
            self._nearest[source] = nearest(material.vectors, split, source, target, self.options.pool)
            self._positives[source] = positives(split, source, target)
            self._crowd(source).take(material.vectors[target][torch.from_numpy(sample_rows(split, target))])

    def settle(self, space: Method, features: Features) -> None:
        """Compare items with training items embedded by the model's own space."""
        split = features.split("train")
        for source, target in (self._names, self._names[::-1]):
            self._crowd(source).take(embed_rows(space, features.store(target), target, sample_rows(split, target)))

    def encode(self, modality: str, batch: HeadBatch) -> Encoded:
        """Return the items of a modality, aligned once, to be paired with any others."""
        tokens: TokenBatch = self.tokens[modality](batch.tokens[modality])
        asking, answering = self._crossing(modality), self._crossing(self._names[modality == self._names[0]])
        asked = None if asking is None else asking.ask(tokens)
        keys = None if answering is None else answering.answer(tokens)
        vectors = batch.embeddings[modality]
        return Encoded(tokens, vectors, self._crowd(modality)(vectors), asked, keys)

    def _crowd(self, modality: str) -> Crowding:
        crowding = self.crowding[modality]
        assert isinstance(crowding, Crowding)
        return crowding

    def _crossing(self, modality: str) -> Crossing | None:
        """Return the attention of a modality's tokens to those of the other, if it has any."""
        crossing = self.crossings[modality] if modality in self.crossings else None  # noqa: SIM401 - no `get`
        assert crossing is None or isinstance(crossing, Crossing)
        return crossing

    def residual(self, left: Encoded, right: Encoded) -> Tensor:
        """Return F [P] of P pairs: the i-th items of the first and of the second modality."""
        sides = dict(zip(self._names, ((left, right), (right, left)), strict=True))
        crossed = [
            crossing(own.tokens, own.asked, other.tokens, other.keys)
            for name, crossing in self.crossings.items()
            for own, other in [sides[name]]
        ]
        products = left.vectors * right.vectors * left.vectors.shape[1] ** 0.5
        scores: Tensor = self.score(self.dropout(torch.cat([*crossed, products], -1))).squeeze(-1)
        return scores

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return scores [N] of the pairs of the i-th items of both modalities."""
        left, right = (self.encode(name, batch) for name in self._names)
        return self._scored(left, right).total(self.local, self.weight)

    def _scored(self, left: Encoded, right: Encoded, residual: bool = True) -> Scored:
        """Return the parts [P] of the scores of P pairs, the i-th items of the first and of the second modality."""
        space = self.scale * (left.vectors * right.vectors).sum(-1)
        crowding = self.scale * (left.crowding + right.crowding)
        return Scored(space, crowding, self.residual(left, right) if residual else torch.zeros_like(space))

    def loss(self, batch: HeadBatch) -> Tensor:
        """Return the cross-entropy of a right item among negatives, the mean over both directions."""
        return torch.stack([self._direction(batch, *names) for names in (self._names, self._names[::-1])]).mean()

    def _direction(self, batch: HeadBatch, source: str, target: str) -> Tensor:
        """Return the cross-entropy of queries of one modality among items of the other."""
        assert self._material is not None
        own, options = self._positives[source], self.options
        rows = np.array([row for row in np.asarray(batch.rows[source]).tolist() if own.get(row)])
        right = np.array([own[row][int(torch.randint(len(own[row]), ()))] for row in rows.tolist()])
        wrong = self._nearest[source].draw(rows, options.negatives, batch.done, options.ramp, options.hardest)
        scored = self.score_rows(self._material, (source, target), rows, np.concatenate([right[:, None], wrong], 1))
        logits = self.log_factor.exp() * scored.total(self.local, 1.0)
        return cross_entropy(logits, torch.zeros(len(rows), dtype=torch.long, device=logits.device))

    def score_rows(
        self, material: Material, names: tuple[str, str], rows: np.ndarray, lists: np.ndarray, residual: bool = True
    ) -> Scored:
        """Return the parts [N, K] of the scores of queries with lists of items; F is 0 if it is not asked for.

        Args:
            material: tokens and embeddings.
            names: modality of the queries, and that of the items.
            rows: rows of the queries [N].
            lists: rows of the items [N, K].
        """
        source, target = names
        others, places = np.unique(lists, return_inverse=True)
        device = self.scale.device
        queries = self.encode(source, material.batch({source: rows}, {}, self.sequences).to(device))
        items = self.encode(target, material.batch({target: others}, {}, self.sequences).to(device))
        return self.score_lists(names, queries, items, places.reshape(lists.shape), residual)

    def score_lists(
        self, names: tuple[str, str], queries: Encoded, items: Encoded, places: np.ndarray, residual: bool = True
    ) -> Scored:
        """Return the parts [N, K] of the scores of N queries with the items at `places` [N, K]; F is 0 if not asked."""
        queries = queries.at(torch.arange(len(places)).repeat_interleave(places.shape[1]))
        items = items.at(torch.from_numpy(places.reshape(-1)))
        sides = (queries, items) if names[0] == self._names[0] else (items, queries)
        flat = self._scored(*sides, residual)
        return Scored(*(part.view(places.shape) for part in (flat.space, flat.crowding, flat.residual)))

    def graphs(self) -> Mapping[str, Graph]:
        """Return one graph: tokens, masks and embeddings of N pairs to `scores` [N]."""
        inputs: dict[str, Tensor] = {}
        dynamic: dict[str, Mapping[int, Any]] = {}
        pairs = torch.export.Dim("pairs")
        for name in self._names:
            spec = self.space.modalities[name]
            fixed = spec.slots > 1 and not spec.sequence
            values = torch.zeros(3, spec.slots if fixed else spec.slots + 4, spec.dim)
            least = {"min": spec.slots + 1} if spec.sequence else {}
            tokens = {} if fixed else {1: torch.export.Dim(f"{name}_tokens", **least)}
            inputs |= {f"{name}_values": values, f"{name}_mask": torch.ones(values.shape[:2], dtype=torch.bool)}
            inputs[f"{name}_vectors"] = torch.ones(3, self.space.dim)
            dynamic |= {f"{name}_values": {0: pairs, **tokens}, f"{name}_mask": {0: pairs, **tokens}}
            dynamic[f"{name}_vectors"] = {0: pairs}
        return {"": Graph(_PairScores(self), inputs, dynamic, "scores")}

    def scores(self, material: Material, names: tuple[str, str], rows: np.ndarray, lists: np.ndarray) -> np.ndarray:
        """Return scores [N, K] of queries with lists of items, pairs in parts; arguments as in `score_rows`."""
        scored = self._in_parts(material, names, rows, lists, bool(self.weight))
        return scored.total(float(self.local), float(self.weight)).numpy()

    @torch.inference_mode()
    def _in_parts(
        self, material: Material, names: tuple[str, str], rows: np.ndarray, lists: np.ndarray, residual: bool = True
    ) -> Scored:
        step = max(1, PAIRS // lists.shape[1])
        parts = [
            self.score_rows(material, names, rows[start : start + step], lists[start : start + step], residual)
            for start in range(0, len(rows), step)
        ]
        return Scored.joined(parts)

    def judge(self, material: Material) -> Mapping[str, float]:
        """Choose both weights by the reordered hits of dev, and return figures beside those of the space."""
        hits = self.hits(material)
        weights = choose_weights(hits)
        self.local.fill_(weights.local)
        self.weight.fill_(weights.residual)
        return figures(hits, weights)

    def hits(self, material: Material) -> list[Hits]:
        """Return the first hits of dev's queries in both directions."""
        return [self._hits(material, names) for names in (self._names, self._names[::-1])]

    def _hits(self, material: Material, names: tuple[str, str]) -> Hits:
        split = material.features.split("dev")
        source, target = names
        own = positives(split, source, target)
        rows = np.array(sorted(row for row, rights in own.items() if rights))
        if len(rows) > JUDGED:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:JUDGED])
        gallery = np.unique(split.members[target].rows)
        queries, keys = (material.vectors[m][torch.from_numpy(r)] for m, r in ((source, rows), (target, gallery)))
        lists = gallery[first_hits(queries, keys, self.options.candidates)]
        right = np.array([np.isin(line, own[row]) for row, line in zip(rows.tolist(), lists, strict=True)])
        return Hits(self._in_parts(material, names, rows, lists), torch.from_numpy(right))


class _PairScores(nn.Module):
    """The forward pass of matching with tensors as arguments."""

    def __init__(self, head: Matching) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, values: Tensor, mask: Tensor, vectors: Tensor, others: Tensor, other_mask: Tensor, other_vectors: Tensor
    ) -> Tensor:
        first, second = self.head.modalities
        tokens = {first: TokenBatch(values, mask), second: TokenBatch(others, other_mask)}
        scores: Tensor = self.head(HeadBatch(tokens, {first: vectors, second: other_vectors}, {}))
        return scores


def row_scorer(head: Matching, features: Features, split: str, vectors: Mapping[str, Tensor]) -> Scorer:
    """Return a function that scores items of a split, given by their numbers in order of rows.

    Args:
        head: the head.
        features: features with tokens of its modalities.
        split: name of the split.
        vectors: unit vectors [N_m, d] of the items of the split by modality.

    Raises:
        HeadError: the features lack a modality or its tokens.
    """
    features = features_of(head, features)
    numbers = {name: np.unique(features.split(split).members[name].rows) for name in head.modalities}
    placed = {}
    for name, rows in numbers.items():
        placed[name] = torch.zeros(features.store(name).rows, vectors[name].shape[1])
        placed[name][torch.from_numpy(rows)] = vectors[name].float()
    material = Material(features, placed)

    def scorer(source: str, queries: np.ndarray, target: str, lists: np.ndarray) -> np.ndarray:
        return head.scores(material, (source, target), numbers[source][queries], numbers[target][lists])

    return scorer
