"""State that all requests share: the index, its encoders in one thread, pools for blocking calls, start and end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from PIL import Image

from lightcrl.captioner import Captioner
from lightcrl.errors import ItemError, ModalityError, NotReadyError, UnknownItemError, first_line
from lightcrl.imaginer import TextPrior
from lightcrl.index import Index, Record
from lightcrl.index.catalog import NAME, Catalog
from lightcrl.serve.batching import Batcher
from lightcrl.serve.joint import search_together
from lightcrl.serve.keys import Keys
from lightcrl.serve.limits import Limits
from lightcrl.serve.metrics import Metrics
from lightcrl.serve.pools import Pool

SEARCHES = 4
"""Number of concurrent searches; matrix products use several cores by themselves."""


FIRST: dict[str, Callable[[], Any]] = {
    "text": lambda: "a first text",
    "image": lambda: Image.new("RGB", (64, 64), "grey"),
    "audio": lambda: (np.sin(np.arange(16_000) / 8).astype(np.float32), 16_000),
}
"""Functions that return an item for the warm-up, by kind."""


class Encodes(Protocol):
    """Encoder of queries: the index's own embedder, or an exported one."""

    def encode(self, items: Sequence[Any], modality: str) -> np.ndarray:
        """Return unit vectors [N, d] float32."""
        ...


@dataclass(frozen=True)
class Settings:
    """Settings of a served index.

    Attributes:
        writable: permission of requests to change the index.
        keys: accepted API keys; without keys, no request needs one.
        limits: limits of a request.
        batch: largest number of items of a batch, unless a single job has more.
        queue: largest number of items, and of calls of a pool, that wait.
        encoder: function that returns the encoder of queries; by default, the index's own embedder.
        worker: number of this process among those that serve the index.
    """

    writable: bool = False
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    batch: int = 32
    queue: int = 256
    encoder: Callable[[], Encodes] | None = None
    worker: int = 1


@final
class Service:
    """A served index.

    Attributes:
        index: served index.
        catalog: rows of the index, for lists of items.
        settings: settings of the server.
        metrics: metrics of the server.
        batcher: queue and thread of the encoder.
        finder: queue and thread of searches that have their vectors and no filter.
        searches, writes, figures: pools for searches and media, for changes, and for whole-index figures.
        failure: error of the warm-up, or None.
        heads: heads of the model; none if queries are encoded by an exported one.
    """

    def __init__(self, index: Index, settings: Settings) -> None:
        """Take an open index; `start` warms the server up."""
        self.index, self.settings, self.metrics = index, settings, Metrics()
        self.catalog = Catalog(Path(index.folder) / NAME)
        self.batcher = Batcher(self._encode, batch=settings.batch, queue=settings.queue, observe=self.metrics.batch)
        # A thread of its own: it searches for one batch while the encoder works on the next.
        self.finder = Batcher(self._search, batch=settings.batch, queue=settings.queue)
        self.searches = Pool("searches", SEARCHES, settings.queue)
        self.writes = Pool("changes", 1, settings.queue)
        self.figures = Pool("figures of all items", 1, 8)
        self.failure: Exception | None = None
        self.heads: tuple[str, ...] = ()
        self._ready = threading.Event()
        self._loading = threading.Lock()
        self._captioners: dict[str | None, Captioner] = {}
        self._prior: TextPrior | None = None
        self._encoder: Encodes | None = None
        self.metrics.gauge("items", "Items of the index.", lambda: len(index))
        self.metrics.gauge("waiting_items", "Items that wait to be encoded.", lambda: self.batcher.waiting)
        self.metrics.gauge("worker", "Number of the process that answers.", lambda: settings.worker)
        self.metrics.gauge("ready", "Whether requests are answered.", lambda: float(self._ready.is_set()))

    @property
    def uploads(self) -> Path:
        """Folder for the files of requests, inside the index's own folder."""
        return Path(self.index.folder) / "uploads"

    def start(self, failed: Callable[[Exception], None] = lambda error: None) -> None:
        """Warm up in a thread; the server is ready afterwards.

        The warm-up loads the encoders, encodes an item of each modality, and searches for it.

        Args:
            failed: function that receives an error of the warm-up.
        """

        def work() -> None:
            try:
                self._warm_up()
                self._ready.set()
            except NotReadyError:  # a stop before the end of the warm-up is no failure
                return
            except Exception as error:
                self.failure = error
                failed(error)

        threading.Thread(target=work, name="warm-up", daemon=True).start()

    def stop(self) -> None:
        """Finish all running and waiting calls, then end the threads."""
        for pool in (self.searches, self.writes, self.figures):
            pool.close()
        self.batcher.close()
        self.finder.close()

    def check_ready(self) -> None:
        """Return if the server is ready.

        Raises:
            NotReadyError: the warm-up is in progress, or it failed.
        """
        if self.failure is not None:
            raise NotReadyError(f"the server could not start: {first_line(self.failure)}")
        if not self._ready.is_set():
            raise NotReadyError("the server is warming up; ask again in some seconds.")

    def modality_of(self, kind: str, asked: str | None = None) -> str:
        """Return the modality `asked`, or by default the model's first modality of a kind.

        Raises:
            ModalityError: the model has no such modality, or it is of another kind.
        """
        modalities = self.index.modalities
        names = [name for name, its_kind in modalities.items() if its_kind == kind and asked in (None, name)]
        if not names:
            wanted = f"of kind {kind!r}" if asked is None else f"{asked!r} of kind {kind!r}"
            raise ModalityError(f"the model has no modality {wanted}; it has {modalities}.")
        return names[0]

    def check_modality(self, modality: str | None) -> None:
        """Return if the model has this modality, or none is given.

        Raises:
            ModalityError: the model has no such modality.
        """
        if modality is not None and modality not in self.index.modalities:
            raise ModalityError(f"no modality {modality!r}; the index has {', '.join(self.index.modalities)}.")

    def like(self, name: str) -> tuple[str, str, np.ndarray]:
        """Return id, modality and embedding [d] of the item with exactly this id.

        Raises:
            UnknownItemError: no item has this id.
        """
        record = self.record(name)
        return name, record.modality, self.index.vectors([name])[0]

    def record(self, name: str) -> Record:
        """Return the item with exactly this id.

        Raises:
            UnknownItemError: no item has this id.
        """
        named = self.catalog.named([name])
        if name not in named:
            raise UnknownItemError(f"no item {name[:200]!r}.")
        return named[name][1]

    def _search(self, searches: Sequence[Any], key: str) -> Sequence[Any]:
        # The encoder has the other cores; and in a product with block after block, threads wait for each other.
        with one_thread() if len(searches) > 1 else nullcontext():
            return search_together(self.index, searches, self.like)

    def captioner(self, head: str | None = None) -> Captioner:
        """Return a captioner of the index's model, loaded on first use; arguments and errors as in `Captioner`."""
        with self._loading:
            if head not in self._captioners:
                self._captioners[head] = Captioner(self.index.embedder, head)
            return self._captioners[head]

    def prior(self) -> TextPrior:
        """Return the prior of the index's model, loaded on first use.

        Raises:
            HeadError: the model has no prior, several, or one that makes features in place of embeddings.
        """
        with self._loading:
            if self._prior is None:
                self._prior = TextPrior(self.index.embedder)
                self._prior.need_embeddings()
            return self._prior

    def _encode(self, items: Sequence[Any], modality: str) -> np.ndarray:
        if self._encoder is None:
            self._encoder = (self.settings.encoder or (lambda: self.index.embedder))()
        return self._encoder.encode(items, modality)

    def _warm_up(self) -> None:
        for modality, kind in self.index.modalities.items():
            if self.settings.encoder is None and modality not in self.index.embedder.modalities:
                continue  # the index was opened with an ancestor, which lacks it
            try:
                vectors = self.batcher.submit([FIRST[kind]()], modality).result()
            except ItemError:  # a user's own encoder may require more of an item
                continue
            self.index.search_vectors(vectors, 1)
        if self.settings.encoder is None:
            self.heads = tuple(self.index.embedder.checkpoint.heads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Do the products of the calling thread on one core; other threads keep theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
