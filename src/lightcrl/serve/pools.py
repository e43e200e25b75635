"""Threads for what would block the server: searches, writes, whole-index figures; each with a bounded queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, final

from lightcrl.errors import BusyError

T = TypeVar("T")


@final
class Pool:
    """A few threads, and calls that wait for them.

    Attributes:
        name: what the calls do, for messages.
        pending: calls that wait or run.
    """

    def __init__(self, name: str, threads: int, queue: int) -> None:
        self.name, self.pending = name, 0
        self._most, self._lock = threads + queue, threading.Lock()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *given: Any, **named: Any) -> T:
        """What `function` gives, called in one of the threads.

        Raises:
            BusyError: too many calls wait.
        """
        with self._lock:
            if self.pending >= self._most:
                raise BusyError(f"{self.pending:,} requests for {self.name} wait already. Ask again later.")
            self.pending += 1
        future = self._executor.submit(function, *given, **named)
        # By the thread's end, not by the client's patience: one that has left still holds its thread.
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for what runs and waits, then end the threads."""
        self._executor.shutdown()

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            self.pending -= 1
