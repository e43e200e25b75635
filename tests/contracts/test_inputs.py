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

from lightcrl.checkpoint import Checkpoint
from lightcrl.embedder import Embedder
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.image import read_image
from lightcrl.errors import ItemError
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec

RATE = 16_000


class Pipe(io.BytesIO):
    """A stream of a network or of another process."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")

    def seek(self, place: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation("seek")


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
    "stream that cannot be sought": lambda path: Pipe(path.read_bytes()),
    "object with read alone": lambda path: SimpleNamespace(read=path.read_bytes),
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
    # Eight significant bits round back to the same pixels.
    "bfloat16 tensor": lambda path: (torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255).bfloat16(),
    "bfloat16 tensor with gradient": lambda path: (
        (torch.from_numpy(np.array(Image.open(path))) / 255).bfloat16().requires_grad_()
    ),
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
    "bfloat16 tensor and rate": lambda path: (torch.from_numpy(read(path)).bfloat16(), RATE),
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
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 8000)).bfloat16().float().numpy()
    soundfile.write(tmp_path / "a sound.wav", samples, RATE, subtype="FLOAT")
    return tmp_path / "a sound.wav"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """A model of random weights over the built-in encoders."""
    encoders = {kind: EncoderSpec(kind=kind, model="builtin") for kind in ("image", "audio")}
    made = {kind: load_encoder(spec) for kind, spec in encoders.items()}
    shapes = {kind: TokenSpec(encoder.dim, encoder.slots) for kind, encoder in made.items()}
    fingerprints = {kind: encoder.fingerprint for kind, encoder in made.items()}
    method = make_method("dfe", shapes, {}, "info_nce")
    return Embedder(Checkpoint(method, name="dfe", loss="info_nce", encoders=encoders, fingerprints=fingerprints))


def check_form(embedder: Embedder, modality: str, raw: Any, path: Path, other: Any) -> None:
    """The item gives the tokens and the vector of its path, alone and beside another item."""
    encoder = embedder.encoder(modality)
    if not isinstance(raw, Pipe):  # which is read once
        np.testing.assert_array_equal(encoder.prepare(raw), encoder.prepare(path))
    plain = embedder.encode([path, other], modality)
    np.testing.assert_array_equal(embedder.encode([raw, other], modality), plain)
    assert not np.allclose(plain[0], plain[1], atol=1e-3)
    getattr(raw, "close", int)()


@pytest.mark.parametrize("form", PICTURES)
def test_a_picture_in_every_form_has_the_vector_of_its_path(embedder, picture, form):
    check_form(embedder, "image", PICTURES[form](picture), picture, Image.linear_gradient("L"))


@pytest.mark.parametrize("form", SOUNDS)
def test_a_sound_in_every_form_has_the_vector_of_its_path(embedder, sound, form):
    tone = np.sin(np.arange(4000) / 5).astype(np.float32)
    check_form(embedder, "audio", SOUNDS[form](sound), sound, (tone, RATE))


def test_a_file_that_was_read_can_be_read_again(picture):
    stream = io.BytesIO(picture.read_bytes())
    assert np.array_equal(np.asarray(read_image(stream, 10**6)), np.asarray(read_image(stream, 10**6)))


def test_a_closed_file_is_refused(picture):
    file = picture.open("rb")
    file.close()
    with pytest.raises(ItemError, match=r"not a readable file: .*closed file"):
        read_image(file, 10**6)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("https://example.org/a.png", "is a web address; download it first"),
        ("http://example.org/a.png", "is a web address; download it first"),
        ("HTTPS://example.org/a.png", "is a web address; download it first"),
        (Path("https://example.org/a.png"), "is a web address; download it first"),
        ("s3://bucket/a.png", "is a web address; download it first"),
        ("~nobody-here/a.png", "missing file: ~nobody-here/a.png: there is no such home"),
        (Path("~nobody-here/a.png"), "there is no such home; give the whole path"),
        ("file://elsewhere/a.png", "names the host 'elsewhere'"),
        ({"bytes": None, "path": None}, "bytes and path are both None"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        (np.full((6, 5, 3), 1.5), "values from 1.5 to 1.5; expected 0 to 1"),
        (np.full((6, 5, 3), -0.1), "values from -0.1 to -0.1"),
        (np.full((6, 5, 3), np.nan), "values from nan to nan"),
        (torch.zeros(3, 5, 3, dtype=torch.uint8), "may have its channels first or last; give a PIL image"),
        (np.zeros((3, 5, 3), np.uint8), r"shape \[3, 5, 3\] and uint8 may have its channels first or last; give a PIL"),
        (np.zeros((3, 224, 4)), r"shape \[3, 224, 4\] and float64 may have its channels first or last"),
        (torch.zeros(3, 5, 5).to_sparse(), "torch.float32, torch.sparse_coo"),
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
        (Path("HTTP://example.org/a.wav"), "download it first"),
        ({"array": np.zeros(9), "sampling_rate": None}, "a sampling rate of None; expected samples per second"),
        ((np.zeros(9), "fast"), "a sampling rate of 'fast'"),
        ((np.zeros(9), float("inf")), "a sampling rate of inf"),
        ((np.zeros(9), 0), "float64 of shape \\[9\\] at 0 Hz"),
        (([[0.0], [0.0, 0.1]], RATE), "not a sound: found list"),
        ({"samples": [0.0]}, "found keys 'samples'; expected 'array' and 'sampling_rate'"),
        ({"bytes": None, "path": None}, "bytes and path are both None"),
    ],
)
def test_a_sound_that_cannot_be_read_for_sure_is_refused(raw, words):
    with pytest.raises(ItemError, match=words):
        read_sound(raw, RATE)
