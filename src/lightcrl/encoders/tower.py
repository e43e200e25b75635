"""Towers: encoders of the transformers library whose weights are trained, completely, partly, or by adapters.

spec = TuningSpec(blocks=2)
tower = Tower(encoder, spec)      a copy of the encoder's network; the encoder itself is not changed
tower(prepared)                   tokens, with gradients
tower.tuned()                     changed weights with their spec, for the checkpoint
tuned_encoder(encoder, tower.tuned())    the trained encoder, with a fingerprint of its own
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from lightcrl.encoders.base import Encoder
from lightcrl.encoders.cut import Cut, StateEncoder, block_list, check_cut
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.loaded import UNUSED, Prepared
from lightcrl.encoders.trained import NAME
from lightcrl.errors import CheckpointError, EncoderError, MissingExtraError, NoCutError
from lightcrl.tokens import TokenBatch

RATES = {"random": 1e-3, "lora": 2e-4, "pretrained": 2e-5}
"""Values of `learning_rate = "auto"` for random weights, for adapters, and for pretrained weights."""


class TuningSpec(BaseModel):
    """A `[tuning.<modality>]` table: settings of the training of a modality's encoder together with the method.

    Attributes:
        blocks: number of trained blocks, counted from the last, with the layers after them; `"all"` trains embeddings
            too.
        lora: rank of low-rank adapters (arXiv 2106.09685) in those blocks, trained in place of their weights; 0 for
            none (extra `lora`).
        learning_rate: peak rate of the tower; it rises and falls with that of the method.
        weight_decay: weight decay of weight matrices.
        crop: smallest share of a picture's area that a random crop in training keeps; 1 takes whole pictures.
        flip: true to mirror pictures in half of the cases; wrong if captions distinguish left from right.
        checkpointing: true to recompute activations in the backward pass instead of keeping them.
        cache: true to store what enters the first trained block, where possible, and to run only what is trained; the
            states have the dtype of stored features.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: Annotated[int, Field(gt=0)] | Literal["all"] = "all"
    lora: int = Field(default=0, ge=0)
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    weight_decay: float = Field(default=0.01, ge=0)
    crop: float = Field(default=0.5, gt=0, le=1)
    flip: bool = False
    checkpointing: bool = False
    cache: Annotated[bool, Field(exclude_if=lambda cache: cache)] = True  # older checkpoints have no such key

    def rate(self, weights: str) -> float:
        """Return the peak learning rate for an encoder whose `weights` are `"random"` or `"pretrained"`."""
        if self.learning_rate != "auto":
            return float(self.learning_rate)
        return RATES["lora" if self.lora and weights == "pretrained" else weights]


@dataclass(frozen=True)
class Tuned:
    """The trained part of an encoder; `tuned_encoder` restores it.

    Attributes:
        spec: trained parts and settings.
        tensors: changed tensors by name.
    """

    spec: TuningSpec
    tensors: dict[str, Tensor]


class Tower(nn.Module):
    """A copy of an encoder's network, trained as specified.

    Statistics of batch norms stay those of pretrained weights, whose batches differ from the batches here. Blocks
    before the first trained one have no dropout, as every frozen encoder.

    Attributes:
        spec: trained parts and settings.
        encoder: encoder with this network; its fingerprint is that of the weights before training.
        network: the copy.
        cut: the place of stored states, after `read_states`.

    Raises:
        EncoderError: the encoder is not a model of the transformers library, or has fewer blocks.
    """

    def __init__(self, encoder: Encoder, spec: TuningSpec) -> None:
        super().__init__()
        if not isinstance(encoder, HuggingFaceEncoder):
            raise EncoderError(
                f"{type(encoder).__name__} cannot be trained: expected a model of the transformers library. Remove its "
                "[tuning] table, or train it yourself and name the result as model."
            )
        encoder = encoder.in_float32()  # lower precision would round small updates away
        self.spec = spec
        network: Any = deepcopy(encoder.loaded.network)
        chosen = chosen_parameters(network, spec.blocks, encoder.spec.model)
        if "trained" not in encoder.loaded.tokens:
            chosen = {name for name in chosen if not name.startswith(f"{NAME}.")}
        if spec.lora:
            chosen = add_adapters(network, chosen, spec.lora)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in chosen)
        if spec.checkpointing:
            keep_no_activations(network, encoder.spec.model)
        self.network = network
        self.encoder = encoder.with_network(network)
        self.random = encoder.spec.weights == "random"
        self.cut: Cut | None = None
        self.eval()

    def train(self, mode: bool = True) -> Tower:
        """Switch dropout of trained blocks by `mode`; batch norms only if the initial weights were random."""
        super().train(mode)
        if self.random:
            return self
        if self.spec.blocks != "all":
            path, length = block_list(self.network)
            self.network.eval()
            for block in self.network.get_submodule(path)[length - self.spec.blocks :]:
                block.train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, given: Sequence[Prepared] | TokenBatch) -> TokenBatch:
        """Return tokens [B, T, D] of prepared items, or of their states (see `read_states`), with gradients."""
        if isinstance(given, TokenBatch):
            assert self.cut is not None  # only stores of states give them
            return self.cut.leave(given)
        return self.encoder.forward(given)

    def read_states(self, sample: Sequence[Prepared]) -> None:
        """Make `forward` accept states of a `StateEncoder`, after a trace of some prepared items."""
        self.cut = Cut(self.encoder, frozen_blocks(self.network, self.spec), sample)

    def tuned(self) -> Tuned:
        """Return changed tensors: trained parameters, and all of a network with random initial weights."""
        state: dict[str, Tensor] = self.network.state_dict()
        if not self.random:
            trained = {name for name, parameter in self.network.named_parameters() if parameter.requires_grad}
            state = {name: tensor for name, tensor in state.items() if name in trained}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        return Tuned(self.spec, tensors)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of `tuned`.

        Raises:
            CheckpointError: names or shapes differ from this tower's.
        """
        mine = {name: tensor.shape for name, tensor in self.tuned().tensors.items()}
        theirs = {name: tensor.shape for name, tensor in tensors.items()}
        if mine != theirs:
            odd = min(name for name in mine | theirs if mine.get(name) != theirs.get(name))
            raise CheckpointError(
                f"tower of {self.encoder.spec.model!r}: {odd} is {_shape(theirs, odd)}, expected {_shape(mine, odd)}. "
                "Use the encoder that it was trained from."
            )
        self.network.load_state_dict(tensors, strict=False)


def tuned_encoder(encoder: Encoder, tuned: Tuned) -> Encoder:
    """Return the encoder with its trained weights, frozen again, with a fingerprint of its own.

    Raises:
        CheckpointError: the tensors are those of another network.
        EncoderError: see `Tower`.
    """
    tower = Tower(encoder, tuned.spec)
    tower.load(tuned.tensors)
    network = tower.network.eval().requires_grad_(False)
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tuned.tensors.items()):
        state.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    made = tower.encoder.with_network(network, state.hexdigest())
    made.origin = encoder.origin and partial(_tuned_again, encoder.origin, tuned)
    return made


def _tuned_again(origin: Callable[[], Encoder], tuned: Tuned) -> Encoder:
    return tuned_encoder(origin(), tuned)


def frozen_blocks(network: nn.Module, spec: TuningSpec) -> int:
    """Return the number of blocks before the first trained one."""
    return 0 if spec.blocks == "all" else block_list(network)[1] - spec.blocks


def state_encoder(encoder: Encoder, spec: TuningSpec, sample: Sequence[Prepared]) -> StateEncoder:
    """Return the encoder of the states that a tower of `encoder` reads, checked on a sample of prepared items.

    Raises:
        NoCutError: the tower cannot read states: a setting or the kind of network forbids it.
        EncoderError: see `Tower`.
    """
    if not spec.cache:
        raise NoCutError("cache = false")
    if encoder.kind == "image" and (spec.crop < 1 or spec.flip):
        raise NoCutError("crops and mirroring change what enters them; crop = 1 and flip = false store it")
    tower = Tower(encoder, spec)
    frozen = frozen_blocks(tower.network, spec)
    if frozen == 0 or tower.random:
        raise NoCutError("all blocks are trained" if frozen == 0 else "the frozen blocks have random weights")
    tower.read_states(sample)
    assert tower.cut is not None
    check_cut(tower.encoder, tower.cut, sample)
    plain = encoder.in_float32() if isinstance(encoder, HuggingFaceEncoder) else tower.encoder
    return StateEncoder(plain, frozen, sample)


def chosen_parameters(network: nn.Module, blocks: int | str, model: str) -> set[str]:
    """Return names of the parameters of the last `blocks` blocks and of all layers after them, without heads.

    The blocks are the longest list of modules of the network.

    Raises:
        EncoderError: there are fewer blocks.
    """
    names = [name for name, _ in network.named_parameters() if not UNUSED.search(name)]
    if blocks == "all":
        return set(names)
    path, length = block_list(network)
    if int(blocks) > length:
        raise EncoderError(f"tuning: {model!r} has {length} blocks, {blocks} are to be trained. Say at most {length}.")
    kept = {f"{path}.{number}." for number in range(length - int(blocks), length)}
    inside = [name for name in names if name.startswith(f"{path}.")]
    after = names[names.index(inside[-1]) + 1 :]
    return {name for name in inside if any(name.startswith(prefix) for prefix in kept)} | set(after)


def keep_no_activations(network: Any, model: str) -> None:
    """Make the blocks of a network recompute activations for the backward pass.

    Raises:
        EncoderError: this kind of model does not support it.
    """
    name = "activation_checkpointing_enable"  # the name in transformers from 5.20 on
    enable = getattr(network, name, None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise EncoderError(f"tuning.checkpointing: {model!r}: {error} Say checkpointing = false.") from None


def add_adapters(network: nn.Module, chosen: set[str], rank: int) -> set[str]:
    """Add adapters to the linear maps among the parameters `chosen`, in place; return the adapters' names.

    Raises:
        MissingExtraError: peft is not installed.
        EncoderError: there are no linear maps.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("tuning with lora", "lora") from None
    targets = [
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and f"{name}.weight" in chosen
    ]
    if not targets:
        raise EncoderError("tuning.lora: no linear maps in the blocks that are to be trained. Say lora = 0.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), network)
    return {name for name, _ in network.named_parameters() if "lora_" in name}


def _shape(shapes: Mapping[str, Any], name: str) -> str:
    return f"of shape {list(shapes[name])}" if name in shapes else "missing"
