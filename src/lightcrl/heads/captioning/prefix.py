"""A frozen causal language model that is told of an item by a trained prefix (ClipCap, arXiv 2111.09734)."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightcrl.encoders.files import quiet
from lightcrl.errors import HeadError, first_line
from lightcrl.heads.captioning.decoder import Decoder, State
from lightcrl.heads.captioning.words import PAD, ModelWords
from lightcrl.tokens import TokenBatch


class PrefixDecoder(Decoder):
    """A language model of transformers after `count` vectors that are made from an item's memory.

        q_i: learnable query; h_i = attention(q_i, memory); prefix_i = q'_i + W₂ tanh(W₁ h_i)
        logits = model(prefix, start, pieces)

    The model's own weights are frozen, stay in eval mode and are no part of the state; their digest is.

    Attributes:
        model: the language model.
        words: its vocabulary.
        digest: digest of its weights, [16].
    """

    digest: Tensor

    def __init__(self, name: str, width: int, heads: int, count: int) -> None:
        """Load the model in the folder, or with the hub's id, `name`.

        Raises:
            HeadError: there is no such model, or it is no causal language model.
        """
        super().__init__()
        self.name, self.width, self.heads = name, width, heads
        model, self.words = load_language_model(name)
        # Outside of the registry of modules: neither saved, nor trained, nor switched to training mode.
        self._model = (model,)
        self.register_buffer("digest", torch.tensor(list(_digest(model)), dtype=torch.uint8))
        size = model.get_input_embeddings().weight.shape[1]
        scale = float(model.get_input_embeddings().weight.std())
        self.queries = nn.Parameter(torch.randn(count, width) * 0.02)
        self.offsets = nn.Parameter(torch.randn(count, size) * scale)
        self.keys = nn.Linear(width, 2 * width)
        self.wide, self.narrow = nn.Linear(width, 2 * size), nn.Linear(2 * size, size)
        nn.init.normal_(self.narrow.weight, std=scale / (2 * size) ** 0.5)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *given: Any) -> None:
        """Load the prefix.

        Raises:
            HeadError: it was trained for a language model with other weights.
        """
        if not torch.equal(state_dict[f"{prefix}digest"].cpu(), self.digest.cpu()):
            raise HeadError(
                f"the language model {self.name!r} has other weights than the one that the prefix was trained for. Put "
                "that one back, or train the head anew."
            )
        super()._load_from_state_dict(state_dict, prefix, *given)

    @property
    def model(self) -> Any:
        """The language model."""
        return self._model[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Let the model follow to another device."""
        self.model._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, memory: TokenBatch, owners: Tensor, pieces: Tensor) -> Tensor:
        """Return logits [M, V]."""
        prefix = self.prefix(memory)[owners]
        embedded = self._embed(pieces.clamp(min=0)).to(prefix.dtype)
        real = torch.cat([torch.ones(prefix.shape[:2], dtype=torch.bool, device=prefix.device), pieces != PAD], 1)
        output = self.model(inputs_embeds=torch.cat([prefix, embedded], 1), attention_mask=real.long())
        logits: Tensor = output.logits[:, prefix.shape[1] :]
        return logits[pieces != PAD]

    def begin(self, memory: TokenBatch) -> State:
        """Return the model's keys and values of the prefix."""
        _, layers = self._continued(self.prefix(memory), ())
        return State(layers)

    def advance(self, state: State, pieces: Tensor) -> tuple[Tensor, State]:
        """Return logits [N, V] and the state with one place more."""
        logits, layers = self._continued(self._embed(pieces[:, None]), state.layers)
        return logits[:, -1], State(layers, state.fixed, state.length + 1)

    def _continued(self, embedded: Tensor, layers: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits [N, L, V] after more vectors [N, L, size], and keys and values of all places so far."""
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(layers[::2], layers[1::2], strict=True)))
        # The name of the argument depends on the version of transformers.
        name = "cache" if "cache" in signature(self.model.forward).parameters else "past_key_values"
        output = self.model(inputs_embeds=embedded, use_cache=True, **{name: cache})
        return output.logits, tuple(_tensors(cache))

    def prefix(self, memory: TokenBatch) -> Tensor:
        """Return the prefix [B, count, width of the model]."""
        count = len(memory)
        keys, values = (self._split(part) for part in self.keys(memory.values).chunk(2, -1))
        queries = self._split(self.queries.expand(count, -1, -1))
        seen = scaled_dot_product_attention(queries, keys, values, attn_mask=memory.mask[:, None, None])
        return self.offsets + self.narrow(self.wide(seen.transpose(1, 2).flatten(2)).tanh())

    def _embed(self, pieces: Tensor) -> Tensor:
        embedded: Tensor = self.model.get_input_embeddings()(pieces)
        return embedded

    def _split(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)


def _digest(model: Any) -> bytes:
    """Return 16 bytes that identify a model's weights."""
    state = blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        state.update(name.encode() + weight.contiguous().view(torch.uint8).numpy().tobytes())
    return state.digest()


def load_language_model(name: str) -> tuple[Any, ModelWords]:
    """Return a frozen causal language model in float32, and its vocabulary.

    Raises:
        HeadError: there is no such model, or it is no causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
            words = ModelWords(AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError, StopIteration) as error:
        raise HeadError(
            f"no causal language model {name!r}: {first_line(error)} Expected a folder with config.json, "
            "model.safetensors and a tokenizer with an end-of-text token, or a hub's id of one."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise HeadError(
            f"{name!r} has no weights for {missing[0]} and {len(missing) - 1} more, which would be random; expected a "
            "language model with its output layer, not the body alone."
        )
    return model.eval().requires_grad_(False), words


def _tensors(cache: Any) -> Iterator[Tensor]:
    """Yield keys and values of each layer of a model's cache.

    Raises:
        HeadError: the model remembers something else, such as the state of a recurrence.
    """
    for layer in getattr(cache, "layers", ()):
        if getattr(layer, "keys", None) is None or getattr(layer, "is_sliding", False):
            break
        yield layer.keys
        yield layer.values
    else:
        return
    raise HeadError(f"the language model's memory is {type(layer).__name__}; expected keys and values of every place.")
