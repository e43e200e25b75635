"""What all requests share: the index, its encoders in one thread, pools for what blocks, its start and end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from PIL import Image

from lightcrl.errors import ItemError, ModalityError, NotReadyError, first_line
from lightcrl.index import Index
from lightcrl.index.catalog import NAME, Catalog
from lightcrl.serve.batching import Batcher
from lightcrl.serve.keys import Keys
from lightcrl.serve.limits import Limits
from lightcrl.serve.metrics import Metrics
from lightcrl.serve.pools import Pool

SEARCHES = 4
"""Searches at a time; products of matrices use several cores by themselves."""


FIRST: dict[str, Callable[[], Any]] = {
    "text": lambda: "a first text",
    "image": lambda: Image.new("RGB", (64, 64), "grey"),
    "audio": lambda: (np.sin(np.arange(16_000) / 8).astype(np.float32), 16_000),
}
"""Items to warm up with, by kind."""


class Encodes(Protocol):
    """What encodes queries: the index's own embedder, or an exported one."""

    def encode(self, items: Sequence[Any], modality: str) -> np.ndarray:
        """Unit vectors [N, d] float32."""
        ...


@dataclass(frozen=True)
class Settings:
    """How an index is served.

    Attributes:
        writable: whether requests may change it.
        keys: who may ask; all, where there are none.
        limits: what a request may hold.
        batch: items encoded together at most.
        queue: items, and requests of a pool, that may wait.
        encoder: gives what encodes queries, if not the index's own embedder.
    """

    writable: bool = False
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    batch: int = 32
    queue: int = 256
    encoder: Callable[[], Encodes] | None = None


@final
class Service:
    """A served index.

    Attributes:
        index: what is served.
        catalog: its rows, to be listed.
        settings: how.
        metrics: what is counted.
        batcher: encodes.
        searches, writes, figures: pools for searches and media, for changes, for what looks at all items.
        failure: what went wrong while warming up.
    """

    def __init__(self, index: Index, settings: Settings) -> None:
        """Take an opened index; `start` warms up."""
        self.index, self.settings, self.metrics = index, settings, Metrics()
        self.catalog = Catalog(Path(index.folder) / NAME)
        self.batcher = Batcher(self._encode, batch=settings.batch, queue=settings.queue, observe=self.metrics.batch)
        self.searches = Pool("searches", SEARCHES, settings.queue)
        self.writes = Pool("changes", 1, settings.queue)
        self.figures = Pool("figures of all items", 1, 8)
        self.failure: Exception | None = None
        self._ready = threading.Event()
        self._encoder: Encodes | None = None
        self.metrics.gauge("items", "Items of the index.", lambda: len(index))
        self.metrics.gauge("waiting_items", "Items that wait to be encoded.", lambda: self.batcher.waiting)
        self.metrics.gauge("ready", "Whether requests are answered.", lambda: float(self._ready.is_set()))

    @property
    def uploads(self) -> Path:
        """Where files that come with requests are kept: in the index's own folder."""
        return Path(self.index.folder) / "uploads"

    def start(self, failed: Callable[[Exception], None] = lambda error: None) -> None:
        """Warm up in a thread: load the encoders, encode an item of each, search; then requests are answered.

        Args:
            failed: is told what went wrong.
        """

        def work() -> None:
            try:
                self._warm_up()
                self._ready.set()
            except NotReadyError:  # stopped before it was warm: nothing is wrong
                return
            except Exception as error:
                self.failure = error
                failed(error)

        threading.Thread(target=work, name="warm-up", daemon=True).start()

    def stop(self) -> None:
        """Finish what was begun."""
        for pool in (self.searches, self.writes, self.figures):
            pool.close()
        self.batcher.close()

    def check_ready(self) -> None:
        """Return if requests are answered.

        Raises:
            NotReadyError: they are not yet, or cannot be.
        """
        if self.failure is not None:
            raise NotReadyError(f"the server could not start: {first_line(self.failure)}")
        if not self._ready.is_set():
            raise NotReadyError("the server is warming up; ask again in some seconds.")

    def modality_of(self, kind: str, asked: str | None = None) -> str:
        """The modality that was asked for, or the model's first of a kind.

        Raises:
            ModalityError: the model has none, or it is of another kind.
        """
        modalities = self.index.modalities
        names = [name for name, its_kind in modalities.items() if its_kind == kind and asked in (None, name)]
        if not names:
            wanted = f"of kind {kind!r}" if asked is None else f"{asked!r} of kind {kind!r}"
            raise ModalityError(f"the model has no modality {wanted}; it has {modalities}.")
        return names[0]

    def check_modality(self, modality: str | None) -> None:
        """Return if items may be of this modality.

        Raises:
            ModalityError: the model has no such modality.
        """
        if modality is not None and modality not in self.index.modalities:
            raise ModalityError(f"no modality {modality!r}; the index has {', '.join(self.index.modalities)}.")

    def _encode(self, items: Sequence[Any], modality: str) -> np.ndarray:
        if self._encoder is None:
            self._encoder = (self.settings.encoder or (lambda: self.index.embedder))()
        return self._encoder.encode(items, modality)

    def _warm_up(self) -> None:
        for modality, kind in self.index.modalities.items():
            try:
                vectors = self.batcher.submit([FIRST[kind]()], modality).result()
            except ItemError:  # an encoder of the user's own may want more of an item
                continue
            self.index.search_vectors(vectors, 1)
