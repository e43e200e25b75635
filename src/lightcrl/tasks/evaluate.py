"""`lightcrl evaluate`: any task on a model in a folder, with settings as in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightcrl.checkpoint import load_models
from lightcrl.data import DataSpec, Rejection
from lightcrl.embedder import Embedder
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.metrics.result import Result
from lightcrl.processes import main_first
from lightcrl.tasks.base import Setting
from lightcrl.tasks.spec import TASKS, make_task_spec


@dataclass(frozen=True)
class Evaluation:
    """A task measured on a model.

    Attributes:
        result: figures with intervals.
        rejected: items and rows set aside.
    """

    result: Result
    rejected: tuple[Rejection, ...]


def evaluate(
    task: str,
    place: str,
    embedder: Embedder,
    settings: Mapping[str, Any],
    features: Path | None = None,
    tell: Tell = lambda event: None,
) -> Evaluation:
    """Measure a model on raw files outside its training data.

    Args:
        task: a member of `TASKS`, or `"package.module:Class"`.
        place: run's folder, checkpoint's folder or hub id from which `embedder` was loaded.
        embedder: the model.
        settings: settings of the task, as in a recipe's `[evaluation.tasks.<label>]`.
        features: folder of the feature stores; by default that of the recipe.
        tell: callback for events.

    Raises:
        UnknownNameError: there is no such task.
        RecipeError: the task has no such setting, or the value is invalid.
        LightCRLError: the data or the model is unsuitable.
    """
    kind = TASKS.load(task)
    spec = make_task_spec(task, settings)
    kind.check(spec, embedder.modalities)
    encoders = {name: embedder.encoder(name) for name in kind.modalities(spec, embedder.modalities)}
    recipe = embedder.checkpoint.recipe
    data = DataSpec.model_validate(recipe["data"]) if "data" in recipe else None
    with main_first():
        prepared = kind.prepare(spec, Setting(encoders, storage(recipe, features), tell, data))
    models = load_models(place) if kind.by_model else {embedder.checkpoint.name: embedder.checkpoint}
    for model in models.values():
        model.method.to(embedder.device)
    folder = Path(place) / task.replace(":", ".") if Path(place).is_dir() else None
    return Evaluation(prepared.evaluate(models, folder), tuple(prepared.rejected))


def storage(recipe: Mapping[str, Any], folder: Path | None = None) -> FeaturesSpec:
    """Return the storage of features: in `folder` if given, otherwise in the recipe's folder if it still exists."""
    table = recipe.get("features", {})
    spec = FeaturesSpec.model_validate({key: value for key, value in table.items() if key != "folder"})
    if folder is not None:
        return spec.model_copy(update={"folder": str(folder)})
    if "folder" in table and Path(table["folder"]).is_dir():
        return spec.model_copy(update={"folder": table["folder"]})
    return spec
