"""An index: items of all modalities of one model, on disk; queries of each modality search it.

    manifest.json   format, model, engine; written last, never changed
    catalog.db      one row per item, and all that changes: see `lightcrl.index.catalog`
    exact/          the vectors of the engine `exact`; every engine has a folder of its own

A command that adds or removes takes the folder's lock. Searches take no lock and see complete commits only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightcrl.data.base import Rejection
from lightcrl.embedder import Embedder, load
from lightcrl.errors import QueryError
from lightcrl.events import Tell
from lightcrl.index.adding import vector_entries
from lightcrl.index.base import Added, Entry, Hit, Neighbours, Record
from lightcrl.index.catalog import NAME, Catalog
from lightcrl.index.export import PART, export_items
from lightcrl.index.facts import index_facts
from lightcrl.index.manifest import load_engine, make_manifest, read_manifest, write_index
from lightcrl.index.model import accepted, adopted, check_line
from lightcrl.index.previews import Preview
from lightcrl.index.query import Asked, Query, compose
from lightcrl.index.reading import Reader
from lightcrl.index.reordering import reorder, single
from lightcrl.index.showing import find_preview
from lightcrl.index.sources import Model, Reading, make_entry, read_source
from lightcrl.index.writing import COMMIT, Writer
from lightcrl.lineage import Line


@final
class Index:
    """Items with their embeddings, to search, add and remove. Made by `create` or `open`.

    Any number of threads and processes may search while one adds; each search sees the last commit.

    Attributes:
        folder: folder of the index.
        manifest: its JSON manifest.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], embedder: Embedder | None) -> None:
        """Take a folder and a manifest that `create` or `open` has checked."""
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
        tell: Tell = lambda event: None,
    ) -> Index:
        """Make an empty index in `folder`, or return an existing one of the same model and engine.

        Args:
            folder: folder of the index, made if it is missing.
            model: a run's folder, a checkpoint's folder or a hub id; or an embedder. The index stores its place.
            engine: a member of `ENGINES`.
            dtype: dtype of stored vectors, `"float16"` or `"float32"`, if the engine has a choice.
            options: options of the engine.
            tell: function that receives `waiting` while another process writes the folder.

        Raises:
            ForeignModelError: the existing index belongs to another model.
            StoreError: the existing index has another engine, or the folder holds something else.
        """
        folder = Path(folder)
        embedder = model if isinstance(model, Embedder) else load(model)
        write_index(folder, make_manifest(folder, embedder, engine, dtype, options or {}), tell)
        return cls.open(folder, embedder)

    @classmethod
    def open(cls, folder: Path | str, model: Embedder | Path | str | None = None) -> Index:
        """Return the index in `folder`.

        Args:
            folder: folder that `create` has made.
            model: the model, loaded, or its folder or hub id; by default the one stored in the index, loaded at its
                first use.

        Raises:
            StoreError: the folder has no index of a format that this version reads.
            ForeignModelError: see `lightcrl.index.model.accepted`.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        return cls(folder, manifest, None if model is None else accepted(folder, manifest, model))

    def __len__(self) -> int:
        return self._catalog.state().items

    @property
    def dim(self) -> int:
        """The width d of a vector."""
        return int(self.manifest["dim"])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model (`Embedder.fingerprint`)."""
        return str(self.manifest["model"]["fingerprint"])

    @property
    def modalities(self) -> dict[str, str]:
        """The kind of item by modality of the model, or of the extended model that the index was opened with."""
        return dict(self.manifest["model"]["modalities"]) | (self._embedder.modalities if self._embedder else {})

    @property
    def embedder(self) -> Embedder:
        """The model; loaded from the place stored in the index, if none was given.

        Raises:
            ForeignModelError: another model is in this place now.
            CheckpointError: no model is in this place.
            QueryError: the index stores no place.
        """
        with self._lock:
            if self._embedder is None:
                place = self.manifest["model"]["place"]
                if place is None:
                    raise QueryError("the index does not know where its model lies; open it with the model.")
                self._embedder = accepted(self.folder, self.manifest, place)
        return self._embedder

    def check_model(self, fingerprint: str, modality: str | None = None) -> None:
        """Check that the embeddings of a model belong here: the index's own, that it was opened with, or an ancestor.

        Raises:
            ForeignModelError: the model is of another line; or its encoder of `modality` was replaced since.
        """
        opened = self._embedder
        line = opened.line if opened and opened.fingerprint == fingerprint else Line(fingerprint)
        check_line(self.folder, self.manifest, line, modality)

    def counts(self, where: str | None = None) -> dict[str, int]:
        """Return the number of items by modality: of all, or of those that a filter selects.

        Raises:
            FilterError: the filter is invalid.
        """
        return self._reader.counts(where)

    def info(self) -> dict[str, Any]:
        """Return model, engine, items by modality, columns of metadata, rejections and sizes as JSON."""
        return index_facts(self.folder, self.manifest, self._catalog, self._reader)

    def aside(self) -> list[Rejection]:
        """Return the items that were set aside and not added since."""
        return self._catalog.aside()

    def get(self, id: str) -> Record:
        """Return the record of the item with this id, or of the item in the file with this path.

        Raises:
            QueryError: no item has this id or path.
        """
        return self._reader.item(id)[1]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the stored embeddings [N, d] float32 of items by id.

        Raises:
            QueryError: no item has one of these ids.
        """
        return self._reader.vectors(ids)

    def preview(self, id: str) -> Preview | None:
        """Return a small picture or a short sound of an item without a file; None if there is none.

        Raises:
            QueryError: no item has this id.
        """
        number, record = self._reader.item(id)
        return find_preview(self._catalog, number, record.id, self.modalities)

    def ids(self, where: str | None = None, modality: str | None = None) -> list[str]:
        """Return the ids of all items, or of those that a filter selects, in the order of their addition.

        Raises:
            FilterError: the filter is invalid.
        """
        return [record.id for record in self.records(where, modality)]

    def records(self, where: str | None = None, modality: str | None = None) -> list[Record]:
        """Return the records of the items of `ids`, in the same order."""
        return list(self._catalog.listed(modality, where))

    def entry(self, raw: Any, modality: str, id: str | None = None, metadata: Mapping[str, Any] | None = None) -> Entry:
        """Return an entry for `add`: a text, a path, or a picture or sound in any form that `Embedder.encode` takes.

        Args:
            raw: the item.
            modality: modality of the item.
            id: its name; needed if the item is neither a text nor a path.
            metadata: values by column.

        Raises:
            ItemError: the file is missing, or the text is empty.
            DataError: the item needs an id.
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
        """Add items; present items are not encoded again, changed items are replaced.

        Args:
            source: a folder of files, a file, a table, a run's folder, or entries.
            reading: options of reading sources: columns, ids, modality.
            tell: function that receives `waiting`, and `added` after each commit.
            commit: number of items of one commit; after a kill, complete commits remain.

        Raises:
            DataError: the whole source is unreadable; single unreadable items are set aside instead.
            ShapeError: the embedding of an entry is not a unit vector of the index's width.
        """
        self.manifest = adopted(self.folder, self.manifest, self._embedder)
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
        """Add finished embeddings.

        Args:
            ids: ids of the items; an item of the same id is replaced.
            vectors: unit vectors [N, d].
            modality: modality of the items.
            fingerprint: fingerprint of the model that made the embeddings (`Embedder.fingerprint`).
            metadata: values by column for each item.

        Raises:
            ForeignModelError: the embeddings are of another model.
            ShapeError: the vectors are not unit vectors of the index's width, or their number differs from that of ids.
        """
        self.check_model(fingerprint, modality)
        return self.add(vector_entries(ids, vectors, modality, metadata, self.dim))

    def export(self, folder: Path | str, *, part: int = PART) -> Path:
        """Write vectors and items by modality, `part` of them per file, in the layout of `lightcrl.index.export`."""
        return export_items(Path(folder), self._catalog, self._reader.opened().view, part)

    def remove(self, ids: Sequence[str] = (), *, where: str | None = None, tell: Tell = lambda event: None) -> int:
        """Remove items by id, and all that a filter selects; return their number.

        Raises:
            QueryError: no item has one of these ids.
            FilterError: the filter is invalid.
        """
        return self._writer.remove(ids, where, tell)

    def compact(self, tell: Tell = lambda event: None) -> None:
        """Rewrite the vectors without those of removed items."""
        self._writer.compact(tell)

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
        rerank: int = 0,
    ) -> list[Hit]:
        """Return the k items nearest to a text, a picture, a sound, an item, or several of them together.

        Results of several modalities are ordered by share, if the shares are measured: scores of pictures and of texts
        cannot be compared.

        Args:
            text: text to search for; here and below, a list holds several items, and a `Part` has a weight.
            image: picture in any form that `Embedder.encode` takes.
            audio: sound in any form that `Embedder.encode` takes.
            like: id of an item of the index.
            minus: text to subtract; a `Part` may name another kind.
            where: a filter, such as `"year > 2020 and split = 'train'"`.
            modality: modality of the results.
            k: number of results.
            rerank: number of first hits that the model's head `matching` reorders; the query is then a single item.

        Raises:
            QueryError: the query is empty, an id is unknown, or the parts cancel each other.
            HeadError: hits are to be reordered, and the model has no such head.
            FilterError: the filter is invalid.
            ItemError: a picture or sound is unreadable.
        """
        asked = {"text": text, "image": image, "audio": audio, "like": like, "minus": minus}
        hits = self.search_queries([self.query(**asked)], where=where, modality=modality, k=max(k, rerank))[0]
        return (reorder(self.embedder, hits, single(asked, self.modalities, self.get), rerank) if rerank else hits)[:k]

    def search_queries(
        self, queries: Sequence[Query], *, where: str | None = None, modality: str | None = None, k: int = 10
    ) -> list[list[Hit]]:
        """Search with many results of `query`, all of one modality, in one product; otherwise like `search`."""
        vectors, most = np.stack([query.vector for query in queries]), max(len(query.ids) for query in queries)
        nearest = self._reader.search_each(vectors, k + most, where, modality, queries[0].modality)
        return [
            [hit for hit in hits if hit.id not in query.ids][:k] for query, hits in zip(queries, nearest, strict=True)
        ]

    def query(
        self,
        text: Asked = None,
        *,
        image: Asked = None,
        audio: Asked = None,
        like: Asked = None,
        minus: Asked = None,
    ) -> Query:
        """Return the query of `search` as one unit vector; arguments and errors are those of `search`."""
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
        """Return the k items nearest to each of many queries, best first; fewer if there are no more.

        Args:
            vectors: unit vectors [Q, d] of the index's model.
            k: number of results of each query.
            where: a filter, for all queries.
            modality: modality of the results.
            query: modality of the queries, needed for the share of random items.
            fingerprint: fingerprint of the model that made the queries; checked if given.

        Raises:
            ForeignModelError: the queries are of another model.
            FilterError: the filter is invalid.
            ShapeError: queries are of another width or not finite, or k is below 1.
        """
        if fingerprint is not None:
            self.check_model(fingerprint, query)
        return self._reader.search(vectors, k, where, modality, query)

    def ordinary(self, query: str, hits: Sequence[Hit], *, where: str | None = None) -> float | None:
        """Return the share of ordinary queries that find nothing nearer than the best hit; None if not measured.

        If the share is close to 0, the query is far from everything in the index.

        Args:
            query: modality of the query.
            hits: results of the query.
            where: filter of the search.
        """
        return self._reader.ordinary(query, hits, self.counts(where))

    def neighbours(self, k: int = 10, *, where: str | None = None, modality: str | None = None) -> Neighbours:
        """Return the k nearest other items of every item, among the items of a filter and a modality.

        Raises:
            FilterError: the filter is invalid.
        """
        return self._reader.neighbours(k, where, modality)

    def _like(self, id: str) -> tuple[str, str, np.ndarray]:
        record = self.get(id)
        return record.id, record.modality, self.vectors([record.id])[0]
