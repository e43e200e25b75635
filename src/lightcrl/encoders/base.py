"""The interface of all encoders: raw items in, `TokenBatch` out, and a fingerprint of all settings of the output."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from lightcrl.errors import EncoderError
from lightcrl.tokens import TokenBatch

Kind = Literal["text", "image", "audio", "vectors"]
VIEWED = ("image", "audio")
"""Kinds of items with views."""
NO_VIEWS = (
    "items of kind {kind!r} have no views; expected pictures or sounds, of which random parts mean the same. Leave out "
    "views, or put other versions of an item into its group yourself"
)

# Inputs of `prepare` by kind (the embedder's `encode` and `Item.read` pass them on unchanged): a text is a str, and
# pictures and sounds have the forms of `encoders.inputs`, vectors those of `lightcrl.data.vectors`.

UNKNOWN_MAKER = "vectors"
"""The `model` of an encoder of kind `"vectors"` whose recipe does not name one."""

_POOL = "(cls|mean|max|last|trained)"
_POOLS = rf"{_POOL}(\+{_POOL})*"
_SEQUENCE = r"(all|grid:[1-9]\d*)"
TOKENS = rf"^(auto(\|{_SEQUENCE})?|pooled|{_SEQUENCE}|{_POOLS}(,{_POOLS})*(\|{_SEQUENCE})?)$"


class ViewsSpec(BaseModel):
    """The `views` of an encoder's table; a number alone is the count (see `encoders.views`).

    Attributes:
        count: number of views of an item, the plain item among them; `"auto"` follows the number of training items
            (`features.views.settled_views`).
        crop: least share of a picture's area, or of a sound's length, that a view keeps; 1 keeps all of it.
        flip: true to mirror views of pictures in half of the cases; wrong if captions tell left from right.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Annotated[int, Field(gt=0, le=32)] | Literal["auto"] = "auto"
    crop: float = Field(default=0.35, gt=0, le=1)
    flip: bool = True

    @property
    def further(self) -> int:
        """Number of views that are certain to be wanted beside the plain item: none for `"auto"`."""
        return 0 if self.count == "auto" else self.count - 1


UNSAID = ViewsSpec()


def _as_table(views: Any) -> Any:
    """Return a number of views as the table that it stands for."""
    return views if isinstance(views, (ViewsSpec, Mapping)) else {"count": views}


class EncoderSpec(BaseModel):
    """The `[encoders.<modality>]` table of a recipe.

    Attributes:
        kind: kind of its items.
        model: a hub id, a local folder, `"builtin"`, or `"package.module:Class"` for the user's own; for kind
            `"vectors"` the name of the program that made them.
        revision: branch, tag or commit of a hub id.
        layers: hidden layers to keep, as Python indices into the model's blocks (-1 is the last); `"auto"` is a
            transformer's last layer and two earlier ones, and the last layer of any other model.
        tokens: `"pooled"` (one vector per layer), pools joined by `+` (`cls`, `mean`, `max`, `last`; one list for every
            layer, or one per layer with commas between), `"grid:N"`, `"all"`, or `"auto"`, which suits the model. The
            pool `trained` of the last layer is the vector that the model was trained to give.
            Pools of several layers are tokens too; `grid:N` and `all` concatenate the layers of a position in one
            token. After pools and a `|`, `grid:N` or `all` adds the sequence of the first layer named:
            `"cls+mean|grid:7"`; `"auto|grid:4"` has the pools of `"auto"` and at most N x N patches, or N segments of
            words, each the mean of its tokens.
        max_length: longest text in tokens, or longest sound in seconds; the rest is cut off.
        prompt: name of a prompt that comes with a text model, put before every text: `"query"`, `"document"`; by
            default the model's default prompt, and none for `""`.
        max_pixels: greatest number of pixels; larger pictures are set aside (decompression bombs).
        dtype: precision of the forward pass. `"auto"` is bfloat16 for transformers if the hardware supports it (their
            features keep a cosine of 0.999 to those of float32), otherwise float32; convolutions would lose more.
        weights: `"random"` weights (drawn with a fixed seed) need only a config: a tower to be trained from scratch.
        batch_size: items per forward pass; `"auto"` keeps the device busy, with fewer items if they are long.
        device: device of the network; `"auto"` is the GPU if there is one.
        trust_remote_code: true to run code that comes with the model. Off by default.
        views: number of views of each training item, the plain item among them, that are encoded and drawn in training;
            or a table with further settings (`ViewsSpec`).
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
    views: Annotated[ViewsSpec, BeforeValidator(_as_table), Field(exclude_if=lambda views: views == UNSAID)] = UNSAID
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _name(cls, table: Any) -> Any:
        """Name the maker of vectors, if the recipe does not."""
        given = isinstance(table, Mapping) and table.get("kind") == "vectors" and "model" not in table
        return {**table, "model": UNKNOWN_MAKER} if given else table

    @model_validator(mode="after")
    def _check(self) -> EncoderSpec:
        if self.kind in ("image", "vectors") and self.max_length is not None:
            raise ValueError("max_length is for texts and sounds")
        if self.kind != "text" and self.prompt is not None:
            raise ValueError("prompt is for texts")
        if self.kind != "image" and self.max_pixels != type(self).model_fields["max_pixels"].default:
            raise ValueError("max_pixels is for images")
        if self.views.further and self.kind not in VIEWED:
            raise ValueError(NO_VIEWS.format(kind=self.kind))
        return self

    @property
    def builtin(self) -> bool:
        """True of an encoder without weights, `"builtin"` or `"builtin:NAME"`."""
        return self.model == "builtin" or self.model.startswith("builtin:")

    @property
    def local(self) -> bool:
        """True of a folder."""
        return self.model.startswith((".", "/", "~")) or Path(self.model).exists()

    @property
    def own(self) -> bool:
        """True of the user's own class, `"package.module:Class"`."""
        return ":" in self.model and not (self.builtin or self.local)

    @property
    def pools(self) -> str:
        """The tokens before a `|`."""
        return self.tokens.partition("|")[0]


@dataclass(frozen=True, slots=True)
class Slot:
    """A pool of a layer: a token with a fixed meaning.

    Attributes:
        layer: index of the block, -1 for the last.
        pool: `"cls"`, `"mean"`, `"max"`, `"last"` or `"trained"`.
    """

    layer: int
    pool: str

    def __str__(self) -> str:
        return f"{self.layer} {self.pool}"


class Encoder(ABC):
    """A frozen network, or a fixed descriptor: `prepare` an item, `encode` a list of prepared items.

    The two are separate so that decoding can run in threads and fail for a single item. A subclass defines `dim`,
    `describe`, `prepare` and `encode`; `encode` runs in eval mode, without gradient, and the tokens of an item do not
    depend on the rest of the batch.

    Attributes:
        kind: kind of its items.
        dim: D, the width of a token.
        slots: number of tokens with a fixed meaning (pools of layers), the same for every item; 1 if all tokens have
            the same meaning (patches, words, a single vector).
        sequence: true if an item's words, patches or segments follow the slots, in varying number.
        batch_size: greatest number of items per call of `encode` in extraction.
        batch_length: greatest total `length` of a batch, padded to the longest item.
        origin: recipe for loading the same encoder again, also on another machine; None if it requires the object
            itself.
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
        """Return all settings of the output (weights, layers, tokens, preprocessing, dtype) as JSON values."""

    @abstractmethod
    def prepare(self, raw: Any) -> Any:
        """Decode a raw item on the CPU; called from several threads.

        Raises:
            ItemError: the item is unreadable; extraction sets it aside.
        """

    @abstractmethod
    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        """Return tokens [B, T, D] of a non-empty list of prepared items, float32, on the encoder's device."""

    def observe(self, reads: Iterable[Callable[[], Any]]) -> None:
        """Look at raw items before the first is prepared, if properties of the encoder depend on the data.

        Args:
            reads: functions that return the raw items, or raise `ItemError`, in the order of the data.
        """
        return

    def length(self, prepared: Any) -> int:
        """Return the relative cost of a prepared item; extraction batches items of similar length."""
        return 1

    def cut(self, prepared: Any) -> bool:
        """Return true if `prepare` has cut off the end of a text beyond the encoder's length."""
        return False

    def choices(self) -> Choices | None:
        """Return all layers and pools that a recipe can select; None without such settings."""
        return None

    def own_vectors(self, tokens: TokenBatch) -> Tensor:
        """Return the encoder's own vectors of items, [B, D], from their tokens [B, T, D].

        They are the vectors that it was trained to give, if known; otherwise the means.
        """
        return tokens.mean()

    @property
    def fingerprint(self) -> str:
        """The 32 hex digits of `describe()`: encoders with the same fingerprint give the same tokens."""
        return fingerprint(self.describe())


@dataclass(frozen=True)
class Choices:
    """The alternatives for the `layers` and `tokens` of a recipe.

    Attributes:
        encoder: encoder of all alternatives at once, with a token per slot; narrower slots are padded with zeros to
            `dim`.
        slots: layer and pool of each token.
        auto: places of the slots of `layers = "auto"` and `tokens = "auto"`.
        chosen: places of the recipe's slots; None if it takes only patches, words or a grid.
        sequence: the recipe's tokens after the slots, `"all"` or `"grid:N"`, or none.
    """

    encoder: Encoder
    slots: tuple[Slot, ...]
    auto: tuple[Slot, ...]
    chosen: tuple[Slot, ...] | None
    sequence: str = ""


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; `"auto"` is the GPU if there is one.

    Raises:
        EncoderError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(f"device {name!r} cannot be used here: {reason} Expected 'auto', 'cpu', 'cuda'.") from None


def fingerprint(value: Any) -> str:
    """Return 32 hex digits of a JSON value, independent of the order of keys.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
