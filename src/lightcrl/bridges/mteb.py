"""mteb 2: a model of LightCRL as mteb's encoder, and mteb's tasks measured on it, with results in mteb's own files.

mteb's `recall_at_k` divides by a query's number of positives; its `hit_rate_at_k` is this library's `recall@k`, and
`accuracy` of zero-shot classification is `top1`, `cosine_spearman` of scored pairs is `spearman`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightcrl.embedder import Embedder
from lightcrl.errors import MissingExtraError, ModalityError, UnknownTaskError
from lightcrl.registry import import_object

try:
    import mteb
    from mteb.models import ModelMeta
    from mteb.similarity_functions import cos_sim, pairwise_cos_sim
except ImportError as error:
    raise MissingExtraError("lightcrl mteb", "mteb") from error

OWNER = "lightcrl"
"""Owner in the name of a model that lies in a folder."""


class MtebEncoder:
    """A model as mteb's `EncoderProtocol`: batches of texts, pictures or sounds in, unit vectors out.

    Attributes:
        embedder: the model.
        mteb_model_meta: its description in mteb's result files; the revision is the checkpoint's digest.
    """

    def __init__(self, model_name: str, revision: str | None, *, device: str | None = None, **settings: Any) -> None:
        """Load a folder or a hub id, as mteb itself does; `of` takes an embedder."""
        from lightcrl.embedder import load

        self._set(load(model_name, device=device or "auto", **settings), model_name)

    @classmethod
    def of(cls, embedder: Embedder, place: str) -> MtebEncoder:
        """Return the encoder of an embedder that was loaded from `place`."""
        encoder = cls.__new__(cls)
        encoder._set(embedder, place)
        return encoder

    def _set(self, embedder: Embedder, place: str) -> None:
        self.embedder = embedder
        self.mteb_model_meta = describe(embedder, place)

    def encode(self, inputs: Iterable[Mapping[str, Any]], **ignored: Any) -> np.ndarray:
        """Return unit vectors [N, d]; a batch with several kinds of an item has the normalised mean of their vectors.

        Args:
            inputs: batches with the keys `text`, `image` and `audio`, lists.
            ignored: mteb's task, split, kind of prompt and settings of the encoding.

        Raises:
            ModalityError: a batch has no kind that the model takes.
            ItemError: an item is unreadable.
        """
        parts = [self._encode_batch(batch) for batch in inputs]
        return np.concatenate(parts) if parts else np.empty((0, self.embedder.dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return cosines [N, M]."""
        return torch.as_tensor(cos_sim(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return cosines [N] of corresponding rows."""
        return torch.as_tensor(pairwise_cos_sim(embeddings1, embeddings2))

    def _encode_batch(self, batch: Mapping[str, Any]) -> np.ndarray:
        first: dict[str, str] = {}
        for name, kind in self.embedder.modalities.items():
            first.setdefault(kind, name)
        vectors = [self.embedder.encode(list(batch[kind]), name) for kind, name in first.items() if kind in batch]
        if not vectors:
            raise ModalityError(f"found a batch of {', '.join(batch)}; this model takes {', '.join(first)}.")
        if len(vectors) == 1:
            return vectors[0]
        mean = np.mean(vectors, axis=0)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12), dtype=np.float32)


@dataclass(frozen=True)
class Score:
    """The main score of a task on a split and subset.

    Attributes:
        task: name of the task.
        split: name of the split.
        subset: name of the subset.
        metric: name of the main score.
        value: its value.
    """

    task: str
    split: str
    subset: str
    metric: str
    value: float


@dataclass(frozen=True)
class Measured:
    """The results of mteb.

    Attributes:
        scores: main score of each task, split and subset.
        tables: mteb's own result of each task, as JSON values.
        folder: folder of the result files.
    """

    scores: tuple[Score, ...]
    tables: tuple[dict[str, Any], ...]
    folder: Path


def describe(embedder: Embedder, place: str) -> ModelMeta:
    """Return mteb's description of a model from a folder or a hub id."""
    path = Path(place)
    # The folder of a run says more than the checkpoint's in it.
    local = path.parent if path.name in ("best", "last") else path
    name = f"{OWNER}/{local.resolve().name}" if path.exists() else place
    kinds = list(dict.fromkeys(embedder.modalities.values()))
    parameters = sum(embedder.checkpoint.parts().values())
    return ModelMeta(
        loader=MtebEncoder,
        name=name,
        revision=embedder.fingerprint,
        release_date=None,
        languages=None,
        n_parameters=parameters,
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=embedder.dim,
        license="apache-2.0",
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "safetensors"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=kinds,
    )


def find_tasks(names: Sequence[str], benchmarks: Sequence[str] = ()) -> list[Any]:
    """Return mteb's tasks by name; `"package.module:Class"` is a task of one's own.

    Raises:
        UnknownTaskError: mteb has no such task or benchmark; the message has the nearest name.
    """
    tasks = [import_object(name)() if ":" in name else _lookup("task", name, mteb.get_task) for name in names]
    for name in benchmarks:
        tasks += list(_lookup("benchmark", name, mteb.get_benchmark).tasks)
    return tasks


def measure(
    embedder: Embedder,
    place: str,
    tasks: Sequence[Any],
    output: Path,
    *,
    batch_size: int = 32,
    overwrite: bool = False,
) -> Measured:
    """Run mteb's tasks on a model.

    Args:
        embedder: the model.
        place: folder or hub id that it was loaded from.
        tasks: tasks of mteb (`find_tasks`).
        output: folder of mteb's result files; tasks that are in it already are read, not run.
        batch_size: items per batch of mteb.
        overwrite: true to run all tasks again.
    """
    with _without_bars():
        result = mteb.evaluate(
            MtebEncoder.of(embedder, place),
            list(tasks),
            cache=mteb.ResultCache(output),
            overwrite_strategy="always" if overwrite else "only-missing",
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
            co2_tracker=False,
            show_progress_bar=False,
        )
    main = {task.metadata.name: task.metadata.main_score for task in tasks}
    scores = [
        Score(each.task_name, split, row["hf_subset"], main.get(each.task_name, "main_score"), float(row["main_score"]))
        for each in result.task_results
        for split, rows in each.scores.items()
        for row in rows
    ]
    return Measured(tuple(scores), tuple(each.model_dump(mode="json") for each in result.task_results), output)


def _lookup(what: str, name: str, get: Callable[[str], Any]) -> Any:
    try:
        return get(name)
    except KeyError as error:
        raise UnknownTaskError(f"mteb has no {what} {name!r}: {error.args[0]}") from None


@contextmanager
def _without_bars() -> Iterator[None]:
    """Silence the progress bars of data sets, and restore their setting afterwards."""
    import datasets

    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            datasets.enable_progress_bars()
