"""Several processes, one batch: each embeds its share of the rows, all of them see all embeddings.

Launch with `accelerate launch` or `torchrun`. The result is that of one process with the whole batch, but for dropout,
which every process draws for its own rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, distributed


def launched() -> int:
    """How many processes this one was launched as part of."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes."""
    return launched() == 1 or int(os.environ.get("RANK", "0")) == 0


def main_first() -> AbstractContextManager[None]:
    """The main process does the work, the others find it done."""
    if launched() == 1:
        return nullcontext()
    from accelerate import PartialState

    first: AbstractContextManager[None] = PartialState(cpu=not torch.cuda.is_available()).main_process_first()
    return first


def share(count: int, rank: int, processes: int) -> slice:
    """The rows of `count` that process `rank` embeds.

    >>> [share(5, rank, 2) for rank in range(2)]
    [slice(0, 3, None), slice(3, 5, None)]
    """
    size, rest = divmod(count, processes)
    start = rank * size + min(rank, rest)
    return slice(start, start + size + (rank < rest))


def gather_rows(own: Tensor, count: int) -> Tensor:
    """[count, d]: the rows of all processes in order, from each one's `share` [n, d]; gradients flow into its own."""
    processes, rank = distributed.get_world_size(), distributed.get_rank()
    shares = [share(count, other, processes) for other in range(processes)]
    # The first process has the most rows; collective calls want equal sizes.
    padded = own.new_zeros(shares[0].stop, own.shape[1])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in shares]
    distributed.all_gather(parts, padded)
    rows = [part[: mine.stop - mine.start] for part, mine in zip(parts, shares, strict=True)]
    rows[rank] = own
    return torch.cat(rows)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients of all processes, each of which has that of its own rows."""
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        distributed.all_reduce(gradient)
        parameter.grad = gradient
