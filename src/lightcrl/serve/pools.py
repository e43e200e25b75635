"""Thread pools with bounded queues for blocking calls: searches, writes, whole-index figures."""

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
    """A few threads with a bounded queue of calls.

    Attributes:
        name: name of the calls in messages.
        pending: number of waiting and running calls.
    """

    def __init__(self, name: str, threads: int, queue: int) -> None:
        self.name, self.pending = name, 0
        self._most, self._lock = threads + queue, threading.Lock()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *given: Any, **named: Any) -> T:
        """Call `function` in one of the threads, and return its value.

        Raises:
            BusyError: too many calls wait.
        """
        with self._lock:
            if self.pending >= self._most:
                raise BusyError(f"{self.pending:,} requests for {self.name} wait already. Ask again later.")
            self.pending += 1
        future = self._executor.submit(function, *given, **named)
        # A call counts until its thread ends: the call of a client that has left still occupies the thread.
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for all running and waiting calls, then end the threads."""
        self._executor.shutdown()

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            self.pending -= 1
