"""Sounds: safe reading, and the frozen audio encoders of the transformers library."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.image import leading_tokens
from lightcrl.encoders.inputs import array, content, samples_and_rate, time_first
from lightcrl.encoders.loaded import Prepared
from lightcrl.errors import ItemError, MissingExtraError

LONGEST = 30.0
# Shorter sounds are padded with silence: less than a frame of any model is no input.
SHORTEST = 0.1


def read_sound(raw: Any, rate: int, max_length: float = LONGEST) -> np.ndarray:
    """Return a sound as mono samples [N] at `rate` Hz, at most `max_length` seconds.

    All forms of `encoders.inputs` are accepted: a file's path or bytes, or samples ([N], [N, channels] or [channels,
    N]; floats, or integers of full scale) and their rate.

    Raises:
        ItemError: the item is not a sound, broken, or without samples.
        MissingExtraError: files, or a change of the rate, need the extra `audio`.
    """
    mono, found_rate = decode_sound(content(raw, "sound"), max_length)
    return _resample(mono, found_rate, rate)


def decode_sound(raw: Any, max_length: float) -> tuple[np.ndarray, int]:
    """Return a sound as mono samples [N], at most `max_length` seconds, and their own rate; errors as `read_sound`."""
    pair = samples_and_rate(raw)
    samples, rate = _from_pair(pair) if pair is not None else _from_file(raw, max_length)
    if samples.size == 0:
        raise ItemError("empty sound")
    if not np.isfinite(samples).all():
        raise ItemError("unreadable sound", "has samples that are not finite")
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return mono[: round(max_length * rate)], rate


def _from_pair(raw: tuple[Any, ...]) -> tuple[np.ndarray, int]:
    if len(raw) != 2:
        raise ItemError("not a sound", f"found {len(raw)} values; expected samples and their rate")
    samples, rate = time_first(array(raw[0], "a sound")), _rate(raw[1])
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu" or rate <= 0:
        raise ItemError("not a sound", f"found {samples.dtype} of shape {list(samples.shape)} at {rate} Hz")
    if samples.dtype.kind != "f":
        whole = np.iinfo(samples.dtype)
        middle = 0 if samples.dtype.kind == "i" else (whole.max + 1) / 2
        samples = (samples - middle) / ((whole.max - whole.min + 1) / 2)
    return samples.astype(np.float32), rate


def _rate(raw: Any) -> int:
    try:
        return int(raw)
    except (TypeError, ValueError, OverflowError):  # OverflowError: infinity.
        raise ItemError("not a sound", f"a sampling rate of {raw!r}; expected samples per second, as 16000") from None


def _from_file(raw: Any, max_length: float) -> tuple[np.ndarray, int]:
    if not isinstance(raw, (str, Path, bytes)):
        raise ItemError("not a sound", f"found {type(raw).__name__}")
    if not isinstance(raw, bytes) and not Path(raw).is_file():
        raise ItemError("missing file", str(raw))
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not.
        raise MissingExtraError("reading sounds from files", "audio") from error
    try:
        with soundfile.SoundFile(io.BytesIO(raw) if isinstance(raw, bytes) else str(raw)) as file:
            return file.read(round(max_length * file.samplerate), dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise ItemError("unreadable sound", str(error)) from error


def _resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    if rate == wanted:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise MissingExtraError(f"a sound at {rate} Hz for an encoder at {wanted} Hz", "audio") from error
    common = math.gcd(rate, wanted)
    return np.asarray(resample_poly(samples, wanted // common, rate // common), dtype=np.float32)


class AudioEncoder(HuggingFaceEncoder):
    """Sounds as the hidden states of their frames (wav2vec 2.0, HuBERT, Whisper) or spectrogram patches (AST, CLAP).

    Attributes:
        rate: input sampling rate of the model, in Hz.
        max_length: greatest length in seconds, the rest is cut off; by default 30, or the model's limit if it is less.
    """

    tower = "audio_model"
    processor_class = ("AutoFeatureExtractor", "feature extractor")
    batches = ((8, math.inf), (64, math.inf))

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self.rate: int = self.processor.sampling_rate
        # CLAP's extractor cuts longer sounds at random.
        self.max_length = min(spec.max_length or LONGEST, getattr(self.processor, "max_length_s", LONGEST))

    def describe(self) -> Mapping[str, Any]:
        """Return the settings of `HuggingFaceEncoder` and the greatest length."""
        return {**super().describe(), "max_length": self.max_length}

    def prepare(self, raw: Any) -> Prepared:
        """Return the model's input, time first for waveforms, and a mask if the model takes one.

        Raises:
            ItemError: see `read_sound`.
        """
        sound = read_sound(raw, self.rate, self.max_length)
        sound = np.pad(sound, (0, max(0, math.ceil(SHORTEST * self.rate) - len(sound))))
        features = self.processor(sound, sampling_rate=self.rate, return_attention_mask=True, return_tensors="pt")
        item = {name: torch.as_tensor(value)[0] for name, value in features.items()}
        # Waveform models with group normalisation were trained without a mask, and padding changes their output.
        if item[self.processor.model_input_names[0]].ndim == 1 and not self.processor.return_attention_mask:
            item.pop("attention_mask", None)
        return item

    def length(self, prepared: Prepared) -> int:
        """Return the number of samples, or frames, of the sound."""
        return len(prepared[self.processor.model_input_names[0]])

    def trial(self) -> list[Prepared]:
        """Return two noises."""
        noise = np.random.default_rng(0).normal(scale=0.1, size=self.rate).astype(np.float32)
        return [self.prepare((noise[: len(noise) * 3 // 5], self.rate)), self.prepare((noise, self.rate))]

    def token_mask(self, network: Any, mask: Tensor, tokens: int) -> Tensor:
        """Return the mask of frames [B, tokens] from that of samples, or of the spectrogram's columns."""
        if hasattr(network, "_get_feature_vector_attention_mask"):
            frames: Tensor = network._get_feature_vector_attention_mask(tokens, mask)
            return frames
        return mask[:, :: max(1, round(mask.shape[1] / tokens))][:, :tokens]

    def places(self, network: torch.nn.Module, layer: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return the tokens that the model puts before the patches of a spectrogram."""
        cls, prefix = leading_tokens(network, layer.shape[-1])
        return {"cls": cls, "prefix": prefix}
