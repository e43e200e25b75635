"""Changing an index: one writer at a time, by the folder's lock; every change is a commit of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np

from lightcrl.data.base import Rejection
from lightcrl.embedder import Embedder
from lightcrl.events import Tell
from lightcrl.files.locks import in_turn
from lightcrl.index.adding import add_batch
from lightcrl.index.base import Added, Engine, Entry
from lightcrl.index.catalog import Catalog
from lightcrl.index.reading import Reader
from lightcrl.index.sampling import calibrate, outgrown

COMMIT = 1024
"""Number of items added in one commit."""


@final
class Writer:
    """Writer of an index: adds, removes, calibrates and compacts."""

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        catalog: Catalog,
        engine: Engine,
        reader: Reader,
        embedder: Callable[[], Embedder],
    ) -> None:
        self._folder, self._catalog, self._engine, self._reader = folder, catalog, engine, reader
        self._embedder, self._dim, self._model = embedder, manifest["dim"], manifest["model"]

    def add(self, entries: Iterable[Entry | Rejection], commit: int, tell: Tell) -> Added:
        """Add entries, `commit` of them at a time."""
        done, waiting = Added(), iter(entries)
        with in_turn(self._folder, tell) as hold:
            self._engine.sweep(self._catalog.state().token)
            while batch := list(islice(waiting, commit)):
                kinds = self._model["modalities"]
                done += add_batch(self._catalog, self._engine, self._embedder, self._dim, kinds, batch, hold.check)
                tell({"event": "added", "added": done.added, "replaced": done.replaced, "present": done.present})
            if done.added or done.replaced:
                self._settle(hold.check)
            if outgrown(self._reader.opened().calibration, self._catalog):
                self._calibrate(hold.check)
        return done

    def remove(self, ids: Sequence[str], where: str | None, tell: Tell) -> int:
        """Remove items by id and by filter; return their number."""
        with in_turn(self._folder, tell) as hold:
            numbers = {self._reader.item(id)[0] for id in ids}
            if where is not None:
                numbers.update(self._catalog.numbers(where=where).tolist())
            if numbers:
                hold.check()
                token = self._engine.remove(self._catalog.state().token, np.array(sorted(numbers)))
                with self._catalog.change() as change:
                    change.drop(sorted(numbers))
                    change.token(token)
        return len(numbers)

    def compact(self, tell: Tell) -> None:
        """Rewrite the vectors without those of removed items."""
        with in_turn(self._folder, tell) as hold:
            state, gone = self._catalog.opened()
            token = self._engine.compact(state.token, gone)
            hold.check()
            with self._catalog.change() as change:
                change.token(token)
                change.forget()
            self._engine.sweep(token)

    def _calibrate(self, check: Callable[[], None]) -> None:
        view = self._reader.opened().view
        measured = calibrate(self._catalog, view, self._model["modalities"], self._embedder, self._model["place"])
        check()
        with self._catalog.change() as change:
            change.calibrate(measured.pack())

    def _settle(self, check: Callable[[], None]) -> None:
        """Let the engine optimise itself for searches."""
        state = self._catalog.state()
        token = self._engine.settle(state.token)
        if token != state.token:
            check()
            with self._catalog.change() as change:
                change.token(token)
