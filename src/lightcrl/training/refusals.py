"""What cannot be trained together: one table, looked at before anything is encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightcrl.errors import TrainingError
from lightcrl.methods import Method, MethodOptions


@dataclass(frozen=True)
class Combination:
    """A training as far as it may be refused.

    Attributes:
        method: what is trained.
        towers: modalities whose encoder is trained too.
        processes: how many the training was launched as.
        loss: a member of `LOSSES`.
        options: of the method; its defaults where none are given.
    """

    method: type[Method]
    towers: tuple[str, ...] = ()
    processes: int = 1
    loss: str = "info_nce"
    options: MethodOptions | None = None

    @property
    def loss_weight(self) -> float:
        """The weight of one direction of the loss, for methods that have one; 0.5 weighs both alike."""
        return float(getattr(self.options or self.method.Options(), "loss_weight", 0.5))

    @property
    def whole(self) -> bool:
        """The method needs each batch whole, in one process and without chunks."""
        return self.method.one_process or self.method.closed_form


@dataclass(frozen=True)
class Refusal:
    """A combination that is refused.

    Attributes:
        what: its name in tables.
        when: whether a combination is one.
        message: what is wrong and what to do, with the fields `method`, `towers`, `processes`, `loss` and `weight`.
    """

    what: str
    when: Callable[[Combination], bool]
    message: str


REFUSALS = (
    Refusal(
        "an encoder trained through a method that needs each batch whole",
        lambda given: given.whole and bool(given.towers),
        "{method} needs each batch whole, so no encoder can be trained through it (found [tuning] for {towers}). "
        "Remove the [tuning] tables, or take another method.",
    ),
    Refusal(
        "several processes with a method that needs each batch whole",
        lambda given: given.whole and given.processes > 1,
        "launched as {processes} processes, but {method} needs each batch whole in one. Launch it without accelerate "
        "or torchrun.",
    ),
    Refusal(
        "unequal weights of the two directions with a loss that has none",
        lambda given: given.loss != "info_nce" and given.loss_weight != 0.5,
        "method.loss_weight is {weight}, but the loss {loss!r} has no directions to weigh. Use training.loss = "
        "'info_nce', or method.loss_weight = 0.5.",
    ),
)


def check_combination(given: Combination) -> None:
    """Refuse what cannot be trained together.

    Raises:
        TrainingError: the combination is in `REFUSALS`.
    """
    for refusal in REFUSALS:
        if refusal.when(given):
            found = {"method": given.method.__name__, "towers": ", ".join(given.towers), "processes": given.processes}
            raise TrainingError(refusal.message.format(**found, loss=given.loss, weight=given.loss_weight))
