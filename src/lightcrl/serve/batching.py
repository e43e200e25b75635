"""Joint work on requests of several clients: the next batch gathers while the last one is worked on."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np

from lightcrl.errors import BusyError, LightCRLError, NotReadyError

Encode: TypeAlias = Callable[[Sequence[Any], str], np.ndarray]
"""Function from decoded items and their modality to unit vectors [N, d]."""

_NEWEST = 0.2  # weight of the last batch in the mean seconds of an item


Work: TypeAlias = Callable[[Sequence[Any], str], Sequence[Any] | np.ndarray]
"""Function from the items of a batch and their key to as many results; items of one key can share a batch."""


@dataclass(frozen=True)
class Job:
    """Items of one request.

    Attributes:
        items: decoded items, or searches.
        key: modality of the items, or the key of searches.
        size: number of contents to encode.
        results: future of the results, as many as items.
    """

    items: Sequence[Any]
    key: str
    size: int
    results: Future[Any] = field(default_factory=Future)


@final
class Batcher:
    """Queue of jobs, with one thread that works on jobs of one key together. No job waits for later ones.

    Attributes:
        encoding: lock that is held while the encoder runs; other users of the same encoders must hold it.
    """

    def __init__(
        self, work: Work, *, batch: int, queue: int, observe: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        """Start the thread.

        Args:
            work: function that does the work of a batch; only this thread calls it.
            batch: largest number of contents of a batch, unless a single job has more; 1 works on every job alone.
            queue: largest number of waiting items; `submit` refuses more, unless no item waits.
            observe: function that receives the number of items and the seconds of each batch.
        """
        self.encoding = threading.Lock()
        self._do, self._batch, self._queue, self._observe = work, batch, queue, observe
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed, self._each = False, 0.01
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of items that no batch has taken yet."""
        return sum(job.size for job in self._jobs.copy())

    def submit(self, items: Sequence[Any], key: str, size: int | None = None) -> Future[Any]:
        """Return the future of the results of items. A future that is cancelled in time costs nothing.

        Args:
            items: items of one request.
            key: modality of the items, or the key of searches.
            size: number of contents to encode; by default, the number of items.

        Raises:
            BusyError: too many items wait.
            NotReadyError: the server is stopping.
        """
        job = Job(items, key, len(items) if size is None else size)
        with self._changed:
            waiting = sum(other.size for other in self._jobs)
            if self._closed:
                raise NotReadyError("the server is stopping.")
            if waiting and waiting + job.size > self._queue:
                retry = max(1, math.ceil(waiting * self._each))
                raise BusyError(f"{waiting:,} items wait; ask again in {retry} s.", retry)
            self._jobs.append(job)
            self._changed.notify()
        return job.results

    def close(self) -> None:
        """Work on the waiting jobs, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._take():
            running = [job for job in jobs if job.results.set_running_or_notify_cancel()]
            if running:
                begun = time.perf_counter()
                with self.encoding:
                    self._run(running)
                count, seconds = sum(job.size for job in running), time.perf_counter() - begun
                self._each += _NEWEST * (seconds / max(count, 1) - self._each)
                self._observe(count, seconds)

    def _take(self) -> list[Job]:
        """Return the oldest job and the jobs of its key that fit into its batch; an empty list at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            taken: list[Job] = []
            kept: deque[Job] = deque()
            room = self._batch
            for job in self._jobs:
                fits = not taken or (job.key == taken[0].key and job.size <= room)
                (taken if fits else kept).append(job)
                room -= job.size if fits else 0
            self._jobs = kept
            return taken

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            results = self._do([item for job in jobs for item in job.items], jobs[0].key)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].results.set_exception(error)
            elif isinstance(error, LightCRLError):  # a bad item of one client must not fail the other clients' jobs
                for job in jobs:
                    self._run([job])
            else:
                for job in jobs:
                    job.results.set_exception(error)
            return
        start = 0
        for job in jobs:
            job.results.set_result(results[start : start + len(job.items)])
            start += len(job.items)
