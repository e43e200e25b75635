"""What `lightcrl evaluate` does: one function per task, from a model and raw files to figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightcrl.checkpoint import load_models
from lightcrl.data import DataSpec, Rejection
from lightcrl.data.pairs import read_pairs
from lightcrl.embedder import Embedder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.locks import only_writer
from lightcrl.metrics.result import EVALUATIONS, Result
from lightcrl.processes import is_main
from lightcrl.specs import parse
from lightcrl.tasks.class_folders import ClassFolders
from lightcrl.tasks.fine_tuning import FineTuning, FineTuningSpec
from lightcrl.tasks.linear_probe import LinearProbe
from lightcrl.tasks.retrieval import retrieval_on
from lightcrl.tasks.spec import ZeroShotSpec
from lightcrl.tasks.text_similarity import TextSimilarity
from lightcrl.tasks.zero_shot import ZeroShot


@dataclass(frozen=True)
class Request:
    """A model, and what to measure it on; a task reads what concerns it.

    Attributes:
        place: the run's folder, checkpoint's folder or hub id that `embedder` is of.
        embedder: the model.
        data: a table, a folder of class folders, or a hub id.
        columns: modality (or `text1`, `label` and the like) to column.
        key: column whose equal values make rows one group.
        templates: prompts.
        modality: whose items class folders hold.
        files: pattern of the names of their files.
        test: folder that a linear probe or a fine-tuned model is measured on.
        test_files: pattern of the names of its files.
        calibration: labelled pairs for thresholds.
        settings: of fine-tuning; tables `training` and `tuning`, and `seed`.
        output: folder of the fine-tuned model; below the model's own by default.
        features: folder of the feature stores; by default that of the recipe.
        tell: called with what happens.
    """

    place: str
    embedder: Embedder
    data: str
    columns: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    templates: tuple[str, ...] | None = None
    modality: str | None = None
    files: str = "*"
    test: str | None = None
    test_files: str | None = None
    calibration: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None
    features: Path | None = None
    tell: Tell = lambda event: None

    @property
    def store(self) -> FeaturesSpec:
        """Where features are kept: as asked for, else where the recipe had them, if that is still there."""
        known = self.embedder.checkpoint.recipe.get("features", {})
        spec = FeaturesSpec.model_validate({key: value for key, value in known.items() if key != "folder"})
        if self.features is not None:
            return spec.model_copy(update={"folder": str(self.features)})
        if "folder" in known and Path(known["folder"]).is_dir():
            return spec.model_copy(update={"folder": known["folder"]})
        return spec


Measured = tuple[Result, list[Rejection]]


def measure(task: str, request: Request) -> Measured:
    """The figures of a task, and what was set aside.

    Raises:
        UnknownNameError: there is no such task.
        LightCRLError: whatever the data or the model does not allow.
    """
    EVALUATIONS[task]
    return TASKS[task](request)


def _retrieval(request: Request) -> Measured:
    embedder, given = request.embedder, dict(request.columns)
    known = embedder.checkpoint.recipe.get("data", {})
    # Without a word on columns: all modalities, as the recipe has them.
    columns = given or dict(known.get("columns", {}))
    # The recipe's key counts as long as it names a column that is still the same modality's.
    key = known["key"] if request.key is None and known.get("key") in columns.values() else request.key
    place = Path(request.data)
    path = str(place.absolute()) if place.exists() or place.suffix else request.data
    spec = parse(DataSpec, {"path": path, "columns": columns, "key": key, "dev_fraction": 0.0}, "data")
    encoders = {name: embedder.encoder(name) for name in given or embedder.modalities}
    return retrieval_on(embedder.method, encoders, spec, request.store, request.tell)


def _zero_shot(request: Request) -> Measured:
    embedder, modality = request.embedder, request.modality
    given = {"data": request.data, "files": request.files, "templates": request.templates, "modality": modality}
    wanted = [name for name, kind in embedder.modalities.items() if kind == "text" or modality in (None, name)]
    encoders = {name: embedder.encoder(name) for name in wanted}
    prepared = ZeroShot.prepare(parse(ZeroShotSpec, given), encoders, request.store, request.tell)
    return prepared(embedder.method), list(prepared.items.rejected)


def _text_similarity(request: Request) -> Measured:
    embedder = request.embedder
    pairs = read_pairs(request.data, request.calibration, request.columns)
    texts = {name: embedder.encoder(name) for name, kind in embedder.modalities.items() if kind == "text"}
    prepared = TextSimilarity.prepare(*pairs, texts, request.store, request.tell)
    return prepared(embedder.method), list(prepared.rejected)


def _linear_probe(request: Request) -> Measured:
    embedder = request.embedder
    prepared = LinearProbe.prepare(*_class_folders(request))
    models = load_models(request.place)
    methods = {label: found.method.to(embedder.device) for label, found in models.items()}
    return prepared(methods), [*prepared.train.rejected, *prepared.test.rejected]


def _fine_tuning(request: Request) -> Measured:
    prepared, checkpoint = FineTuning.prepare(*_class_folders(request)), request.embedder.checkpoint
    spec = parse(FineTuningSpec, request.settings)
    if request.output is None and not Path(request.place).is_dir():
        raise DataError(f"{request.place} is no folder here; say with --output where to keep the fine-tuned model.")
    name = f"{Path(request.data).name}-{prepared.identity(checkpoint, spec)[:10]}"
    folder = request.output or Path(request.place) / "fine_tuning" / name
    with only_writer(folder, request.tell) if is_main() else nullcontext():
        result = prepared(checkpoint, spec, folder)
    return result, [*prepared.train.rejected, *prepared.test.rejected]


def _class_folders(request: Request) -> tuple[ClassFolders, dict[str, Encoder], FeaturesSpec, Tell]:
    """What a task on class folders is prepared from: the modality asked for, or the first that is no text."""
    embedder = request.embedder
    media = [name for name, kind in embedder.modalities.items() if kind != "text"]
    wanted = [request.modality] if request.modality else media[:1]
    folders = ClassFolders(request.data, request.test, request.files, request.test_files, request.modality)
    return folders, {name: embedder.encoder(name) for name in wanted}, request.store, request.tell


TASKS: Mapping[str, Callable[[Request], Measured]] = {
    "retrieval": _retrieval,
    "zero_shot": _zero_shot,
    "text_similarity": _text_similarity,
    "linear_probe": _linear_probe,
    "fine_tuning": _fine_tuning,
}
