"""Several processes that answer on one port: a worker that is killed starts anew, one that fails ends all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any


def run_workers(work: Callable[..., int], given: tuple[Any, ...], count: int) -> int:
    """Run processes until SIGTERM or SIGINT arrives, or one of them fails; return the exit code.

    Args:
        work: function of a module, called as `work(number, *given)` in each process; it returns the exit code.
        given: arguments of `work`, which are pickled; a listening socket may be among them.
        count: number of processes, numbered from 1.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[int, BaseProcess] = {}
    stopped, code = threading.Event(), 0

    def start(number: int) -> None:
        process = context.Process(target=_enter, args=(work, number, given), name=f"worker {number}")
        process.start()
        running[number] = process

    def stop(*_: Any) -> None:
        stopped.set()
        for process in list(running.values()):
            process.terminate()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    for number in range(1, count + 1):
        start(number)
    while running:
        wait([process.sentinel for process in running.values()])
        for number, process in list(running.items()):
            if process.exitcode is None:
                continue
            del running[number]
            if stopped.is_set():
                continue
            if process.exitcode < 0:  # killed, for want of memory perhaps; the others still answer
                start(number)
            else:
                code = process.exitcode
                stop()
    return code


def _enter(work: Callable[..., int], number: int, given: tuple[Any, ...]) -> None:
    os.setpgrp()  # Ctrl-C reaches the first process only, which tells the others to stop
    threading.Thread(target=_follow, name="parent", daemon=True).start()
    raise SystemExit(work(number, *given))


def _follow() -> None:
    """End this process when the first one has gone without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
