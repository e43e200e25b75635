"""Events: what a long command tells while it runs. Each is a mapping with the key `event`, its name.

A function that takes `tell` calls it with one of `EVENTS`; who trains several methods (a run, a comparison) adds whose
it is. log.jsonl holds those of training as they come. A new event is a class and a line here, and a line in the table
of whoever shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

Tell = Callable[[Mapping[str, Any]], None]
"""Called with each event, one of `EVENTS`."""


class Waiting(TypedDict):
    """Another process writes a folder.

    Attributes:
        folder: the folder.
        holder: that process, for people.
    """

    event: Literal["waiting"]
    folder: str
    holder: str


class Data(TypedDict):
    """The data set is read.

    Attributes:
        groups: how many, by split.
        rejected: things set aside.
    """

    event: Literal["data"]
    groups: dict[str, int]
    rejected: int


class Encode(TypedDict):
    """Items of a modality are being encoded.

    Attributes:
        modality: whose they are.
        done: items so far.
        total: items that have to be encoded.
    """

    event: Literal["encode"]
    modality: str
    done: int
    total: int


class Encoded(TypedDict):
    """A modality's feature store is complete.

    Attributes:
        modality: whose it is.
        items: in the store.
        encoded: of them now.
        copied: of them from other stores.
        kept: of them that were there.
        cut: texts whose end the encoder left out.
        rejected: items set aside, by reason.
        folder: of the store.
        bytes: of its values.
    """

    event: Literal["encoded"]
    modality: str
    items: int
    encoded: int
    copied: int
    kept: int
    cut: int
    rejected: dict[str, int]
    folder: str
    bytes: int


class Select(TypedDict):
    """A check begins to choose among slots.

    Attributes:
        slots: of all encoders together.
    """

    event: Literal["select"]
    slots: int


class Training(TypedDict, total=False):
    """What tells of one training.

    Attributes:
        method: what is trained, where several are.
        seed: of weights, batches and dropout.
    """

    method: str
    seed: int


class Start(Training):
    """A training begins, with its plan: see `training.plan.Plan`.

    Attributes:
        parameters: trained ones, by part of the method.
    """

    event: Literal["start"]
    batch_size: int
    items_per_group: int
    epochs: int
    steps: int
    steps_per_epoch: int
    window: dict[str, int] | None
    parameters: dict[str, int]


class Step(Training):
    """One step of a training.

    Attributes:
        step: its number, from 0.
        epoch: its pass over the training split.
        loss: of its batch.
        learning_rate: of the step.
        logit_scale: after it.
        gradient_norm: before clipping.
    """

    event: Literal["step"]
    step: int
    epoch: int
    loss: float
    learning_rate: float
    logit_scale: float
    gradient_norm: float


class Evaluation(Training):
    """A look at dev; its figures stand beside these keys, such as `dev_mean_recall@1`.

    Attributes:
        step: steps done.
        epoch: passes done.
    """

    event: Literal["evaluation"]
    step: int
    epoch: int


class Trained(TypedDict):
    """A training is done.

    Attributes:
        method: what was trained.
        seed: of the training.
        seconds: that it took.
        folder: of its checkpoints and log.
    """

    event: Literal["trained"]
    method: str
    seed: int
    seconds: float
    folder: str


Event = Waiting | Data | Encode | Encoded | Select | Start | Step | Evaluation | Trained


class Added(TypedDict):
    """A batch of items is in an index.

    Attributes:
        added: number of new items so far.
        replaced: number of changed items so far.
        present: number of items that were there already, so far.
    """

    event: Literal["added"]
    added: int
    replaced: int
    present: int


EVENTS: Mapping[str, type[Any]] = {
    "added": Added,
    "waiting": Waiting,
    "data": Data,
    "encode": Encode,
    "encoded": Encoded,
    "select": Select,
    "start": Start,
    "step": Step,
    "evaluation": Evaluation,
    "trained": Trained,
}
OPEN = frozenset({"evaluation"})
"""Events with further keys, which depend on what is measured."""
