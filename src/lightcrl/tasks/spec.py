"""The table of tasks, their common settings, and the `[evaluation]` table of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from lightcrl.errors import RecipeError
from lightcrl.methods.spec import method_class
from lightcrl.registry import Table
from lightcrl.specs import parse

if TYPE_CHECKING:  # a task's module is imported on demand
    from lightcrl.tasks.base import Task

TASKS: Table[type[Task]] = Table(
    "task",
    {
        "retrieval": "lightcrl.tasks.retrieval:RetrievalTask",
        "zero_shot": "lightcrl.tasks.zero_shot:ZeroShotTask",
        "linear_probe": "lightcrl.tasks.linear_probe:LinearProbeTask",
        "fine_tuning": "lightcrl.tasks.fine_tuning:FineTuningTask",
        "captioning": "lightcrl.tasks.captioning:CaptioningTask",
        "prior": "lightcrl.tasks.prior:PriorTask",
        "text_similarity": "lightcrl.tasks.text_similarity:TextSimilarityTask",
    },
)

RETRIEVAL = "retrieval"
"""The label of the task that every run measures, on its own data."""

OWN_TABLES = ("zero_shot", "text_similarity")
"""Tasks with a table of their own below `[evaluation]`; every other task is in `[evaluation.tasks.<label>]`."""


class TaskSpec(BaseModel):
    """The settings of a task, the same in a recipe, in a family and for `lightcrl evaluate`.

    A task's own class adds its settings. Unknown keys are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    PATHS: ClassVar[tuple[str, ...]] = ("data",)
    """Keys of paths, or of ids on the hub."""

    @property
    def needs(self) -> str | None:
        """The name of the head without which the task cannot be measured; None if it needs none."""
        return None


def make_task_spec(kind: str, settings: Mapping[str, Any], where: str = "") -> TaskSpec:
    """Return the checked settings of a task.

    Args:
        kind: a member of `TASKS`, or `"package.module:Class"`.
        settings: values by key.
        where: location of the settings, for errors.

    Raises:
        UnknownNameError: there is no such task.
        RecipeError: a key is unknown, or a value is of the wrong kind.
    """
    spec: TaskSpec = parse(TASKS.load(kind).Spec, settings, where)
    return spec


class EvaluationSpec(BaseModel):
    """The `[evaluation]` table.

    Attributes:
        split: split of the retrieval figures; `dev` also chooses the best checkpoint.
        baselines: methods trained for comparison, on the same features with the same training settings.
        seeds: training seeds; the run's own checkpoint has the first.
        zero_shot: class folders to classify without training on them; see `lightcrl.tasks.zero_shot`.
        text_similarity: pairs of texts to compare; see `lightcrl.tasks.text_similarity`.
        tasks: further tasks by label: a table with `task`, a member of `TASKS` or `"package.module:Class"`, and the
            settings of that task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["dev", "test"] = "dev"
    baselines: tuple[str, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    zero_shot: SerializeAsAny[TaskSpec] | None = None
    text_similarity: SerializeAsAny[TaskSpec] | None = None
    tasks: dict[str, dict[str, Any]] = Field(default={}, exclude_if=lambda tasks: not tasks)

    @field_validator(*OWN_TABLES, mode="before")
    @classmethod
    def _parse(cls, table: Any, info: ValidationInfo) -> Any:
        if not isinstance(table, Mapping):
            return table
        return make_task_spec(str(info.field_name), table, f"evaluation.{info.field_name}")

    @model_validator(mode="after")
    def _check(self) -> EvaluationSpec:
        for name in self.baselines:
            method_class(name)
        for label, table in self.tasks.items():
            if label in TASKS or not isinstance(table.get("task"), str):
                raise RecipeError(
                    f"evaluation.tasks.{label}: found {table!r}; expected a label that is no task's name, and a table "
                    f"with the key task, one of {', '.join(TASKS)} or 'package.module:Class'."
                )
        self.named()  # refuses wrong settings
        return self

    def named(self) -> dict[str, tuple[str, TaskSpec]]:
        """Return the tasks by label, each with its kind and its settings."""
        own = {name: (name, spec) for name in OWN_TABLES if (spec := getattr(self, name)) is not None}
        for label, table in self.tasks.items():
            settings = {key: value for key, value in table.items() if key != "task"}
            own[label] = table["task"], make_task_spec(table["task"], settings, f"evaluation.tasks.{label}")
        return own
