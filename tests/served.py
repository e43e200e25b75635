"""What tests of the server need: an index of all kinds in no time, a server of it, content as data URLs."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from starlette.testclient import TestClient

from lightcrl.embedder import Embedder
from lightcrl.index import Index
from lightcrl.serve.app import make_app
from lightcrl.serve.service import Service, Settings
from shelves import picture

TEXTS = ("two dogs", "a red car", "a boat by the sea", "an old man")


def fill(folder: Path, embedder: Embedder) -> Index:
    """Four texts, three pictures and a sound of a second, with years."""
    index = Index.create(folder / "index", embedder)
    media = folder / "media"
    index.add([index.entry(text, "text", f"t{n}", {"year": 2018 + n}) for n, text in enumerate(TEXTS)])
    paths = [picture(media / f"{n}.png", n) for n in range(3)]
    index.add([index.entry(path, "image", f"dir/{path.name}", {"year": 2020, "by": "ada"}) for path in paths])
    tone = np.sin(np.arange(8000) / 5).astype(np.float32) / 2
    soundfile.write(media / "tone.wav", tone, 8000)
    index.add([index.entry(media / "tone.wav", "audio", "tone.wav")])
    return index


@contextmanager
def served_with(folder: Path, embedder: Embedder, **settings: Any) -> Iterator[SimpleNamespace]:
    """A server in this process, of an index made anew; `client`, `service`, `index`, `folder`."""
    service = Service(fill(folder, embedder), Settings(**settings))
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        wait_until_ready(client.get)
        yield SimpleNamespace(client=client, service=service, index=service.index, folder=folder)


def wait_until_ready(get: Callable[[str], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while (answer := get("/readyz")).status_code != 200:
        assert time.monotonic() < end, answer.text
        assert "could not start" not in answer.text, answer.text
        time.sleep(0.02)


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def png(number: int = 0, size: tuple[int, int] = (20, 10), kind: str = "PNG") -> bytes:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def wav(seconds: float = 0.5, rate: int = 8000) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(int(seconds * rate)) / 5).astype(np.float32) / 2, rate, format="WAV")
    return buffer.getvalue()
