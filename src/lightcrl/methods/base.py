"""The interface of all methods: tokens of a modality in, unit vectors of one space out, a logit scale for the loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightcrl.errors import GrowthError, ModalityError, ShapeError
from lightcrl.leaves import take_sizes
from lightcrl.losses import Loss, over_pairs
from lightcrl.machine import seed_draws
from lightcrl.methods.hubs import Hubs
from lightcrl.methods.stems import Inlet, MethodOptions, Stem
from lightcrl.tokens import TokenBatch, TokenSpec

MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Step:
    """The inputs of a training step, by modality.

    Attributes:
        tokens: features [N_m, T, D_m]; with several processes the share of this process.
        groups: group numbers [N_m]; equal numbers are positives of each other.
        done: share of all steps that are done, 0 at the first step.
        rows: rows [N_m] of the feature store; empty if the tokens come from no store.
        view: number of the view of all items where a closed form reads them, 0 for plain items.
    """

    tokens: dict[str, TokenBatch]
    groups: dict[str, Tensor]
    done: float = 0.0
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    view: int = 0


class Method(nn.Module, ABC):
    """A map from tokens of any of its modalities to unit vectors [B, d].

    Attributes:
        modalities: names and token shapes.
        logit_scale: learnable log of the scale s in the loss; log 1/0.07 at the start, never above log 100.
        logit_bias: learnable bias of the sigmoid loss; None for a loss without bias.
        hubs: correction of embeddings for hubs; None before the end of a training, and without one.
        suits: values that `"auto"` resolves to in a recipe's `[training]` table, where they differ from the default
            (`TrainingSpec.suited`).
        grid: options that a fair comparison tries on dev, each on top of the defaults; the empty entry is the defaults.
        closed_form: true if `solve` determines all weights, so that there are no steps.
        solves: true if `solve` is called before the first step.
        sequences: true if the method reads the tokens after the slots; otherwise they are cut off before `embed`.
        one_process: true if `augment` or `objective` needs the tokens of the whole batch, which several processes lack.
        network_in_objective: true if `objective` runs a network, in the precision of the training.
        rigid: reason why no modality can be added or made anew; empty if one can.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    suits: ClassVar[Mapping[str, Any]] = {}
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    closed_form: ClassVar[bool] = False
    solves: bool = False
    sequences: bool = False
    one_process: ClassVar[bool] = False
    network_in_objective: ClassVar[bool] = False
    rigid: ClassVar[str] = ""

    def __init__(self, modalities: Mapping[str, TokenSpec], options: MethodOptions) -> None:
        super().__init__()
        for name in modalities:
            # torch stores stems and contexts as attributes of these names.
            if not name or "." in name or hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name):
                raise ModalityError(
                    f"{name!r} cannot name a modality: it is empty, has a dot or is an attribute of torch's."
                )
        self.modalities = dict(modalities)
        self.options = options
        self.solves = self.closed_form
        self.stems = nn.ModuleDict({name: self.make_stem(name) for name in sorted(self.modalities)})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_bias: nn.Parameter | None = None
        self.hubs: Hubs | None = None

    def make_stem(self, modality: str) -> Inlet:
        """Return a fresh stem for a modality; an `Inlet` if features are not projected one by one."""
        return Stem(self.modalities[modality], self.options)

    def stem(self, modality: str) -> Inlet:
        """Return the stem of a modality."""
        stem = self.stems[modality]
        assert isinstance(stem, Inlet)
        return stem

    def pooled(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return the mean over tokens of the stem's output, [B, d]."""
        return TokenBatch(self.stem(modality)(tokens), tokens.mask).mean()

    @property
    def dim(self) -> int:
        """d, the width of an embedding."""
        return self.options.dim

    @property
    def trained_dim(self) -> int:
        """The number of leading columns of an embedding that receive gradients: those present in training."""
        return self.dim

    @abstractmethod
    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return vectors [B, d] of any length; `forward` normalises them."""

    def make_optimizer(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser of groups of parameters."""
        return torch.optim.AdamW(groups)

    def augment(self, step: Step) -> Step:
        """Return the step that training sees in place of the given step."""
        return step

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the scalar to minimise, from embeddings [N_m, d] of the whole batch: `loss` over all pairs."""
        bias = self.scale.new_zeros(()) if self.logit_bias is None else self.logit_bias
        return over_pairs(loss, embeddings, step.groups, self.scale, bias)

    def solve(self, steps: Iterable[Step]) -> None:
        """Solve the closed-form weights, with whole batches in this process.

        Args:
            steps: the training split, once for each view of its items, plain items first.
        """
        raise NotImplementedError(f"{type(self).__name__} is trained, not solved")

    def solve_towards(self, fresh: Collection[str], steps: Iterable[Step]) -> None:
        """Solve the weights of the modalities `fresh` alone; tokens of all others are their embeddings [N, 1, d]."""
        raise NotImplementedError(f"{type(self).__name__} is trained, not solved")

    def forward(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return unit vectors [B, d].

        Raises:
            ModalityError: the method was not made for this modality.
            ShapeError: the width or number of tokens differs from the method's.
        """
        self.check(modality, tokens)
        # Lower precision is for products only.
        vectors = self.finish(self.embed(modality, self.visible(modality, tokens)).to(self.logit_scale.dtype))
        return vectors if self.training or self.hubs is None else self.corrected(modality, vectors, self.hubs)

    def corrected(self, modality: str, vectors: Tensor, hubs: Hubs) -> Tensor:
        """Return unit vectors [B, d] of `modality` corrected for hubs."""
        corrected: Tensor = hubs(modality, vectors)
        return corrected

    def finish(self, vectors: Tensor) -> Tensor:
        """Return vectors [B, d] at unit length; outputs that are no embedding, such as logits, stay as they are."""
        return normalize(vectors, dim=-1)

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a state, its correction for hubs included."""
        self.match(state)
        self.load_state_dict(state)

    def match(self, leaves: Mapping[str, Tensor]) -> None:
        """Give buffers the shapes of a state's leaves, and make empty banks for hubs, or none if it has none."""
        take_sizes(self, leaves)
        prefix = "hubs."
        banks = {leaf.removeprefix(prefix): tensor for leaf, tensor in leaves.items() if leaf.startswith(prefix)}
        self.hubs = Hubs.of(banks).to(self.logit_scale.device) if banks else None

    def visible(self, modality: str, tokens: TokenBatch) -> TokenBatch:
        """Return the tokens that the method reads."""
        return tokens if self.sequences else self.modalities[modality].slots_of(tokens)

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of features from a sample of the training split."""
        self.stem(modality).fit(self.visible(modality, tokens))

    def regularise(self, groups: int, steps: int) -> None:
        """Adapt input dropout to the number of training groups and steps, before a training begins or resumes."""
        for name in self.modalities:
            self.stem(name).dropout.follow(self.stem(name).width, groups, steps)

    def dropped(self) -> dict[str, float]:
        """Return the share of input features set to zero in training, by modality, where it follows the data."""
        drops = {name: self.stem(name).dropout for name in self.modalities}
        return {name: round(dropout.p, 4) for name, dropout in drops.items() if dropout.follows}

    def check(self, modality: str, tokens: TokenBatch) -> None:
        """Raise an error unless `tokens` fit this method's `modality`."""
        if modality not in self.modalities:
            raise ModalityError(f"no modality {modality!r} in this model; it has {', '.join(sorted(self.modalities))}.")
        spec, count = self.modalities[modality], tokens.values.shape[1]
        fits = count >= spec.slots + self.sequences if spec.sequence else spec.slots in (1, count)
        if tokens.dim != spec.dim or not fits:
            raise ShapeError(
                f"{modality} tokens of shape {list(tokens.values.shape)}; this model expects [B, "
                f"{str(spec).replace(' x', ',')}]. Use the encoder settings it was trained with."
            )

    @property
    def scale(self) -> Tensor:
        """The logit scale s, at most 100."""
        return self.logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp()

    def start_logits(self, scale: float, bias: float | None) -> None:
        """Set the initial logit scale and bias; a bias of None removes it."""
        with torch.no_grad():
            self.logit_scale.fill_(math.log(scale))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def fix_scale(self, temperature: float) -> None:
        """Fix the logit scale at 1 / `temperature`, without training it."""
        with torch.no_grad():
            self.logit_scale.fill_(-math.log(temperature))
        self.logit_scale.requires_grad_(False)

    @torch.no_grad()
    def bound_logit_scale(self) -> None:
        """Clamp the parameter itself to its bound, so that later steps can lower it."""
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))

    def settled_options(self) -> MethodOptions:
        """Return options that make the same shared parts, whatever the modalities are."""
        return self.options

    def tables(self) -> list[str]:
        """Return the names of containers with an entry per modality: stems, heads, contexts."""
        return [
            name
            for name, module in self.named_modules()
            if isinstance(module, (nn.ModuleDict, nn.ParameterDict)) and set(module.keys()) <= self.modalities.keys()
        ]

    def leaves_of(self, modality: str) -> frozenset[str]:
        """Return the parameters and buffers that belong to a modality alone: its entries in `tables`."""
        own = tuple(f"{table}.{modality}." for table in self.tables())
        return frozenset(leaf for leaf in self.state_dict() if f"{leaf}.".startswith(own))

    def extended(self, specs: Mapping[str, TokenSpec], seed: int = 0) -> Self:
        """Return this method with modalities added, or made anew, whose weights are fresh and alone trainable.

        Every other leaf is this method's, bit for bit, and so is every embedding of another modality.

        Args:
            specs: token shapes of the modalities that are added or made anew.
            seed: seed of the fresh weights.

        Raises:
            GrowthError: a leaf that modalities share depends on which modalities there are.
        """
        grown = self.remade({**self.modalities, **specs}, frozenset(specs), seed)
        fresh = frozenset[str]().union(*map(grown.leaves_of, specs))
        for name, parameter in grown.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name in fresh)
        return grown

    def without(self, modality: str) -> Self:
        """Return this method without one modality.

        Raises:
            GrowthError: a shared leaf depends on which modalities there are.
        """
        return self.remade({name: spec for name, spec in self.modalities.items() if name != modality}, frozenset(), 0)

    def remade(self, modalities: Mapping[str, TokenSpec], fresh: frozenset[str], seed: int = 0) -> Self:
        """Return a method of these modalities with this method's leaves, except those of the modalities `fresh`.

        Raises:
            GrowthError: a shared leaf depends on which modalities there are.
        """
        with torch.random.fork_rng(devices=[]):
            seed_draws(seed)
            made = type(self)(modalities, self.settled_options())
        if self.logit_bias is not None:
            made.logit_bias = nn.Parameter(self.logit_bias.detach().clone())
        made.to(self.logit_scale.device)
        own = self.state_dict()
        anew = frozenset[str]().union(*map(made.leaves_of, fresh))
        made.match({leaf: tensor for leaf, tensor in own.items() if leaf not in anew})
        state = made.state_dict()
        kept = state.keys() - anew
        for leaf in sorted(kept):
            if leaf not in own or own[leaf].shape != state[leaf].shape:
                here, there = list(state[leaf].shape), list(own[leaf].shape) if leaf in own else "nothing"
                raise GrowthError(
                    f"{type(self).__name__} cannot be extended: its leaf {leaf!r} is {there}, and {here} with other "
                    "modalities. Expected every leaf to be shared by all modalities, or in a ModuleDict or "
                    "ParameterDict under a modality's name."
                )
            state[leaf].copy_(own[leaf])
        return made.train(self.training)

    def parts(self) -> dict[str, int]:
        """Return the number of trained parameters by part: the stem of each modality, then the shared parts."""
        counts = {f"stem {name}": _count(stem) for name, stem in self.stems.items()}
        counts |= {name: _count(part) for name, part in self.named_children() if name != "stems"}
        counts |= {name: parameter.numel() for name, parameter in self.named_parameters(recurse=False)}
        return {name: count for name, count in counts.items() if count}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
