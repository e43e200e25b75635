"""Every form in which a program may hold a picture or a sound gives the vector of the plain path."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.image import read_image
from lightcrl.errors import ItemError

RATE = 16_000

PICTURES: dict[str, Callable[[Path], Any]] = {
    "text of the path": str,
    "file uri": lambda path: path.as_uri(),
    "file uri of localhost": lambda path: path.as_uri().replace("file://", "file://localhost"),
    "home": lambda path: f"~/{path.name}",
    "path below home": lambda path: Path("~") / path.name,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "bytes and path": lambda path: {"bytes": path.read_bytes(), "path": "only/a/name.png"},
    "path alone": lambda path: {"bytes": None, "path": str(path)},
    "PIL": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
    "array, channels first": lambda path: np.asarray(Image.open(path)).transpose(2, 0, 1),
    "float array": lambda path: np.asarray(Image.open(path)) / 255,
    "float32 array": lambda path: (np.asarray(Image.open(path)) / 255).astype(np.float32),
    "tensor": lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1),
    "tensor, channels last": lambda path: torch.from_numpy(np.array(Image.open(path))),
    "float tensor": lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255,
    "float tensor with gradient": lambda path: (
        torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
    ).requires_grad_(),
}


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


SOUNDS: dict[str, Callable[[Path], Any]] = {
    **{name: form for name, form in PICTURES.items() if not any(word in name for word in ("array", "tensor", "PIL"))},
    "samples and rate": lambda path: (read(path), RATE),
    "two channels": lambda path: (np.stack([read(path)] * 2, 1), RATE),
    "two channels, first": lambda path: (np.stack([read(path)] * 2), RATE),
    "tensor and rate": lambda path: (torch.from_numpy(read(path)), RATE),
    "tensor, channels first": lambda path: (torch.from_numpy(read(path))[None], RATE),
    "array and sampling rate": lambda path: {"array": read(path), "sampling_rate": RATE, "path": None},
    "list of samples": lambda path: {"array": read(path).tolist(), "sampling_rate": RATE},
    "torchcodec": lambda path: SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(read(path))[None], sample_rate=RATE)
    ),
}


@pytest.fixture
def picture(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(tmp_path / "a picture.png")
    return tmp_path / "a picture.png"


@pytest.fixture
def sound(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(tmp_path / "a sound.wav", samples, RATE, subtype="FLOAT")
    return tmp_path / "a sound.wav"


@pytest.mark.parametrize("form", PICTURES)
def test_a_picture_in_every_form_is_that_of_its_path(picture, form):
    encoder = load_encoder(EncoderSpec(kind="image", model="builtin"))
    raw = PICTURES[form](picture)
    np.testing.assert_array_equal(encoder.prepare(raw), encoder.prepare(picture))
    getattr(raw, "close", int)()


@pytest.mark.parametrize("form", SOUNDS)
def test_a_sound_in_every_form_is_that_of_its_path(sound, form):
    encoder = load_encoder(EncoderSpec(kind="audio", model="builtin"))
    raw = SOUNDS[form](sound)
    np.testing.assert_array_equal(encoder.prepare(raw), encoder.prepare(sound))
    getattr(raw, "close", int)()


def test_a_file_that_was_read_can_be_read_again(picture):
    stream = io.BytesIO(picture.read_bytes())
    assert np.array_equal(np.asarray(read_image(stream, 10**6)), np.asarray(read_image(stream, 10**6)))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("https://example.org/a.png", "is a web address; download it first"),
        ("http://example.org/a.png", "is a web address; download it first"),
        ("file://elsewhere/a.png", "names the host 'elsewhere'"),
        ({"bytes": None, "path": None}, "bytes and path are both None"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        (np.full((4, 5, 3), 1.5), "values from 1.5 to 1.5; expected 0 to 1"),
        (np.full((4, 5, 3), -0.1), "values from -0.1 to -0.1"),
        (np.full((4, 5, 3), np.nan), "values from nan to nan"),
        (torch.zeros(3, 5, 3, dtype=torch.uint8), "may have its channels first or last"),
        (np.zeros((2, 5, 6), np.uint8), r"expected \[H, W, 3\] or \[3, H, W\]"),
        (np.zeros((5, 6, 3), np.int64), "expected uint8, or floats"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"expected \[H, W\]"),
    ],
)
def test_a_picture_that_cannot_be_read_for_sure_is_refused(raw, words):
    with pytest.raises(ItemError, match=words):
        read_image(raw, 10**6)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("https://example.org/a.wav", "download it first"),
        ((np.zeros((2, 3), np.float32), RATE), "which axis is time"),
        ((np.zeros((900, 900), np.float32), RATE), "which axis is time"),
        ({"samples": [0.0]}, "found keys 'samples'; expected 'array' and 'sampling_rate'"),
        ({"bytes": None, "path": None}, "bytes and path are both None"),
    ],
)
def test_a_sound_that_cannot_be_read_for_sure_is_refused(raw, words):
    with pytest.raises(ItemError, match=words):
        read_sound(raw, RATE)
