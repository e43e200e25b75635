"""Events of long commands: mappings with the key `event`, the name of the event.

A function with an argument `tell` calls it with one of `EVENTS`; a caller that trains several methods (a run, a
comparison) adds the method. log.jsonl contains the events of training. A new event is a class and a line here, and a
line in the table of every display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

Tell = Callable[[Mapping[str, Any]], None]
"""A function that is called with each event, one of `EVENTS`."""


class Waiting(TypedDict):
    """Another process writes to a folder.

    Attributes:
        folder: the folder.
        holder: description of that process, for people.
    """

    event: Literal["waiting"]
    folder: str
    holder: str


class Data(TypedDict):
    """The data set has been read.

    Attributes:
        groups: number of groups by split.
        rejected: number of rejections.
    """

    event: Literal["data"]
    groups: dict[str, int]
    rejected: int


class Encode(TypedDict):
    """Items of a modality are being encoded.

    Attributes:
        modality: modality of the items.
        done: number of items so far.
        total: number of items to encode.
    """

    event: Literal["encode"]
    modality: str
    done: int
    total: int


class Encoded(TypedDict):
    """A modality's feature store is complete.

    Attributes:
        modality: modality of the store.
        items: number of items in the store.
        encoded: number of items encoded now.
        copied: number of items from other stores.
        kept: number of items that were already there.
        cut: number of texts that exceeded the encoder's length.
        rejected: number of rejected items by reason.
        folder: folder of the store.
        bytes: size of its values in bytes.
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


class States(TypedDict):
    """Items of a modality with a trained encoder: what enters its first trained block is to be stored, or cannot be.

    Attributes:
        modality: modality of the items.
        items: number of items.
        bytes: size of the states, estimated from some items; 0 if they are not stored.
        reason: reason why the whole encoder runs at every step; empty if states are stored.
    """

    event: Literal["states"]
    modality: str
    items: int
    bytes: int
    reason: str


class Select(TypedDict):
    """A check begins the selection of slots.

    Attributes:
        slots: number of slots of all encoders.
    """

    event: Literal["select"]
    slots: int


class Training(TypedDict, total=False):
    """The common keys of events of a training.

    Attributes:
        method: trained method, if there are several.
        seed: seed of weights, batches and dropout.
    """

    method: str
    seed: int


class Start(Training):
    """A training begins, with its plan: see `training.plan.Plan`.

    Attributes:
        parameters: number of trained parameters by part of the method.
        input_dropout: dropped share of input features by modality, where `"auto"` lets it follow the data.
    """

    event: Literal["start"]
    batch_size: int
    items_per_group: int
    epochs: int
    steps: int
    steps_per_epoch: int
    window: dict[str, int] | None
    parameters: dict[str, int]
    input_dropout: dict[str, float]


class Step(Training):
    """A step of a training.

    Attributes:
        step: number of the step, from 0.
        epoch: pass over the training split.
        loss: loss of the batch.
        learning_rate: learning rate of the step.
        logit_scale: logit scale after the step.
        gradient_norm: norm of the gradient before clipping.
    """

    event: Literal["step"]
    step: int
    epoch: int
    loss: float
    learning_rate: float
    logit_scale: float
    gradient_norm: float


class Evaluation(Training):
    """An evaluation on dev; its figures have further keys, such as `dev_mean_recall@1`.

    Attributes:
        step: number of finished steps.
        epoch: number of finished passes.
    """

    event: Literal["evaluation"]
    step: int
    epoch: int


class Corrected(TypedDict):
    """A trained model has been corrected for hubs.

    Attributes:
        method: trained method.
        seed: seed of the training.
        bank: number of training items by modality.
        before: mean R@1 on dev without the correction.
        after: mean R@1 on dev with it.
        kept: true if the model has it; false if dev's figure fell.
    """

    event: Literal["hubs"]
    method: str
    seed: int
    bank: dict[str, int]
    before: float
    after: float
    kept: bool


class Trained(TypedDict):
    """A training has ended.

    Attributes:
        method: trained method.
        seed: seed of the training.
        seconds: duration of the training.
        folder: folder of its checkpoints and log.
    """

    event: Literal["trained"]
    method: str
    seed: int
    seconds: float
    folder: str


Event = Waiting | Data | Encode | Encoded | States | Select | Start | Step | Evaluation | Corrected | Trained


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
    "states": States,
    "select": Select,
    "start": Start,
    "step": Step,
    "evaluation": Evaluation,
    "hubs": Corrected,
    "trained": Trained,
}
OPEN = frozenset({"evaluation"})
"""Events with further keys, which depend on the measured tasks."""
