"""A method in growth: the modalities that are new to it learn to meet embeddings that stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lightcrl.errors import TrainingError
from lightcrl.losses import Loss
from lightcrl.methods import METHODS
from lightcrl.methods.base import Inlet, Method, MethodOptions, Step
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenBatch, TokenSpec

NAME = "lightcrl.methods.extension:Extension"
"""Its name in checkpoints; a literal, since files hold it. It is no member of `METHODS`: what comes of it is."""


class ExtensionOptions(MethodOptions):
    """Options of a method in growth.

    Attributes:
        method: the method that grows, a member of `METHODS`.
        below: its options.
        body: token shapes of all of its modalities, the new ones among them.
        fresh: the new modalities.
        weights: of pairs with embeddings of these names; 1 where none is given.
        shared_dropout: dropout in the shared parts, whose weights are frozen, is on in training.
    """

    method: str
    below: dict[str, Any]
    body: dict[str, TokenSpec]
    fresh: tuple[str, ...] = Field(min_length=1)
    weights: dict[str, float] = Field(default_factory=dict)
    shared_dropout: bool = False


class Extension(Method):
    """The method below, of which the stem, head, pool and context of the new modalities are trained, and nothing else.

    All other modalities are embeddings, tokens [N, 1, d] that never change: whether an old item is at hand or only its
    vector, and what its encoder costs, makes no difference. The loss is the mean over all pairs with a new modality of
    what the method below makes of that pair. Logit scale and bias are fresh, and end with the training: they decide no
    embedding.

    Dropout stays off in the shared parts unless `shared_dropout`: their weights cannot adapt to it (docs/LOG.md).

    Attributes:
        body: the method below.
    """

    Options: ClassVar[type[MethodOptions]] = ExtensionOptions
    rigid: ClassVar[str] = "it is in growth itself"
    options: ExtensionOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: ExtensionOptions) -> None:
        super().__init__(modalities, options)
        kind = METHODS.load(options.method)
        # What class attributes say of every other method, the method below says of this one.
        self.sequences, self.closed_form = kind.sequences, kind.closed_form  # type: ignore[misc]
        self.body = kind(options.body, kind.Options.model_validate(options.below))
        fresh = frozenset[str]().union(*map(self.body.leaves_of, options.fresh))
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name in fresh)
        self.logit_scale.requires_grad_(False)
        self.solves = self.body.solves

    @property
    def dim(self) -> int:
        """d, the width of the method below."""
        return self.body.dim

    @property
    def scale(self) -> Tensor:
        """The logit scale of the method below."""
        return self.body.scale

    def make_stem(self, modality: str) -> Inlet:
        """Nothing of its own: the method below has the stems."""
        return Inlet(TokenSpec(1), self.options)

    def train(self, mode: bool = True) -> Extension:
        """Put what is trained into training mode, and the shared parts as `shared_dropout` says."""
        super().train(mode)
        if mode and not self.options.shared_dropout:
            for part in self.shared():
                part.eval()
        return self

    def shared(self) -> list[nn.Module]:
        """The parts of the method below that no modality has for itself."""
        tables = {table.partition(".")[0] for table in self.body.tables()}
        return [part for name, part in self.body.named_children() if name not in tables]

    def parts(self) -> dict[str, int]:
        """Trained parameters by part of the method below."""
        counts: Counter[str] = Counter()
        for name, parameter in self.body.named_parameters():
            counts[name.partition(".")[0]] += parameter.numel() * parameter.requires_grad
        return {name: count for name, count in counts.items() if count}

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """[B, d]."""
        if modality not in self.options.fresh:
            return tokens.values[:, 0]
        return self.body.embed(modality, self.body.visible(modality, tokens))

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Take means and deviations of a new modality's features."""
        if modality in self.options.fresh:
            self.body.fit(modality, tokens)

    def solve(self, steps: Iterable[Step]) -> None:
        """Find what the method below solves, for the new modalities."""
        self.body.solve_towards(self.options.fresh, steps)

    def solve_towards(self, fresh: Collection[str], steps: Iterable[Step]) -> None:
        """As the method below."""
        self.body.solve_towards(fresh, steps)

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """The weighted mean over pairs with a new modality of the loss of the method below.

        Raises:
            TrainingError: no new modality shares a group with another in this batch.
        """
        fresh, weights = self.options.fresh, self.options.weights
        step = replace(step, tokens={name: tokens for name, tokens in step.tokens.items() if name in fresh})
        total, mass = self.body.logit_scale.new_zeros(()), 0.0
        for a, b in combinations(sorted(embeddings), 2):
            weight = weights.get(a, 1.0) * weights.get(b, 1.0)
            met = torch.isin(step.groups[a], step.groups[b]).any()
            if weight and (a in fresh or b in fresh) and met:
                pair = {a: embeddings[a], b: embeddings[b]}
                total, mass = total + weight * self.body.objective(loss, pair, step), mass + weight
        if not mass:
            raise TrainingError("no new modality shares a group with another in this batch; expected groups with both.")
        return total / mass

    def start_logits(self, scale: float, bias: float | None) -> None:
        """Set where logit scale and bias of the method below start: they are fresh."""
        self.body.logit_scale.requires_grad_(True)
        self.body.start_logits(scale, bias)

    def bound_logit_scale(self) -> None:
        """As the method below."""
        self.body.bound_logit_scale()


def grow(
    body: Method,
    name: str,
    specs: Mapping[str, TokenSpec],
    anchors: Collection[str],
    loss: str,
    *,
    seed: int = 0,
    **settings: Any,
) -> Extension:
    """A method in growth, ready to be trained.

    Args:
        body: the method that grows; stays as it is.
        name: its name in `METHODS`.
        specs: token shapes of the new modalities; one of the body's own is made anew.
        anchors: names under which embeddings come.
        loss: a member of `LOSSES`.
        seed: of fresh weights.
        settings: further `ExtensionOptions`.

    Raises:
        GrowthError: as `Method.extended`.
    """
    grown = body.extended(specs, seed)
    options = {
        **{key: getattr(body.options, key) for key in MethodOptions.model_fields},
        "method": name,
        "below": grown.options.model_dump(mode="json"),
        "body": {modality: asdict(spec) for modality, spec in grown.modalities.items()},
        "fresh": sorted(specs),
        **settings,
    }
    made = make_method(NAME, {**dict.fromkeys(anchors, TokenSpec(body.dim)), **specs}, options, loss, seed)
    assert isinstance(made, Extension)
    state = {leaf: tensor for leaf, tensor in grown.state_dict().items() if not leaf.startswith("logit_")}
    made.body.load_state_dict(state, strict=False)
    return made.to(body.logit_scale.device)


def grown_up(body: Method, extension: Extension) -> Method:
    """The method `body` with the modalities that `extension` has trained; every other leaf is its own, bit for bit."""
    fresh = frozenset(extension.options.fresh)
    made = body.remade({**body.modalities, **{name: extension.modalities[name] for name in fresh}}, fresh)
    trained, state = extension.body.state_dict(), made.state_dict()
    for leaf in frozenset[str]().union(*map(made.leaves_of, fresh)):
        state[leaf].copy_(trained[leaf])
    return made.eval()
