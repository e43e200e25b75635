"""Models of LightCRL in the library sentence-transformers: `SentenceTransformer("runs/mine", trust_remote_code=True)`.

A checkpoint's modules.json names `EmbedderModule`, so the library finds it wherever LightCRL is installed. Since its
version 6 it imports no class of another package by name unless `trust_remote_code=True` is given; no code is
downloaded for this one. `as_sentence_transformer` makes the same model without the argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.bridges.hub import write_with_carried
from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.embedder import Embedder, load, relocated
from lightcrl.errors import MissingExtraError, ModalityError

try:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise MissingExtraError("a model in sentence-transformers", "sentence-transformers") from error


class EmbedderModule(InputModule):  # type: ignore[misc]
    """The only module of a `SentenceTransformer`: an embedder, whose method is trained and moved with the model.

    `encode` takes texts, pictures (PIL images, arrays [H, W, 3], paths) and sounds (`{"array": ..., "sampling_rate":
    ...}`, arrays at the encoder's rate, paths). A model with several modalities of a kind takes `encode(items,
    modality="title")`; the first of the kind is the default.

    Attributes:
        embedder: the embedder.
        method: its method, a submodule.
    """

    forward_kwargs = frozenset({"modality"})
    save_in_root = True

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.method = embedder.method

    @property
    def modalities(self) -> list[str]:
        """The kinds of items."""
        return list(dict.fromkeys(self.embedder.modalities.values()))

    @property
    def max_seq_length(self) -> int | None:
        """Greatest number of tokens of a text; None without a limit or without texts."""
        texts = [name for name, kind in self.embedder.modalities.items() if kind == "text"]
        return getattr(self.embedder.encoder(texts[0]), "max_length", None) if texts else None

    def get_embedding_dimension(self) -> int:
        """Return d, the width of an embedding."""
        return self.embedder.dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, modality: str | None = None, **ignored: Any
    ) -> dict[str, Any]:
        """Return the modality of a batch and its items, decoded.

        Args:
            inputs: items of one modality, also as `{"image": item}`.
            prompt: text to put before every text.
            modality: modality of the items; by default the first of their kind.
            ignored: further arguments of `encode`, such as `task`.

        Raises:
            ModalityError: the model has no such modality.
            ItemError: an item is unreadable.
        """
        name = self._modality(inputs, modality)
        encoder = self.embedder.encoder(name)
        items = [_raw(item, getattr(encoder, "rate", None)) for item in inputs]
        if prompt and encoder.kind == "text":
            items = [prompt + item for item in items]
        return {"modality": name, "prepared": [encoder.prepare(item) for item in items]}

    def forward(self, features: dict[str, Any], **ignored: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, unit vectors [B, d], to the output of `preprocess`."""
        tokens = self.embedder.encoder(features["modality"]).encode(features["prepared"])
        parameter = next(self.method.parameters())
        vectors: Tensor = self.method(features["modality"], tokens.to(parameter.device, parameter.dtype))
        return {**features, "sentence_embedding": vectors}

    def save(self, output_path: str, *args: Any, **ignored: Any) -> None:
        """Write the checkpoint's weights and config.json, and the encoders that came along with it."""
        write_with_carried(self.embedder.checkpoint, Path(output_path))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        **ignored: Any,
    ) -> EmbedderModule:
        """Load a checkpoint from a folder or the hub.

        Args:
            model_name_or_path: folder or hub id.
            subfolder: folder of the checkpoint below it.
            token: key of the hub.
            cache_folder: the hub's cache.
            revision: branch, tag or commit.
            local_files_only: true to use the cache alone.
            model_kwargs: `encoders` and `trust_remote_code` of `lightcrl.load`. The library's own argument permits only
                the import of this class, not code of encoders.
            ignored: further arguments of the library.

        Raises:
            CheckpointError: see `lightcrl.load`.
        """
        if Path(model_name_or_path).is_dir():
            checkpoint = load_checkpoint(Path(model_name_or_path, subfolder))
        else:
            checkpoint = Checkpoint.from_pretrained(
                model_name_or_path,
                revision=revision,
                cache_dir=cache_folder,
                token=token,
                local_files_only=local_files_only,
            )
        given = model_kwargs or {}
        checkpoint = relocated(checkpoint, given.get("encoders"))
        return cls(Embedder(checkpoint, trust_remote_code=bool(given.get("trust_remote_code", False))))

    def __getstate__(self) -> dict[str, Any]:
        # Loaded encoders hold locks; another process loads its own.
        return {**self.__dict__, "embedder": self.embedder.without_encoders()}

    def _modality(self, inputs: Sequence[Any], wanted: str | None) -> str:
        modalities = self.embedder.modalities
        if wanted in modalities:
            return str(wanted)
        if wanted is not None and wanted not in modalities.values():
            raise ModalityError(f"no modality {wanted!r} in this model; it has {', '.join(modalities)}.")
        kind = wanted or _kind(inputs[0], self.modalities)
        names = [name for name, other in modalities.items() if other == kind]
        if not names:
            raise ModalityError(f"found an item of kind {kind}; this model takes {', '.join(self.modalities)}.")
        return names[0]


def as_sentence_transformer(model: Embedder | Path | str, **settings: Any) -> SentenceTransformer:
    """Return a model as a `SentenceTransformer`.

    Args:
        model: embedder, folder or hub id.
        settings: arguments of `SentenceTransformer`, such as `prompts` and `device`.
    """
    embedder = model if isinstance(model, Embedder) else load(model)
    return SentenceTransformer(modules=[EmbedderModule(embedder)], similarity_fn_name="cosine", **settings)


def _kind(item: Any, kinds: Sequence[str]) -> str:
    if isinstance(item, tuple):  # samples and their rate
        return "audio"
    return str(infer_modality(item, supported_modalities=list(kinds)))


def _raw(item: Any, rate: int | None) -> Any:
    """Return an item in a form of `encoders.inputs`: `{"image": item}` is unpacked, samples get the encoder's rate."""
    if isinstance(item, Mapping) and len(item) == 1 and set(item) <= {"text", "image", "audio"}:
        return _raw(next(iter(item.values())), rate)
    if isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim in (1, 2) and rate is not None:
        return item, rate
    return item
