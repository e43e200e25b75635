"""The embedder: raw items in, unit vectors out; the only path from raw items to embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.data.base import Item, Rejection, digest
from lightcrl.data.vectors import read_tokens
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import NO_VIEWS, VIEWED, Encoder, EncoderSpec
from lightcrl.encoders.inputs import array, content
from lightcrl.errors import DataError, EncoderError, ItemError, ModalityError, ShapeError
from lightcrl.features import encode_items
from lightcrl.features.views import view_item
from lightcrl.lineage import Line
from lightcrl.tokens import TokenBatch

BATCH = 256

FORMER_LENGTH = 512
"""Greatest number of tokens of a text in version 0.1, regardless of the setting of the encoder's makers."""


class Embedder:
    """A checkpoint with its frozen encoders, which are loaded on first use.

    Attributes:
        checkpoint: the method and its training settings.
        place: folder or hub id of the checkpoint, absolute if it is a folder; None if it is in memory alone.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        trust_remote_code: bool = False,
        place: Path | str | None = None,
    ) -> None:
        """Put the checkpoint's method on a device; for the arguments see `load`."""
        self.place: str | None = None if place is None else str(place)
        if self.place is not None and Path(self.place).exists():
            self.place = str(Path(self.place).absolute())
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = checkpoint
        self.method = checkpoint.method.to(device).eval()
        self.device = torch.device(device)
        self._trusted = trust_remote_code
        self._encoders: dict[str, Encoder] = {}

    @property
    def modalities(self) -> dict[str, str]:
        """The kind of item by modality."""
        return {modality: spec.kind for modality, spec in self.checkpoint.encoders.items()}

    @property
    def dim(self) -> int:
        """d, width of an embedding."""
        return self.method.dim

    @cached_property
    def fingerprint(self) -> str:
        """The checkpoint's digest of all settings that determine the embeddings."""
        return self.checkpoint.digest

    @cached_property
    def line(self) -> Line:
        """The checkpoint's digest, and from which checkpoints it was extended."""
        return Line(self.fingerprint, self.checkpoint.lineage)

    def encoder(self, modality: str) -> Encoder:
        """Return the encoder of a modality, with its trained weights.

        Raises:
            ModalityError: the model has no such modality.
            EncoderError: the encoder differs from the one in training, or requires code that is not trusted.
        """
        if modality not in self.checkpoint.encoders:
            raise ModalityError(f"no modality {modality!r} in this model; it has {', '.join(self.modalities)}.")
        if modality not in self._encoders:
            spec = self.checkpoint.encoders[modality]
            if spec.trust_remote_code and not self._trusted:
                raise EncoderError(
                    f"the encoder of {modality!r} ({spec.model}) runs code that comes with it. If you trust its "
                    "authors, say trust_remote_code=True (--trust-remote-code)."
                )
            expected = self.checkpoint.fingerprints[modality]
            encoder = _load_as_trained(spec, expected)
            if encoder.fingerprint != expected:
                raise EncoderError(
                    f"the encoder of {modality!r} ({spec.model}) has fingerprint "
                    f"{encoder.fingerprint}, the model was trained with {expected}. Expected the same weights and "
                    "settings; give the right folder with --encoder, or train again."
                )
            self._encoders |= self.checkpoint.as_trained({modality: encoder})
        return self._encoders[modality]

    def without_encoders(self) -> Embedder:
        """Return the embedder as it was before any encoder was loaded, for another process."""
        return Embedder(self.checkpoint, device=str(self.device), trust_remote_code=self._trusted)

    def encode(self, items: Sequence[Any], modality: str, *, views: int = 1) -> np.ndarray:
        """Embed raw items.

        Args:
            items: texts (str), pictures or sounds, in the forms of `lightcrl.encoders.inputs`: paths, bytes, open
                files, PIL images, arrays, tensors, (samples, rate), or mappings as Hugging Face data sets have them.
            modality: modality of the items.
            views: number of views of every item, the item itself among them, whose mean is its vector; one costs as
                much as an item.

        Returns:
            Unit vectors [N, d], float32, in the order of `items`.

        Raises:
            ModalityError: the model has no such modality.
            EncoderError: items of this kind have no views.
            ItemError: an item is unreadable; the message names it.
        """
        if isinstance(items, (str, bytes, Path)):
            raise DataError(f"encode takes a list of items, found one {type(items).__name__}; put it into a list.")
        wrapped = [Item(digest("item", str(number)), f"item {number}", item) for number, item in enumerate(items)]
        vectors, rejected = self.encode_some(wrapped, modality, views=views)
        if rejected:
            raise ItemError(f"{rejected[0].source}: {rejected[0].reason}", rejected[0].detail)
        return vectors

    def encode_some(
        self, items: Sequence[Item], modality: str, *, views: int = 1
    ) -> tuple[np.ndarray, list[Rejection]]:
        """Embed items as `encode`, but set unreadable items aside: their vectors are NaN, and they are returned."""
        if views == 1:
            return self._encode_some(items, modality)
        kind = self.encoder(modality).kind
        if kind not in VIEWED or views < 1:
            reason = f"views = {views}; expected 1 or more" if views < 1 else NO_VIEWS.format(kind=kind)
            raise EncoderError(f"{reason}.")
        spec = self.checkpoint.encoders[modality]
        # A stream can be read once, and every view reads its item.
        items = [replace(item, raw=content(item.raw, kind)) if hasattr(item.raw, "read") else item for item in items]
        total, rejected = self._encode_some(items, modality)
        for number in range(1, views):
            more, _ = self._encode_some([view_item(item, number, spec) for item in items], modality)
            total += np.nan_to_num(more)
        return total / np.linalg.norm(total, axis=1, keepdims=True), rejected

    def _encode_some(self, items: Sequence[Item], modality: str) -> tuple[np.ndarray, list[Rejection]]:
        encoder = self.encoder(modality)
        vectors = np.full((len(items), self.dim), np.nan, dtype=np.float32)
        rejected: list[Rejection] = []
        places: list[int] = []
        waiting: list[Tensor] = []

        def flush() -> None:
            if waiting:
                vectors[places] = self.encode_tokens(TokenBatch.from_ragged(waiting), modality)
                places.clear()
                waiting.clear()

        for place, outcome in encode_items(encoder, items):
            if isinstance(outcome, ItemError):
                rejected.append(Rejection(items[place].source, outcome.reason, outcome.detail, modality))
                continue
            places.append(place)
            waiting.append(torch.from_numpy(outcome))
            if len(waiting) == BATCH:
                flush()
        flush()
        return vectors, rejected

    def encode_vectors(self, vectors: Any, modality: str) -> np.ndarray:
        """Embed the outputs of a modality's encoder that were computed elsewhere; the encoder is not loaded.

        Args:
            vectors: vectors [N, D] or tokens [N, T, D], an array or a tensor; or a list of N vectors [D] or of tokens
                [T_i, D].
            modality: modality of the items, of kind `"vectors"` or any other.

        Returns:
            Unit vectors [N, d], float32, in the order of `vectors`.

        Raises:
            ModalityError: the model has no such modality.
            ShapeError: vectors have another width than the model's encoder, or another number of slots.
            ItemError: a vector is not finite; the message names it.
        """
        spec = self.method.modalities.get(modality)
        if spec is None:
            raise ModalityError(f"no modality {modality!r} in this model; it has {', '.join(self.modalities)}.")
        sequences = []
        for number, raw in enumerate(vectors):
            try:
                tokens = read_tokens(array(raw, "a vector"))
            except ItemError as error:
                raise ItemError(f"item {number}: {error.reason}", error.detail) from None
            if tokens.shape[1] != spec.dim or not spec.admits(len(tokens)):
                raise ShapeError(
                    f"item {number} has tokens {list(tokens.shape)}; {modality!r} has {spec}, as its encoder gave them "
                    "in training."
                )
            sequences.append(torch.from_numpy(np.array(tokens)))
        batches = (sequences[start : start + BATCH] for start in range(0, len(sequences), BATCH))
        parts = [self.encode_tokens(TokenBatch.from_ragged(batch), modality) for batch in batches]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def encode_tokens(self, tokens: TokenBatch, modality: str) -> np.ndarray:
        """Return unit vectors [B, d] of an encoder's tokens [B, T, D]."""
        vectors: np.ndarray = self.method(modality, tokens.to(self.device, torch.float32)).cpu().numpy()
        return vectors


def load(
    place: Path | str,
    *,
    device: str = "auto",
    encoders: Mapping[str, Path | str] | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Embedder:
    """Load the embedder of a run's folder, a checkpoint's folder or a hub id.

    Args:
        place: folder or hub id; `owner/name@revision` has a revision too.
        device: device of the method; `"auto"` is the GPU if there is one.
        encoders: current location of encoders by modality, if they have moved since training.
        trust_remote_code: true to let encoders run the code that comes with them, if their recipe allows it. A
            checkpoint from elsewhere cannot give this permission for you.
        revision: branch, tag or commit of a hub id.

    Raises:
        CheckpointError: there is no checkpoint, or it is torn, tampered with or of a newer format.
    """
    checkpoint = relocated(load_checkpoint(place, revision), encoders)
    return Embedder(checkpoint, device=device, trust_remote_code=trust_remote_code, place=place)


def relocated(checkpoint: Checkpoint, encoders: Mapping[str, Path | str] | None) -> Checkpoint:
    """Return the checkpoint, changed in place, with the present locations of moved encoders by modality.

    Raises:
        ModalityError: the model has no such modality.
    """
    for modality, model in (encoders or {}).items():
        if modality not in checkpoint.encoders:
            raise ModalityError(f"no modality {modality!r} in this model; it has {', '.join(checkpoint.encoders)}.")
        checkpoint.encoders[modality] = checkpoint.encoders[modality].model_copy(update={"model": str(model)})
    return checkpoint


def _load_as_trained(spec: EncoderSpec, fingerprint: str) -> Encoder:
    """Load an encoder; a text encoder of an old model keeps the text length of version 0.1."""
    encoder = load_encoder(spec)
    if encoder.fingerprint == fingerprint or spec.kind != "text" or spec.max_length is not None:
        return encoder
    try:
        older = load_encoder(spec.model_copy(update={"max_length": FORMER_LENGTH}))
    except EncoderError:
        return encoder
    return older if older.fingerprint == fingerprint else encoder
