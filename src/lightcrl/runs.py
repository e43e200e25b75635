"""The outcome of a run: its models with their figures, and the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightcrl.metrics.result import Result
from lightcrl.recipe import Recipe
from lightcrl.tasks.spec import OWN_TABLES, RETRIEVAL


@dataclass(frozen=True)
class Model:
    """A trained model of a run.

    Attributes:
        method: name of the method.
        seed: training seed.
        folder: folder with best/ and last/.
        parameters: number of trained parameters.
        seconds: seconds of training, its evaluations included.
        results: figures by label of the task; `retrieval` first, on the recipe's evaluation split.
    """

    method: str
    seed: int
    folder: Path
    parameters: int
    seconds: float
    results: Mapping[str, Result]

    @property
    def retrieval(self) -> Result:
        """Retrieval on the recipe's evaluation split, with curves of precision and recall."""
        return self.results[RETRIEVAL]

    @property
    def zero_shot(self) -> Result | None:
        """Zero-shot classification, if the recipe has its table."""
        return self.results.get("zero_shot")

    @property
    def text_similarity(self) -> Result | None:
        """Text similarity, every aligned space beside the frozen encoders, if the recipe has its table."""
        return self.results.get("text_similarity")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: folder of the run; `lightcrl.load` accepts it.
        models: the recipe's method for every seed, then each baseline for every seed.
        texts_cut: number of texts that were longer than their encoder takes, by modality of texts.
    """

    folder: Path
    models: tuple[Model, ...]
    texts_cut: Mapping[str, int] = field(default_factory=dict)


def summary(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Return the content of metrics.json."""
    return {
        "recipe": recipe.name,
        "split": recipe.evaluation.split,
        "texts_cut": dict(run.texts_cut),
        "models": [
            {
                "method": model.method,
                "seed": model.seed,
                "folder": str(model.folder),
                "parameters": model.parameters,
                "seconds": round(model.seconds, 3),
                # Tasks with a table of their own always have their key.
                **dict.fromkeys((RETRIEVAL, *OWN_TABLES)),
                **{label: result.to_json() for label, result in model.results.items()},
            }
            for model in run.models
        ],
    }
