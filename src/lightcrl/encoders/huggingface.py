"""What the encoders of the transformers library share: loading and running a model."""

from __future__ import annotations

import inspect
import json
import re
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightcrl.encoders.base import Choices, Encoder, EncoderSpec, Slot, pick_device
from lightcrl.encoders.files import CODE, FILES, SETTINGS, find_folder, folder_digest, quiet
from lightcrl.encoders.layout import (
    Layer,
    choose_layers,
    choose_tokens,
    count_slots,
    describe_layout,
    every_layer,
    lay_out,
    own_vectors,
    slots_of,
)
from lightcrl.errors import EncoderError
from lightcrl.machine import multiplies_bfloat16
from lightcrl.tokens import TokenBatch

# Part of every fingerprint: raise it when the same files and settings give other tokens than before.
FORMAT = 1

# Weights that hidden states do not depend on: heads, and tokens that only training puts in.
UNUSED = re.compile(r"(^|\.)(pooler|head|masked_spec_embed|mask_token|num_batches_tracked)(\.|$)")

Prepared = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in place, and what a trial of it has shown.

    Attributes:
        network: frozen, in eval mode, on its device.
        accepts: the names of its inputs.
        blocks: how many there are.
        layers: of the blocks, those to keep.
        tokens: the layout, as `lay_out` takes it.
        pads: items of unequal length can share a batch: padding changes nothing.
        dim: width of a token.
        slots: tokens per item with a meaning of their own.
        sequence: more tokens follow them.
        widths: of the tokens of each block.
        last: tokens of the last block, as a trial gave them.
    """

    network: torch.nn.Module
    accepts: frozenset[str]
    blocks: int
    layers: tuple[int, ...]
    tokens: str
    pads: bool
    dim: int
    slots: int
    sequence: bool
    widths: tuple[int, ...]
    last: Layer


class HuggingFaceEncoder(Encoder):
    """A model of the transformers library.

    What is cheap (finding the files, the tokenizer or image processor) happens at once; the weights are loaded when
    first needed, so that a warm feature store can be used where the model would not fit.

    Raises:
        EncoderNotFoundError: neither a local folder nor reachable on the hub.
        EncoderError: files that cannot be loaded, or settings that this model cannot meet.
    """

    # The part of a dual encoder such as CLIP that sees these items.
    tower: ClassVar[str]
    # The class of `transformers` that prepares these items, and its name for people.
    processor_class: ClassVar[tuple[str, str]]
    processor_options: ClassVar[Mapping[str, Any]] = {}
    # `batch_size` and `batch_length` on a CPU, then elsewhere: more than fills a cache is no faster (docs/LOG.md).
    batches: ClassVar[tuple[tuple[int, float], tuple[int, float]]]

    def __init__(self, spec: EncoderSpec) -> None:
        self.kind = spec.kind
        self.device = pick_device(spec.device)
        self.folder = find_folder(
            spec.model, spec.revision, code=spec.trust_remote_code, weights=spec.weights == "pretrained"
        )
        self.spec = spec
        self.config = self._from_pretrained("AutoConfig")
        if spec.dtype == "auto":
            pays = spec.weights == "pretrained" and attends(self.config) and multiplies_bfloat16(self.device)
            self.spec = spec.model_copy(update={"dtype": "bfloat16" if pays else "float32"})
        most, length = self.batches[self.device.type != "cpu"]
        if spec.batch_size == "auto":
            self.batch_size, self.batch_length = most, length
        else:
            self.batch_size = spec.batch_size
        self.processor = self._from_pretrained(self.processor_class[0], **self.processor_options)
        # With what "auto" came to, so that all machines compute alike; each chooses its own device.
        self.origin = partial(type(self), self.spec)
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._tuned: str | None = None

    @abstractmethod
    def trial(self) -> list[Prepared]:
        """Two prepared items, the first no longer than the second, to learn the model's shapes from."""

    def token_mask(self, network: Any, mask: Tensor, tokens: int) -> Tensor:
        """The mask [B, tokens] of the model's tokens from the mask [B, N] of its input."""
        return mask

    def places(self, network: torch.nn.Module, layer: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The `cls`, `prefix` and `grid` of a `Layer` with values [B, T, D]."""
        return {}

    def choices(self) -> Choices:
        """Every pool of at most twelve layers; the encoder that gives them shares this one's weights."""
        loaded = self.loaded

        def settle(layers: Sequence[int] | str, tokens: str) -> tuple[Slot, ...]:
            kept = [layer % loaded.blocks - loaded.blocks for layer in choose_layers(layers, loaded.widths)]
            return slots_of(kept, choose_tokens(tokens, self.kind, loaded.last, len(kept)).partition("|")[0])

        pooled = loaded.tokens != "all" and not loaded.tokens.startswith("grid:")
        chosen = settle(self.spec.layers, self.spec.tokens) if pooled else None
        layers = every_layer(loaded.widths, [slot.layer for slot in chosen or ()])
        tokens = "cls+mean+max" if loaded.last.cls else "mean+max"
        slots = slots_of(layers, tokens)
        wide = copy(self)
        wide.spec, wide.origin = self.spec.model_copy(update={"layers": layers, "tokens": tokens}), None
        wide._loaded = replace(
            loaded, layers=layers, tokens=tokens, dim=max(loaded.widths), slots=len(slots), sequence=False
        )
        return Choices(wide, slots, settle("auto", "auto"), chosen, loaded.tokens.partition("|")[2])

    @property
    def loaded(self) -> Loaded:
        """The model, loaded when first asked for."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @property
    def dim(self) -> int:  # type: ignore[override]
        """D, the width of a token."""
        return self.loaded.dim

    @property
    def slots(self) -> int:  # type: ignore[override]
        """Tokens per item with a meaning of their own."""
        return self.loaded.slots

    @property
    def sequence(self) -> bool:  # type: ignore[override]
        """Whether words, patches or segments follow the slots."""
        return self.loaded.sequence

    @cached_property
    def _files(self) -> str:
        files = FILES if self.spec.weights == "pretrained" else SETTINGS
        return folder_digest(self.folder, (*files, *CODE) if self.spec.trust_remote_code else files)

    def describe(self) -> Mapping[str, Any]:
        """The content of the model's files, wherever they lie, and every setting that tokens depend on."""
        return {
            "encoder": "transformers",
            "format": FORMAT,
            "kind": self.kind,
            "files": self._files,
            "dtype": self.spec.dtype,
            **({"weights": self.spec.weights} if self.spec.weights != "pretrained" else {}),
            **({"tuned": self._tuned} if self._tuned is not None else {}),
            **describe_layout(self.spec.layers, self.spec.tokens, self.kind),
        }

    def in_float32(self) -> HuggingFaceEncoder:
        """This encoder with products in float32, itself where it has them."""
        if self.spec.dtype == "float32":
            return self
        return type(self)(self.spec.model_copy(update={"dtype": "float32"}))

    def with_network(self, network: torch.nn.Module, mark: str | None = None) -> HuggingFaceEncoder:
        """This encoder around other weights of the same shapes; `mark` stands for them in its fingerprint."""
        changed = copy(self)
        changed._loaded, changed._tuned, changed.origin = replace(self.loaded, network=network), mark, None
        return changed

    def encode(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """Tokens [B, T, D], float32; items that cannot share a batch without changing each other are run apart."""
        with torch.inference_mode():
            tokens = self.forward(prepared)
        # Copies made outside can be used in training. Some models fill every item up to a fixed length.
        longest = int(tokens.lengths.max())
        return TokenBatch(tokens.values[:, :longest].clone(), tokens.mask[:, :longest].clone())

    def own_vectors(self, tokens: TokenBatch) -> Tensor:
        """See `layout.own_vectors`: for a text, the masked mean of the last layer, as sentence-transformers has it."""
        loaded = self.loaded
        return own_vectors(tokens, loaded.tokens, [layer % loaded.blocks for layer in loaded.layers])

    def forward(self, prepared: Sequence[Prepared]) -> TokenBatch:
        """As `encode`, but gradients flow."""
        groups = alike(prepared, self.loaded.pads)
        parts = [self.tokens(self.batch([prepared[number] for number in members])) for members in groups]
        if len(parts) == 1:
            return parts[0]
        ragged = [item for part in parts for item in part.ragged()]
        order = torch.tensor([number for members in groups for number in members])
        return TokenBatch.from_ragged(ragged).rows(order.argsort())

    def tokens(self, inputs: Mapping[str, Tensor]) -> TokenBatch:
        """Tokens [B, T, D] of inputs by name, those that `prepare` gives with the batch before them; gradients flow."""
        loaded = self.loaded
        last_only = all(layer in (-1, loaded.blocks - 1) for layer in loaded.layers)
        blocks = self._blocks(loaded.network, loaded.accepts, inputs, hidden=not last_only)
        return lay_out([blocks[-1 if last_only else layer] for layer in loaded.layers], loaded.tokens)

    def batch(self, items: Sequence[Prepared]) -> dict[str, Tensor]:
        """Prepared items of like shape as one batch, padded at the end: what `tokens` takes."""
        pad_id = getattr(self.processor, "pad_token_id", None) or 0
        return {
            name: pad_sequence([item[name] for item in items], True, pad_id if name == "input_ids" else 0)
            for name in items[0]
        }

    def _run(self, network: Any, accepts: frozenset[str], items: Sequence[Prepared]) -> list[Layer]:
        """The blocks of the model, first to last."""
        return self._blocks(network, accepts, self.batch(items), hidden=True)

    def _blocks(self, network: Any, accepts: frozenset[str], inputs: Mapping[str, Tensor], hidden: bool) -> list[Layer]:
        """The blocks of the model, first to last, or the last alone."""
        inputs = {
            name: value.to(self.device, network.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        output = network(**{k: v for k, v in inputs.items() if k in accepts}, output_hidden_states=hidden)
        final = output.last_hidden_state
        states = list(output.hidden_states) if hidden else []
        # Some CNNs end in a stage that is not among their hidden states; all others begin with the embedding, which
        # is no block, and end before the final norm.
        states = [*(states if states and states[-1].shape != final.shape else states[1:-1]), final]
        return [self._layer(network, state, inputs) for state in states]

    def _layer(self, network: Any, state: Tensor, inputs: Mapping[str, Tensor]) -> Layer:
        if state.ndim == 4:
            values = state.flatten(2).mT
            places: Mapping[str, Any] = {"grid": tuple(state.shape[2:])} if self.kind == "image" else {}
        else:
            values, places = state, self.places(network, state, inputs)
        tokens, mask = values.shape[1], inputs.get("attention_mask")
        real = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Layer(values, real if mask is None else self.token_mask(network, mask, tokens).bool(), **places)

    def _load(self) -> Loaded:
        # Weights made in inference mode could never be trained.
        with torch.inference_mode(False):
            network, accepts = self._load_network()
        short, long = self.trial()
        with torch.inference_mode():
            try:
                alone = self._run(network, accepts, [short])
            except Exception as error:  # Whatever the model's code may raise.
                raise EncoderError(f"{self.spec.model!r} does not work as {self.kind} encoder: {error}") from error
            if not all(torch.isfinite(block.values).all() for block in alone):
                raise EncoderError(
                    f"{self.spec.model!r} gives hidden states that are not finite in {self.spec.dtype}. Where the "
                    "weights are sound, dtype = 'bfloat16' or 'float32' helps."
                )
            if not _same(alone, self._run(network, accepts, [short])):
                raise EncoderError(
                    f"{self.spec.model!r} gives other hidden states each time for the same item (random masking?), "
                    "so its outputs cannot be kept. Use another model."
                )
            pads = "attention_mask" in short and _same(alone, self._run(network, accepts, [short, long]))
            widths = tuple(block.values.shape[-1] for block in alone)
            layers = choose_layers(self.spec.layers, widths)
            tokens = choose_tokens(self.spec.tokens, self.kind, alone[-1], len(layers))
            laid = lay_out([alone[layer] for layer in layers], tokens)
        slots = count_slots(tokens, len(layers))
        sequence = "|" in tokens
        return Loaded(network, accepts, len(alone), layers, tokens, pads, laid.dim, slots, sequence, widths, alone[-1])

    def _load_network(self) -> tuple[torch.nn.Module, frozenset[str]]:
        # New heads draw from the global generator, which is the user's.
        with torch.random.fork_rng(devices=[]):
            model, absent = self._pretrained() if self.spec.weights == "pretrained" else (self._random(), set())
        network = getattr(model, self.tower, model)
        if getattr(network.config, "is_encoder_decoder", False):
            network = network.get_encoder()
        kept = {id(weight) for weight in network.state_dict(keep_vars=True).values()}
        names = {name for name, weight in model.state_dict(keep_vars=True).items() if id(weight) in kept}
        missing = sorted(name for name in names & absent if not UNUSED.search(name))
        if missing:
            raise EncoderError(
                f"{self.spec.model!r} lacks {len(missing)} of the model's {len(names)} weights, which would be random: "
                f"{', '.join(missing[:3])}, ... Expected the weights of a {type(model).__name__}."
            )
        network.eval().requires_grad_(False).to(self.device)
        return network, frozenset(inspect.signature(network.forward).parameters)

    def _pretrained(self) -> tuple[Any, set[str]]:
        """The whole model, and the names of weights that its files lack."""
        # On a CPU torch's fused attention is the slower one in bfloat16 (docs/LOG.md).
        plain = self.spec.dtype == "bfloat16" and self.device.type == "cpu"
        model, report = self._from_pretrained(
            "AutoModel",
            dtype=getattr(torch, self.spec.dtype),
            use_safetensors=True,
            output_loading_info=True,
            **({"attn_implementation": "eager"} if plain else {}),
        )
        return model, set(report["missing_keys"])

    def _random(self) -> Any:
        """The whole model with random weights."""
        from transformers import AutoModel

        torch.manual_seed(0)
        with quiet():
            return AutoModel.from_config(
                self.config, dtype=getattr(torch, self.spec.dtype), trust_remote_code=self.spec.trust_remote_code
            )

    def _from_pretrained(self, class_name: str, **options: Any) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, class_name).from_pretrained(
                    self.folder, trust_remote_code=self.spec.trust_remote_code, **options
                )
        except Exception as error:  # The library has no root of its own errors; every failure means the same here.
            wanted = self.processor_class[1] if class_name == self.processor_class[0] else f"model ({class_name})"
            text = str(error).strip()
            hint = " If you trust its authors, set trust_remote_code = true." if "trust_remote_code" in text else ""
            raise EncoderError(
                f"cannot load the {wanted} of {self.spec.model!r} as a {self.kind} encoder: "
                f"{text.splitlines()[0] if text else type(error).__name__}{hint}"
            ) from error


def attends(config: Any) -> bool:
    """Whether a model's config, or that of a tower in it, speaks of attention heads."""
    return bool(re.search(r'"\w*heads?"', json.dumps(config.to_dict(), default=str)))


def alike(items: Sequence[Prepared], pads: bool) -> list[list[int]]:
    """Numbers of the items that can share a batch: of one shape, but for its length where padding changes nothing."""
    groups: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(tuple(v.shape[1:] if pads else v.shape for v in item.values()), []).append(number)
    return list(groups.values())


def _same(alone: Sequence[Layer], batch: Sequence[Layer]) -> bool:
    """The first item has the same tokens in both, up to the rounding of the dtype."""
    for one, other in zip(alone, batch, strict=True):
        mine, theirs = one.values[0, one.mask[0]], other.values[0, other.mask[0]]
        if mine.shape != theirs.shape:
            return False
        tolerance = 1e-4 if mine.dtype == torch.float32 else 5e-2
        error = (mine.float() - theirs.float()).norm(dim=-1).max()
        if error > tolerance * mine.float().norm(dim=-1).mean():
            return False
    return True
