"""CLIP_benchmark: models of LightCRL as its model type `lightcrl`.

    python -m lightcrl.bridges.clip_benchmark eval --model_type lightcrl --model runs/mine --pretrained best --no_amp

The command line is CLIP_benchmark's own (`clip_benchmark.cli`) with another model type; in a program, `register()`
adds it. `--model` is a folder or a hub id; `--pretrained` is a folder in it, or a revision. `--no_amp` keeps scores in
float32: in its default half precision near scores tie, and figures differ from those of `lightcrl evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.embedder import Embedder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import LightCRLError, ModalityError

NAME = "lightcrl"
"""The model type."""


class Texts(list[str]):
    """Texts as the tokenizer returns them: CLIP_benchmark moves its output to a device."""

    def to(self, device: Any) -> Texts:
        """Return the texts."""
        return self


class ClipModel(nn.Module):
    """An embedder with the two methods that CLIP_benchmark calls.

    Attributes:
        embedder: the embedder.
        image: modality of pictures.
        text: modality of texts.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.method = embedder.method
        self.image, self.text = (_modality(embedder, kind) for kind in ("image", "text"))
        encoder = embedder.encoder(self.image)
        self.pack = _packing(encoder)

    def transform(self, picture: Any) -> Tensor:
        """Return a picture as a tensor that batches: the encoder's input, or the embedding [d] if sizes vary."""
        if self.pack is None:
            return torch.from_numpy(self.embedder.encode([picture], self.image)[0])
        return _tensor(self.embedder.encoder(self.image).prepare(picture))

    def encode_image(self, batch: Tensor) -> Tensor:
        """Return embeddings [B, d] of a batch of `transform`."""
        if self.pack is None:
            return batch
        encoder = self.embedder.encoder(self.image)
        with torch.autocast(batch.device.type, enabled=False):
            tokens = encoder.encode([self.pack(row) for row in batch.cpu()])
            return torch.from_numpy(self.embedder.encode_tokens(tokens, self.image)).to(batch.device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings [B, d]."""
        with torch.autocast(self.embedder.device.type, enabled=False):
            return torch.from_numpy(self.embedder.encode(list(texts), self.text)).to(self.embedder.device)


def load_lightcrl(
    model_name: str, pretrained: str = "", cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> tuple[ClipModel, Callable[[Any], Tensor], Callable[[Sequence[str]], Texts]]:
    """Load a model as CLIP_benchmark's loaders do.

    Args:
        model_name: folder or hub id.
        pretrained: folder below `model_name` (`best`), or revision of a hub id; empty for the default.
        cache_dir: the hub's cache.
        device: device of the model.

    Returns:
        The model, the transform of pictures, and the tokenizer.

    Raises:
        CheckpointError: there is no such checkpoint.
        ModalityError: the model has no pictures or no texts.
    """
    folder = Path(model_name)
    if folder.is_dir():
        inner = folder / pretrained
        checkpoint = load_checkpoint(inner if pretrained and inner.is_dir() else folder)
    else:
        checkpoint = Checkpoint.from_pretrained(model_name, revision=pretrained or None, cache_dir=cache_dir)
    model = ClipModel(Embedder(checkpoint, device=str(device))).eval()
    return model, model.transform, Texts


def register() -> None:
    """Add the model type `lightcrl` to CLIP_benchmark.

    Raises:
        LightCRLError: CLIP_benchmark cannot be imported.
    """
    try:
        from clip_benchmark import models
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision beside another build of torch
        raise LightCRLError(
            f"CLIP_benchmark cannot be imported: {error}. Run: pip install clip_benchmark, with a torchvision of the "
            "same build as torch."
        ) from error
    models.TYPE2FUNC[NAME] = load_lightcrl
    if NAME not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(NAME)


def main() -> None:
    """Run CLIP_benchmark's command line with the model type `lightcrl`."""
    register()
    from clip_benchmark import cli

    cli.main()


def _modality(embedder: Embedder, kind: str) -> str:
    names = [name for name, other in embedder.modalities.items() if other == kind]
    if not names:
        raise ModalityError(
            f"CLIP_benchmark needs pictures and texts; this model takes {', '.join(embedder.modalities)}."
        )
    return names[0]


def _packing(encoder: Encoder) -> Callable[[Tensor], Any] | None:
    """Return the map from a row of a batch to a prepared picture; None if pictures have no common shape."""
    prepared = [encoder.prepare(Image.new("RGB", size)) for size in ((64, 64), (96, 48))]
    if isinstance(prepared[0], Mapping) and len(prepared[0]) == 1:
        (name,) = prepared[0]
        pack: Callable[[Tensor], Any] = lambda row: {name: row}  # noqa: E731
    elif isinstance(prepared[0], np.ndarray):
        pack = Tensor.numpy
    elif isinstance(prepared[0], Tensor):
        pack = lambda row: row  # noqa: E731
    else:
        return None
    return pack if len({_tensor(item).shape for item in prepared}) == 1 else None


def _tensor(prepared: Any) -> Tensor:
    value = next(iter(prepared.values())) if isinstance(prepared, Mapping) else prepared
    return torch.as_tensor(value)


if __name__ == "__main__":
    main()
