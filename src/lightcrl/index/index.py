"""An index: items of all modalities of one model, on disk, to be searched by each of them.

    manifest.json   format, model, engine; written last, never changed
    catalog.db      one row per item, and what changes: see `lightcrl.index.catalog`
    exact/          the vectors, where the engine is `exact`; every engine has a folder of its own

A command that adds or removes takes the folder's lock; searches take none and see whole commits only.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightcrl.data.base import Rejection
from lightcrl.embedder import Embedder, load
from lightcrl.errors import ForeignModelError, QueryError
from lightcrl.events import Tell
from lightcrl.index.adding import vector_entries
from lightcrl.index.base import Added, Entry, Hit, Neighbours, Record
from lightcrl.index.catalog import NAME, Catalog
from lightcrl.index.manifest import load_engine, make_manifest, read_manifest, write_index
from lightcrl.index.query import Asked, Query, compose
from lightcrl.index.reading import Reader
from lightcrl.index.sources import Model, Reading, make_entry, read_source
from lightcrl.index.writing import COMMIT, Writer


@final
class Index:
    """Items with their embeddings, searched, added to and removed from. Made by `create` or `open`.

    Any number of threads and processes may search while one adds; each search sees the last commit.

    Attributes:
        folder: where it lies.
        manifest: its JSON manifest.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], embedder: Embedder | None) -> None:
        """Take what `create` and `open` have checked."""
        self.folder, self.manifest = folder, manifest
        self._embedder, self._lock = embedder, threading.Lock()
        self._catalog, engine = Catalog(folder / NAME), load_engine(folder, manifest)
        self._reader = Reader(self._catalog, engine, self.dim)
        self._writer = Writer(folder, manifest, self._catalog, engine, self._reader, lambda: self.embedder)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        model: Embedder | Path | str,
        *,
        engine: str = "exact",
        dtype: str = "float16",
        options: Mapping[str, Any] | None = None,
        place: str | None = None,
        tell: Tell = lambda event: None,
    ) -> Index:
        """An empty index in `folder`, or the one that is there if it is of the same model and engine.

        Args:
            folder: made if it is not there.
            model: a run's folder, a checkpoint's folder or a hub id, which the index remembers; or an embedder.
            engine: a member of `ENGINES`.
            dtype: of stored vectors, `"float16"` or `"float32"`; where an engine has a choice.
            options: of the engine.
            place: where the model of an embedder lies, to be remembered.
            tell: called with `waiting` where another process writes the folder.

        Raises:
            ForeignModelError: the index there is of another model.
            StoreError: the index there has another engine, or something else is in the folder.
        """
        folder = Path(folder)
        embedder = model if isinstance(model, Embedder) else load(model)
        place = place if isinstance(model, Embedder) else str(model)
        if place is not None and Path(place).exists():
            place = str(Path(place).absolute())
        manifest = make_manifest(folder, embedder, place, engine, dtype, options or {})
        write_index(folder, manifest, tell)
        return cls.open(folder, embedder)

    @classmethod
    def open(cls, folder: Path | str, model: Embedder | Path | str | None = None) -> Index:
        """The index in `folder`.

        Args:
            folder: where `create` made it.
            model: the model, loaded or where it lies; by default where it lay when the index was made, loaded when it
                is first needed.

        Raises:
            StoreError: there is no index of a format that this version reads.
            ForeignModelError: the model is not the one of the index.
        """
        folder = Path(folder)
        index = cls(folder, read_manifest(folder), None)
        if model is not None:
            embedder = model if isinstance(model, Embedder) else load(model)
            index.check_model(embedder.fingerprint)
            index._embedder = embedder
        return index

    def __len__(self) -> int:
        return self._catalog.state().items

    @property
    def dim(self) -> int:
        """d, width of a vector."""
        return int(self.manifest["dim"])

    @property
    def fingerprint(self) -> str:
        """Of the model (`Embedder.fingerprint`)."""
        return str(self.manifest["model"]["fingerprint"])

    @property
    def modalities(self) -> dict[str, str]:
        """Modality of the model to kind of item."""
        return dict(self.manifest["model"]["modalities"])

    @property
    def embedder(self) -> Embedder:
        """The model; loaded from where it lay when the index was made, if none was given.

        Raises:
            ForeignModelError: there is another model now.
            CheckpointError: there is none.
        """
        with self._lock:
            if self._embedder is None:
                place = self.manifest["model"]["place"]
                if place is None:
                    raise QueryError("the index does not know where its model lies; open it with the model.")
                embedder = load(place)
                self.check_model(embedder.fingerprint)
                self._embedder = embedder
        return self._embedder

    def check_model(self, fingerprint: str) -> None:
        """Return if vectors of this model are the index's own.

        Raises:
            ForeignModelError: they are not; names both fingerprints.
        """
        if fingerprint != self.fingerprint:
            raise ForeignModelError(
                f"the index in {self.folder} is of the model {self.fingerprint} ({self.manifest['model']['place']}), "
                f"this is {fingerprint}: their embeddings have nothing in common. Give the model of the index, or "
                "build an index of this one."
            )

    def counts(self, where: str | None = None) -> dict[str, int]:
        """Items by modality: of all, or of those that a filter takes.

        Raises:
            FilterError: the filter is none.
        """
        counts = self._catalog.counts()
        return counts if where is None else {name: len(self._catalog.numbers(name, where)) for name in counts}

    def info(self) -> dict[str, Any]:
        """As JSON: model, engine, items by modality, columns of metadata, what was set aside, sizes."""
        state, gone = self._catalog.opened()
        return {
            "folder": str(self.folder),
            **{key: self.manifest[key] for key in ("format", "engine", "dim", "dtype", "model")},
            "items": state.items,
            "modalities": self._catalog.counts(),
            "columns": self._catalog.columns(),
            "removed": len(gone),
            "bytes": sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()),
            "aside": dict(Counter(rejection.reason for rejection in self._catalog.aside()).most_common()),
            "calibration": self._reader.calibration(),
            "generation": state.generation,
        }

    def aside(self) -> list[Rejection]:
        """What was set aside and has not been added since."""
        return self._catalog.aside()

    def get(self, id: str) -> Record:
        """The item called `id`; a path of a file finds its item too.

        Raises:
            QueryError: there is none.
        """
        return self._reader.item(id)[1]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """[N, d] float32, the embeddings of items as stored.

        Raises:
            QueryError: there is no such item.
        """
        return self._reader.vectors(ids)

    def ids(self, where: str | None = None, modality: str | None = None) -> list[str]:
        """Of all items, or of those that a filter takes, in the order in which they came.

        Raises:
            FilterError: the filter is none.
        """
        return [record.id for record in self._catalog.listed(modality, where)]

    def entry(self, raw: Any, modality: str, id: str | None = None, metadata: Mapping[str, Any] | None = None) -> Entry:
        """An entry to be added: a text, a path, or a picture or sound in any form that `Embedder.encode` takes.

        Args:
            raw: the item.
            modality: whose item it is.
            id: its name; needed where it is neither a text nor a path.
            metadata: by column.

        Raises:
            ItemError: there is no such file, or an empty text.
            DataError: it has no name.
        """
        return make_entry(raw, modality, self.modalities, id, metadata)

    def add(
        self,
        source: Path | str | Iterable[Entry],
        *,
        reading: Reading | None = None,
        tell: Tell = lambda event: None,
        commit: int = COMMIT,
    ) -> Added:
        """Add items; what is there already is not encoded again, what has changed is replaced.

        Args:
            source: a folder of files, a file, a table, a run's folder, or entries.
            reading: how sources are read: columns, ids, modality.
            tell: called with `waiting`, and with `added` after each commit.
            commit: items of one commit; after a kill, whole commits are there.

        Raises:
            DataError: the source cannot be read at all; single items are set aside instead.
            ShapeError: an embedding that came along is no unit vector of the index's width.
        """
        if isinstance(source, (str, Path)):
            model = Model(self.modalities, lambda: self.embedder, self.check_model)
            return self._writer.add(read_source(Path(source), model, reading or Reading()), commit, tell)
        return self._writer.add(source, commit, tell)

    def add_vectors(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        modality: str,
        *,
        fingerprint: str,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> Added:
        """Add embeddings that are there already.

        Args:
            ids: of the items; an item of the same id is replaced.
            vectors: unit vectors [N, d].
            modality: whose items they are.
            fingerprint: of the model that made them (`Embedder.fingerprint`).
            metadata: of each item.

        Raises:
            ForeignModelError: they are of another model.
            ShapeError: they are no unit vectors of the index's width, or not as many as ids.
        """
        self.check_model(fingerprint)
        return self.add(vector_entries(ids, vectors, modality, metadata, self.dim))

    def remove(self, ids: Sequence[str] = (), *, where: str | None = None, tell: Tell = lambda event: None) -> int:
        """Remove items by id, and all that a filter takes; how many there were.

        Raises:
            QueryError: there is no such item.
            FilterError: the filter is none.
        """
        return self._writer.remove(ids, where, tell)

    def compact(self, tell: Tell = lambda event: None) -> None:
        """Rewrite the vectors without those of removed items."""
        self._writer.compact(tell)

    def calibrate(self, tell: Tell = lambda event: None) -> None:
        """Measure anew what scores mean; `add` does so by itself when an index has doubled."""
        self._writer.calibrate(tell)

    def search(
        self,
        text: Asked = None,
        *,
        image: Asked = None,
        audio: Asked = None,
        like: Asked = None,
        minus: Asked = None,
        where: str | None = None,
        modality: str | None = None,
        k: int = 10,
    ) -> list[Hit]:
        """The k items nearest to a text, a picture, a sound, an item, or several of them together.

        Of several modalities, where their shares are known, results come in order of these: scores of pictures and of
        texts cannot be compared.

        Args:
            text: to look for; here and below, a list stands for several, and `Part` gives one a weight.
            image: in any form that `Embedder.encode` takes.
            audio: likewise.
            like: id of an item of the index.
            minus: text to look away from; of another kind where a `Part` says so.
            where: a filter, such as `"year > 2020 and split = 'train'"`.
            modality: of the results.
            k: how many.

        Raises:
            QueryError: nothing is asked, an id is unknown, or the parts cancel each other.
            FilterError: the filter is none.
            ItemError: a picture or sound cannot be read.
        """
        query = self.query(text, image=image, audio=audio, like=like, minus=minus)
        return self.search_query(query, where=where, modality=modality, k=k)

    def search_query(
        self, query: Query, *, where: str | None = None, modality: str | None = None, k: int = 10
    ) -> list[Hit]:
        """As `search`, of a query that `query` has made."""
        hits = self._reader.search_each(query.vector, k + len(query.ids), where, modality, query.modality)
        return [hit for hit in hits if hit.id not in query.ids][:k]

    def query(
        self,
        text: Asked = None,
        *,
        image: Asked = None,
        audio: Asked = None,
        like: Asked = None,
        minus: Asked = None,
    ) -> Query:
        """What `search` looks for, as one unit vector; arguments and errors are its own."""
        asked = {"text": text, "image": image, "audio": audio, "like": like}
        return compose(lambda: self.embedder, self._like, asked, minus)

    def search_vectors(
        self,
        vectors: np.ndarray,
        k: int = 10,
        *,
        where: str | None = None,
        modality: str | None = None,
        query: str | None = None,
        fingerprint: str | None = None,
    ) -> list[list[Hit]]:
        """The k items nearest to each of many queries, best first; fewer where there are no more.

        Args:
            vectors: unit vectors [Q, d] of the index's model.
            k: how many.
            where: a filter, for all of them.
            modality: of the results.
            query: modality of the queries, for the share of random items.
            fingerprint: of the model that made the queries, to be checked where it is known.

        Raises:
            ForeignModelError: the queries are of another model.
            FilterError: the filter is none.
            ShapeError: queries are of another width or not finite, or k is below 1.
        """
        if fingerprint is not None:
            self.check_model(fingerprint)
        return self._reader.search(vectors, k, where, modality, query)

    def ordinary(self, query: str, hits: Sequence[Hit], *, where: str | None = None) -> float | None:
        """The share of ordinary queries that find nothing nearer than the best of some hits; None if not known.

        Where it is next to nothing, the query is far from everything here.

        Args:
            query: modality of the query that the hits are of.
            hits: of one search.
            where: its filter.
        """
        return self._reader.ordinary(query, hits, self.counts(where))

    def neighbours(self, k: int = 10, *, where: str | None = None, modality: str | None = None) -> Neighbours:
        """The k nearest others of every item, among the items that a filter takes and of a modality.

        Raises:
            FilterError: the filter is none.
        """
        return self._reader.neighbours(k, where, modality)

    def _like(self, id: str) -> tuple[str, str, np.ndarray]:
        record = self.get(id)
        return record.id, record.modality, self.vectors([record.id])[0]
