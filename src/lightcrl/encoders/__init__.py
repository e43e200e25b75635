"""Frozen encoders: raw items in, tokens out. `load_encoder` makes one from a recipe's table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightcrl.encoders.base import Encoder, EncoderSpec, Kind, fingerprint, pick_device
from lightcrl.encoders.files import find_folder
from lightcrl.encoders.own import OwnEncoder
from lightcrl.encoders.sentence_transformers import read_sentence_model
from lightcrl.errors import EncoderError
from lightcrl.registry import Table, import_object

__all__ = [
    "BUILTIN",
    "ENCODERS",
    "Encoder",
    "EncoderSpec",
    "Kind",
    "OwnEncoder",
    "fingerprint",
    "load_encoder",
    "pick_device",
    "settled",
]

# Transformers models by kind of item, and vectors that come without one.
ENCODERS: Table[Callable[[EncoderSpec], Encoder]] = Table(
    "kind of encoder",
    {
        "text": "lightcrl.encoders.text:TextEncoder",
        "image": "lightcrl.encoders.image:ImageEncoder",
        "audio": "lightcrl.encoders.audio:AudioEncoder",
        "vectors": "lightcrl.encoders.vectors:GivenVectors",
    },
)

# Models in layouts that a library reads better than this one.
LIBRARY: Table[Callable[[EncoderSpec, Path, str], Encoder]] = Table(
    "library", {"sentence-transformers": "lightcrl.encoders.library:LibraryEncoder"}
)

# Encoders without weights: `model = "builtin:NAME"`; the first of a kind is `model = "builtin"`.
BUILTIN: Table[type[Encoder]] = Table(
    "built-in encoder",
    {
        "ngrams": "lightcrl.encoders.builtin.ngrams:HashedNgrams",
        "shapes": "lightcrl.encoders.builtin.shapes:ShapesAndColours",
        "mel": "lightcrl.encoders.builtin.mel:MelStatistics",
    },
)

# Settings that a class receives if its constructor has a parameter of that name.
SETTINGS = (
    "revision",
    "layers",
    "tokens",
    "max_length",
    "prompt",
    "max_pixels",
    "dtype",
    "device",
    "trust_remote_code",
)


def load_encoder(spec: EncoderSpec) -> Encoder:
    """Load the encoder that `spec.model` names.

    `"builtin"` and `"builtin:NAME"` need no weights. `"package.module:Class"` is the user's own: a subclass of
    `Encoder`, or any class with `encode(raw items)` that returns an array [B, D] or [B, T, D], or a `TokenBatch`. It is
    constructed with `spec.options`, and with those settings of the spec that its constructor names. Any other name is a
    model of the transformers library: a folder, or a hub id; for kind `"vectors"` it is the name of their maker.

    >>> load_encoder(EncoderSpec(kind="text", model="builtin")).dim
    512

    Raises:
        EncoderNotFoundError: the model is neither a local folder nor reachable on the hub.
        EncoderError: the encoder lacks settings or options, or its files cannot be loaded.
    """
    if spec.builtin:
        encoder = _load_builtin(spec)
    elif spec.own:
        encoder = _load_own(spec)
    elif spec.kind == "vectors":
        encoder = _make(partial(ENCODERS.load(spec.kind), spec), spec)
    elif spec.options:
        raise EncoderError(f"options {', '.join(spec.options)} of {spec.model!r}: transformers models have none.")
    elif (reason := _unread(spec)) is not None:
        encoder = LIBRARY.load("sentence-transformers")(spec, *reason)
    else:
        return ENCODERS.load(spec.kind)(spec)
    encoder.origin = partial(load_encoder, spec)
    return encoder


def _unread(spec: EncoderSpec) -> tuple[Path, str] | None:
    """Return folder and reason of a model whose trained vector only its library gives, if that vector is wanted."""
    root = find_folder(spec.model, spec.revision, code=spec.trust_remote_code, weights=spec.weights == "pretrained")
    sentence = read_sentence_model(root, spec.kind, spec.prompt)
    if sentence is None or not sentence.unread or (sentence.hidden and spec.pools not in ("auto", "trained")):
        return None
    return root, sentence.unread


def settled(spec: EncoderSpec, encoder: Encoder) -> EncoderSpec:
    """Return the spec that loads `encoder` on any machine: elsewhere, `dtype = "auto"` may be another precision."""
    own = getattr(encoder, "spec", None)
    return own if isinstance(own, EncoderSpec) else spec


def _load_builtin(spec: EncoderSpec) -> Encoder:
    name = spec.model.removeprefix("builtin").removeprefix(":")
    members = [BUILTIN.load(name)] if name else map(BUILTIN.load, BUILTIN)
    made = next((member for member in members if member.kind == spec.kind), None)
    if made is None:
        raise EncoderError(f"{spec.model!r} does not encode {spec.kind}. Use model = 'builtin'.")
    encoder: Encoder = _make(made, spec)
    return encoder


def _load_own(spec: EncoderSpec) -> Encoder:
    made = _make(import_object(spec.model), spec)
    if not isinstance(made, Encoder):
        return OwnEncoder(made, spec)
    if (kind := getattr(made, "kind", None)) != spec.kind:
        raise EncoderError(f"{spec.model!r} has kind = {kind!r}, but the recipe says {spec.kind!r}.")
    return made


def _make(made: Callable[..., Any], spec: EncoderSpec) -> Any:
    """Construct the class with the options, and with the settings that it names; refuse settings it would ignore."""
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        raise EncoderError(
            f"{spec.model!r} is {made!r}; expected a class, or a function that makes an encoder."
        ) from None
    names = ", ".join(signature.parameters) or "nothing"
    default = {name: field.default for name, field in EncoderSpec.model_fields.items()}
    changed = {name: value for name in SETTINGS if (value := getattr(spec, name)) != default[name]}
    taken = {name: value for name, value in changed.items() if name in signature.parameters}
    # Every encoder runs on the CPU and may have only one precision: common settings for all encoders are no mistake.
    free = {"device"} | ({"dtype"} if spec.dtype == "auto" else set())
    if ignored := sorted(changed.keys() - taken.keys() - free):
        raise EncoderError(f"{spec.model!r} does not take {', '.join(ignored)}. Its constructor has: {names}.")
    try:
        signature.bind(**(taken | spec.options))
    except TypeError as error:
        raise EncoderError(f"options of {spec.model!r}: {error}. Its constructor has: {names}.") from None
    encoder = made(**(taken | spec.options))
    if isinstance(encoder, Encoder) and spec.batch_size != "auto":
        encoder.batch_size = spec.batch_size
    return encoder
