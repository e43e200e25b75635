"""Training of new modalities of a method: they are aligned with fixed embeddings of the old ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from lightcrl.leaves import take_sizes
from lightcrl.losses import Loss
from lightcrl.methods import METHODS
from lightcrl.methods.base import Method, Step
from lightcrl.methods.joining import Joining, JoiningOptions
from lightcrl.methods.spec import make_method
from lightcrl.methods.stems import Inlet, MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec

NAME = "lightcrl.methods.extension:Extension"
"""Name of `Extension` in checkpoints; a literal, since files hold it.

It is no member of `METHODS`; the method that results from it is one.
"""


class ExtensionOptions(JoiningOptions):
    """Options of `Extension`.

    Attributes:
        method: name of the method below, the one that is extended; a member of `METHODS`.
        below: options of the method below.
        body: token shapes of all modalities of the method below, old and new.
        shared_dropout: true if dropout in the shared parts, whose weights are frozen, is on in training.
    """

    method: str
    below: dict[str, Any]
    body: dict[str, TokenSpec]
    shared_dropout: bool = False


class Extension(Joining):
    """The method below with only the stem, head, pool and context of the new modalities trained.

    The loss is the weighted mean of the loss of the method below over all pairs with a new modality. Logit scale and
    bias are fresh and end with the training, since no embedding depends on them.

    Dropout stays off in the shared parts unless `shared_dropout`: their weights cannot adapt to it (docs/LOG.md).

    Attributes:
        body: the method below.
    """

    Options: ClassVar[type[MethodOptions]] = ExtensionOptions
    rigid: ClassVar[str] = "it is itself the training of an extension"
    options: ExtensionOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: ExtensionOptions) -> None:
        super().__init__(modalities, options)
        kind = METHODS.load(options.method)
        # In other methods these are class attributes; here they depend on the method below.
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
        """Return an inlet without weights: the method below has the stems."""
        return Inlet(TokenSpec(1), self.options)

    def train(self, mode: bool = True) -> Extension:
        """Set the mode; in training mode the shared parts stay in eval mode unless `shared_dropout`."""
        super().train(mode)
        if mode and not self.options.shared_dropout:
            for part in self.shared():
                part.eval()
        return self

    def shared(self) -> list[nn.Module]:
        """Return the parts of the method below that belong to no single modality."""
        tables = {table.partition(".")[0] for table in self.body.tables()}
        return [part for name, part in self.body.named_children() if name not in tables]

    def parts(self) -> dict[str, int]:
        """Return the number of trained parameters by part of the method below."""
        counts: Counter[str] = Counter()
        for name, parameter in self.body.named_parameters():
            counts[name.partition(".")[0]] += parameter.numel() * parameter.requires_grad
        return {name: count for name, count in counts.items() if count}

    def embed_new(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return vectors [B, d] by the method below."""
        return self.body.embed(modality, self.body.visible(modality, tokens))

    def fit_new(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of a new modality's features in the method below."""
        self.body.fit(modality, tokens)

    def regularise(self, groups: int, steps: int) -> None:
        """Adapt input dropout in the method below."""
        self.body.regularise(groups, steps)

    def dropped(self) -> dict[str, float]:
        """Return the shares of the new modalities in the method below."""
        return {name: share for name, share in self.body.dropped().items() if name in self.options.fresh}

    def align(self, loss: Loss, pair: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the loss of the method below over two modalities; it sees the tokens of new ones alone."""
        tokens = {name: tokens for name, tokens in step.tokens.items() if name in self.options.fresh}
        return self.body.objective(loss, pair, replace(step, tokens=tokens))

    def solve(self, steps: Iterable[Step]) -> None:
        """Solve the closed-form weights of the new modalities in the method below."""
        self.body.solve_towards(self.options.fresh, steps)

    def solve_towards(self, fresh: Collection[str], steps: Iterable[Step]) -> None:
        """Solve the weights of the modalities `fresh` in the method below."""
        self.body.solve_towards(fresh, steps)

    def start_logits(self, scale: float, bias: float | None) -> None:
        """Set the initial logit scale and bias of the method below, and make the logit scale trainable."""
        self.body.logit_scale.requires_grad_(True)
        self.body.start_logits(scale, bias)

    def bound_logit_scale(self) -> None:
        """Bound the logit scale of the method below."""
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
    """Return an `Extension` of a method, ready for training.

    Args:
        body: the method to extend; it is not changed.
        name: name of `body` in `METHODS`.
        specs: token shapes of the new modalities; a modality that `body` has already is made anew.
        anchors: names of the old embeddings.
        loss: a member of `LOSSES`.
        seed: seed of fresh weights.
        settings: further `ExtensionOptions`.

    Raises:
        GrowthError: see `Method.extended`.
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
    take_sizes(made.body, state)
    made.body.load_state_dict(state, strict=False)
    return made.joined_to(body)


def grown_up(body: Method, extension: Extension) -> Method:
    """Return `body` with the modalities that `extension` has trained; every other leaf of `body` stays bit for bit."""
    fresh = frozenset(extension.options.fresh)
    made = body.remade({**body.modalities, **{name: extension.modalities[name] for name in fresh}}, fresh)
    trained, state = extension.body.state_dict(), made.state_dict()
    for leaf in frozenset[str]().union(*map(made.leaves_of, fresh)):
        state[leaf].copy_(trained[leaf])
    return made.eval()
