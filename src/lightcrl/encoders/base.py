"""What every frozen encoder is: raw items in, `TokenBatch` out, and a fingerprint of all that decides the numbers."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from lightcrl.errors import EncoderError
from lightcrl.tokens import TokenBatch

Kind = Literal["text", "image", "audio"]

# What `prepare` takes of each kind (the embedder's `encode` and `Item.read` hand it on as it is): a text is a str, and
# pictures and sounds have the forms of `encoders.inputs`.

_POOL = "(cls|mean|max|last|trained)"
_POOLS = rf"{_POOL}(\+{_POOL})*"
_SEQUENCE = r"(all|grid:[1-9]\d*)"
TOKENS = rf"^(auto|pooled|{_SEQUENCE}|{_POOLS}(,{_POOLS})*(\|{_SEQUENCE})?)$"


class EncoderSpec(BaseModel):
    """The `[encoders.<modality>]` table of a recipe.

    Attributes:
        kind: what its items are.
        model: a hub id, a local folder, `"builtin"`, or `"package.module:Class"` for the user's own.
        revision: a hub id's branch, tag or commit.
        layers: hidden layers to keep, as Python indices into the model's blocks (-1 is the last); `"auto"` takes a
            transformer's last layer and two before it, and the last layer of anything else.
        tokens: `"pooled"` (one vector per layer), pools joined by `+` (`cls`, `mean`, `max`, `last`; one list for every
            layer, or one per layer with commas between), `"grid:N"`, `"all"`, or `"auto"`, what suits the model. The
            pool `trained` of the last layer is the vector that the model was trained to give.
            Pools of several layers are tokens too; `grid:N` and `all` put the layers of one place side by side in one
            token. After pools and a `|`, `grid:N` or `all` adds the sequence of the first layer named:
            `"cls+mean|grid:7"`.
        max_length: longest text in tokens, or longest sound in seconds; the rest is cut off.
        prompt: the name of a prompt that comes with a text model, put before every text: `"query"`, `"document"`; by
            default the one that its makers have made the default, and none for `""`.
        max_pixels: larger pictures are set aside (decompression bombs).
        dtype: of the forward pass. `"auto"` takes bfloat16 for transformers where the machine multiplies in it (their
            features keep a cosine of 0.999 to those of float32), and float32 for anything else; convolutions lose more.
        weights: `"random"` ones (drawn by a fixed seed) need a config alone: a tower to be trained from scratch.
        batch_size: items per forward pass; `"auto"` takes what keeps the device busy, and fewer where items are long.
        device: `"auto"` takes the GPU when there is one.
        trust_remote_code: run code that comes with the model. Off unless you say so.
        options: keyword arguments for the user's own class or a built-in encoder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    model: str
    revision: str | None = None
    layers: Literal["auto"] | tuple[int, ...] = "auto"
    tokens: str = Field(default="auto", pattern=TOKENS)
    max_length: float | None = Field(default=None, gt=0)
    prompt: str | None = None
    max_pixels: int = Field(default=50_000_000, gt=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    weights: Literal["pretrained", "random"] = "pretrained"
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> EncoderSpec:
        if self.kind == "image" and self.max_length is not None:
            raise ValueError("max_length is for texts and sounds")
        if self.kind != "text" and self.prompt is not None:
            raise ValueError("prompt is for texts")
        if self.kind != "image" and self.max_pixels != type(self).model_fields["max_pixels"].default:
            raise ValueError("max_pixels is for images")
        return self


@dataclass(frozen=True, slots=True)
class Slot:
    """One pool of one layer: a token with a meaning of its own.

    Attributes:
        layer: index of the block, -1 for the last.
        pool: `"cls"`, `"mean"`, `"max"`, `"last"` or `"trained"`.
    """

    layer: int
    pool: str

    def __str__(self) -> str:
        return f"{self.layer} {self.pool}"


class Encoder(ABC):
    """A frozen network, or a fixed descriptor: `prepare` one item, `encode` a list of prepared ones.

    The two are apart so that decoding can run in threads and fail for one item alone. A subclass gives `dim`,
    `describe`, `prepare` and `encode`; `encode` runs in eval mode, without gradient, and gives the same tokens for an
    item whatever else is in the batch.

    Attributes:
        kind: what its items are.
        dim: D, the width of a token.
        slots: how many tokens an item has when every item has the same ones (pools of layers), each with a meaning of
            its own; 1 where all tokens share one meaning (patches, words, a single vector).
        sequence: after the slots follow an item's words, patches or segments, as many as it has.
        batch_size: items per call of `encode` that extraction uses, at most.
        batch_length: `length` of all of them together when padded to the longest, at most.
        origin: makes it once more, on another machine too; None where that takes the object itself.
    """

    kind: Kind
    dim: int
    slots: int = 1
    sequence: bool = False
    batch_size: int = 64
    batch_length: float = math.inf
    origin: Callable[[], Encoder] | None = None

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """All that decides the output (weights, layers, tokens, preprocessing, dtype), as JSON values."""

    @abstractmethod
    def prepare(self, raw: Any) -> Any:
        """Decode one raw item on the CPU; called from several threads.

        Raises:
            ItemError: the item cannot be read; extraction sets it aside.
        """

    @abstractmethod
    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        """Tokens [B, T, D] of a non-empty list of prepared items, float32, on the encoder's device."""

    def length(self, prepared: Any) -> int:
        """Relative cost of one prepared item; extraction puts items of like length into one batch."""
        return 1

    def cut(self, prepared: Any) -> bool:
        """Whether `prepare` has left out the end of a text, which was longer than the encoder takes."""
        return False

    def choices(self) -> Choices | None:
        """All layers and pools that a recipe could ask this encoder for; None where it has no such setting."""
        return None

    def own_vectors(self, tokens: TokenBatch) -> Tensor:
        """[B, D] what this encoder says of items by itself, from their tokens [B, T, D].

        The vector that it was trained to give, where that is known; else the mean.
        """
        return tokens.mean()

    @property
    def fingerprint(self) -> str:
        """32 hex digits of `describe()`: two encoders that share it give the same tokens."""
        return fingerprint(self.describe())


@dataclass(frozen=True)
class Choices:
    """What the `layers` and `tokens` of a recipe choose from.

    Attributes:
        encoder: gives all of it at once, one token per slot; slots narrower than its `dim` are filled up with zeros.
        slots: the layer and pool of each of its tokens.
        auto: those of them that `layers = "auto"` and `tokens = "auto"` take.
        chosen: those that the recipe takes; None where it takes patches, words or a grid alone.
        sequence: what the recipe takes after them, `"all"` or `"grid:N"`, or nothing.
    """

    encoder: Encoder
    slots: tuple[Slot, ...]
    auto: tuple[Slot, ...]
    chosen: tuple[Slot, ...] | None
    sequence: str = ""


def pick_device(name: str) -> torch.device:
    """The device called `name`; `"auto"` is the GPU when there is one.

    Raises:
        EncoderError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(f"device {name!r} cannot be used here: {reason} Expected 'auto', 'cpu', 'cuda'.") from None


def fingerprint(value: Any) -> str:
    """32 hex digits of a JSON value, independent of the order of keys.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
