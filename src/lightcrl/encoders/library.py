"""Encoders that the library sentence-transformers runs, for layouts that this one does not read itself.

Such layouts have no hidden layers (`StaticEmbedding`, bags of words), or modules that are rare (CNN, LSTM, weighted
layers), or a chat template, or code of their own. An item is one token: the vector that the library gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lightcrl.encoders.audio import LONGEST, read_sound
from lightcrl.encoders.base import Encoder, EncoderSpec, fingerprint, pick_device
from lightcrl.encoders.files import CODE, FILES, content_digest, quiet
from lightcrl.encoders.image import read_image
from lightcrl.encoders.routes import TASKS
from lightcrl.errors import EncoderError, ItemError, MissingExtraError, first_line
from lightcrl.tokens import TokenBatch

FORMAT = 1
RATE = 16_000
"""Sampling rate in Hz of sounds for a model that names none."""


class LibraryEncoder(Encoder):
    """A model of sentence-transformers as the library itself runs it; a token per item.

    Args:
        spec: the encoder's settings; `layers` and `tokens` are `"auto"` or the trained vector.
        root: folder of the model.
        reason: reason why its layout is not read here, for messages.

    Raises:
        EncoderError: the library cannot load the model, or the settings ask for hidden states.
        MissingExtraError: the library is not installed.
    """

    dim: int
    slots = 1

    def __init__(self, spec: EncoderSpec, root: Path, reason: str) -> None:
        self.kind, self.spec, self.root = spec.kind, spec, root
        self.device = pick_device(spec.device)
        if spec.batch_size != "auto":
            self.batch_size = spec.batch_size
        self.model = _load(spec, root, reason, str(self.device))
        if not self.model.supports(spec.kind):
            raise EncoderError(f"{spec.model!r} encodes {', '.join(map(str, self.model.modalities))}, not {spec.kind}.")
        dim = self.model.get_embedding_dimension()
        self.dim = int(self.model.encode([self._trial()]).shape[1]) if dim is None else int(dim)

    def describe(self) -> Mapping[str, Any]:
        """Return digests of all files of the model, the prompt and the greatest length."""
        return {
            "encoder": "sentence-transformers",
            "format": FORMAT,
            "kind": self.kind,
            "files": self._files,
            "prompt": self.spec.prompt,
            "dtype": self.spec.dtype,
            "max_length": self.spec.max_length,
        }

    @cached_property
    def _files(self) -> str:
        patterns = (*FILES, *CODE) if self.spec.trust_remote_code else FILES
        paths = sorted({path for pattern in patterns for path in self.root.rglob(pattern) if path.is_file()})
        return fingerprint({path.relative_to(self.root).as_posix(): content_digest(path) for path in paths})

    @cached_property
    def rate(self) -> int:
        """The input sampling rate of the model, in Hz."""
        processor = getattr(self.model, "processor", None)
        extractor = getattr(processor, "feature_extractor", processor)
        return int(getattr(extractor, "sampling_rate", RATE))

    def prepare(self, raw: Any) -> Any:
        """Return the text, the picture as RGB, or the samples and their rate.

        Raises:
            ItemError: see `read_image` and `read_sound`, or the item is not a text.
        """
        if self.kind == "image":
            return read_image(raw, self.spec.max_pixels)
        if self.kind == "audio":
            length = self.spec.max_length or LONGEST
            return {"array": read_sound(raw, self.rate, length), "sampling_rate": self.rate}
        if not isinstance(raw, str):
            raise ItemError("not a text", f"found {type(raw).__name__}")
        if not raw.strip():
            raise ItemError("empty text", f"no token in {raw[:40]!r}")
        return raw

    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        """Return the library's vectors as tokens [B, 1, D]."""
        task = self.spec.prompt if self.spec.prompt in TASKS else None
        vectors = self.model.encode(
            list(prepared),
            prompt_name=self.spec.prompt or None,
            prompt="" if self.spec.prompt == "" else None,
            batch_size=self.batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
            **({"task": task} if task else {}),
        )
        return TokenBatch.full(vectors.float().clone().unsqueeze(1))

    def length(self, prepared: Any) -> int:
        """Return the number of characters of a text."""
        return len(prepared) if isinstance(prepared, str) else 1

    def _trial(self) -> Any:
        from PIL import Image

        trials = {"text": "text", "image": Image.new("RGB", (64, 64)), "audio": (torch.zeros(RATE).numpy(), RATE)}
        return self.prepare(trials[self.kind])


def _load(spec: EncoderSpec, root: Path, reason: str, device: str) -> Any:
    advice = "To use its hidden states alone, name pools of them, such as tokens = 'mean+max'."
    start = f"the vector that {spec.model!r} was trained to give cannot be made: {reason}"
    if spec.layers != "auto" or spec.tokens not in ("auto", "trained") or spec.weights != "pretrained":
        raise EncoderError(
            f"{spec.model!r} is run by sentence-transformers ({reason}), so layers = {spec.layers!r} and tokens = "
            f"{spec.tokens!r} are not at hand; expected 'auto' for both, and pretrained weights."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(f"{start}. The library itself, which", "sentence-transformers") from error
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dtype = "float32" if spec.dtype == "auto" else spec.dtype
            model = SentenceTransformer(
                str(root),
                device=device,
                trust_remote_code=spec.trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
            )
    except Exception as error:  # the library and the model's code raise any exception
        raise EncoderError(
            f"{start}, and sentence-transformers does not load it: {first_line(error)} {advice}"
        ) from error
    if spec.max_length is not None and spec.kind == "text":
        model.max_seq_length = int(spec.max_length)
    return model.eval()
