"""Refused combinations of training settings: a table that is checked before encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightcrl.errors import TrainingError
from lightcrl.methods import Method, MethodOptions


@dataclass(frozen=True)
class Combination:
    """The properties of a training that may be refused.

    Attributes:
        method: the trained method.
        towers: modalities with a trained encoder.
        processes: number of launched processes.
        loss: a member of `LOSSES`.
        options: options of the method; None for its defaults.
    """

    method: type[Method]
    towers: tuple[str, ...] = ()
    processes: int = 1
    loss: str = "info_nce"
    options: MethodOptions | None = None

    @property
    def loss_weight(self) -> float:
        """Weight of a direction of the loss, for methods that have such an option; 0.5 is equal weights."""
        return float(getattr(self.options or self.method.Options(), "loss_weight", 0.5))

    @property
    def whole(self) -> bool:
        """True if the method needs whole batches, in a single process and without chunks."""
        return self.method.one_process or self.method.closed_form


@dataclass(frozen=True)
class Refusal:
    """A refused combination.

    Attributes:
        what: name of the refusal in tables.
        when: function that is true for refused combinations.
        message: problem and remedy, with the fields `method`, `towers`, `processes`, `loss` and `weight`.
    """

    what: str
    when: Callable[[Combination], bool]
    message: str


REFUSALS = (
    Refusal(
        "an encoder trained through a method that needs whole batches",
        lambda given: given.whole and bool(given.towers),
        "{method} needs whole batches, so no encoder can be trained through it (found [tuning] for {towers}). "
        "Remove the [tuning] tables, or choose another method.",
    ),
    Refusal(
        "several processes with a method that needs whole batches",
        lambda given: given.whole and given.processes > 1,
        "launched as {processes} processes, but {method} needs whole batches in a single process. Launch it without "
        "accelerate or torchrun.",
    ),
    Refusal(
        "unequal weights of the two directions with a loss without directions",
        lambda given: given.loss != "info_nce" and given.loss_weight != 0.5,
        "method.loss_weight is {weight}, but the loss {loss!r} has no directions to weight. Use training.loss = "
        "'info_nce', or method.loss_weight = 0.5.",
    ),
)


def check_combination(given: Combination) -> None:
    """Refuse a combination in `REFUSALS`.

    Raises:
        TrainingError: the combination is in `REFUSALS`.
    """
    for refusal in REFUSALS:
        if refusal.when(given):
            fields = {"method": given.method.__name__, "towers": ", ".join(given.towers), "processes": given.processes}
            raise TrainingError(refusal.message.format(**fields, loss=given.loss, weight=given.loss_weight))
