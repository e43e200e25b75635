"""Work of several processes: in training each embeds its share of a batch's rows, in evaluation it ranks its share.

Launch with `accelerate launch` or `torchrun`. Training gives the result of a single process with the whole batch,
except for dropout, which every process draws for its own rows. Evaluation gives that of a single process to the bit.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, distributed

from lightcrl.errors import ProcessError

# Limit for waiting until the first process has encoded everything. Ended processes are noticed independently.
PATIENCE = timedelta(days=7)
# Seconds within which the system reports a process as ended.
GRACE = 3.0


def launched() -> int:
    """Return the number of launched processes, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process."""
    return int(os.environ.get("RANK", "0")) if launched() > 1 else 0


def is_main() -> bool:
    """Return true if this is the process that writes."""
    return rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process work first; the others then reuse its results.

    Raises:
        ProcessError: another process has ended.
    """
    if launched() == 1:
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not state.is_main_process:
        with _meeting():
            state.wait_for_everyone()
    yield
    if state.is_main_process:
        with _meeting():
            state.wait_for_everyone()


@contextmanager
def together(folder: Path) -> Iterator[None]:
    """Run processes that train into `folder`: if one of them ends, the others report it and end too.

    Raises:
        ProcessError: another process has ended, or the launcher has terminated this process.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        yield
        return
    peers: list[tuple[str, int]] = [("", 0)] * distributed.get_world_size()
    with _meeting():
        distributed.all_gather_object(peers, (socket.gethostname(), os.getpid()))
    mine = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _told_to_end) if mine else None
    try:
        yield
    except ProcessError as error:
        before = signal.SIG_IGN  # the launcher ends this process too, but the reason must be reported first
        if mine:
            signal.signal(signal.SIGTERM, before)
        kept = folder / "last"
        then = (
            f"The last checkpoint is in {kept}: the same command resumes from there, with any number of processes."
            if kept.exists()
            else "There is no checkpoint yet: the same command starts from the beginning."
        )
        raise ProcessError(f"{_ended(peers) or error}, and training cannot continue without it. {then}") from error
    finally:
        if mine:
            signal.signal(signal.SIGTERM, before)


def _told_to_end(number: int, frame: FrameType | None) -> None:
    raise ProcessError("the launcher has ended this process, as it does when another one has ended")


@contextmanager
def _meeting() -> Iterator[None]:
    """Wrap a collective call, which fails if one of the processes is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(f"another process has ended, and its own message says why ({error})") from error


def _ended(peers: list[tuple[str, int]]) -> str:
    """Return the ended processes of this machine in words; empty if all run."""
    here = {number: pid for number, (host, pid) in enumerate(peers) if host == socket.gethostname()}
    until = time.monotonic() + GRACE
    while True:
        gone = [f"the process of rank {number} (pid {pid})" for number, pid in here.items() if not _lives(pid)]
        if gone or time.monotonic() > until:
            return f"{' and '.join(gone)} of {len(peers)} has ended" if gone else ""
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # An ended process keeps its number until its parent has read its exit code.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or no /proc
        return True


def wait_for_everyone() -> None:
    """Wait for all processes.

    Raises:
        ProcessError: one of them has ended.
    """
    if launched() > 1:
        from accelerate import PartialState

        with _meeting():
            PartialState().wait_for_everyone()


def share(count: int, number: int, processes: int, step: int = 1) -> slice:
    """Return the rows of `count` that process `number` works on, in whole chunks of `step` rows.

    >>> [share(5, number, 2) for number in range(2)], share(5, 1, 2, step=4)
    ([slice(0, 3, None), slice(3, 5, None)], slice(4, 5, None))
    """
    size, rest = divmod(-(-count // step), processes)
    start = number * size + min(number, rest)
    return slice(min(count, start * step), min(count, (start + size + (number < rest)) * step))


def gather_rows(own: Tensor, count: int, step: int = 1) -> Tensor:
    """Return the rows [count, d] of all processes in order, from each `share` [n, d]; gradients reach the own rows."""
    processes, number = distributed.get_world_size(), distributed.get_rank()
    shares = [share(count, other, processes, step) for other in range(processes)]
    # The first process has the most rows; collective calls need equal sizes.
    padded = own.new_zeros(shares[0].stop, own.shape[1])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in shares]
    with _meeting():
        distributed.all_gather(parts, padded)
    rows = [part[: mine.stop - mine.start] for part, mine in zip(parts, shares, strict=True)]
    rows[number] = own
    return torch.cat(rows)


def sum_counts(counts: Tensor) -> Tensor:
    """Return the sum of whole numbers on the CPU over all processes."""
    # A group of GPUs sums nothing in the memory of a CPU.
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = counts.clone(memory_format=torch.contiguous_format).to(device)
    with _meeting():
        distributed.all_reduce(total)
    return total.cpu()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of all processes, each of which has those of its own rows."""
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        with _meeting():
            distributed.all_reduce(gradient)
        parameter.grad = gradient
