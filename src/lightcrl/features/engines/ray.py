"""The Ray engine: actors of Ray Data on many machines hold the encoder and write to the store.

Ray gives the shard of a dead worker to another worker. The result of a shard is small: its entry of the manifest, or
the error that ended it.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

from lightcrl.encoders.base import Encoder
from lightcrl.errors import EncoderError, EngineError, LightCRLError, MissingExtraError, StorageError, first_line
from lightcrl.features.engines.base import Crew
from lightcrl.features.shards import Job, Made, Task, make_shard
from lightcrl.files.remote import LocalFolder, folder_at

# Workers that may die on a shard. Ray itself would retry for ever, and a lack of memory happens again.
ATTEMPTS = 3
# Number of shards per actor: the current one and the next, to avoid waiting.
IN_FLIGHT = 2


def run(
    job: Job, encoder: Encoder, tasks: Iterator[Task], advance: Callable[[int], None], crew: Crew
) -> Generator[Made, None, None]:
    """Make the shards; see `Engine`. Progress is reported by whole shards.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: there is no cluster at `$RAY_ADDRESS`, the crew does not fit, or workers die repeatedly.
    """
    try:
        import ray.data
    except ImportError:
        raise MissingExtraError("features.engine = 'ray'", "ray") from None

    with _quiet():
        connect()
        # Ray's store moves to disk what does not fit into memory.
        stored, sizes = {}, {}
        for task in tasks:
            stored[task.number], sizes[task.number] = ray.put(task), len(task.items)
        if not sizes:
            return
        rows = [{"number": number} for number in sizes]
        attempts = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        held = _hold(encoder)
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(job, held, crew, attempts, stored),
            compute=ray.data.ActorPoolStrategy(
                size=min(_count(crew), len(rows)), max_tasks_in_flight_per_actor=IN_FLIGHT
            ),
            num_cpus=crew.cpus,
            num_gpus=crew.gpus or None,
        )
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
        data.context.execution_no_progress_timeout_s = -1  # a shard may take an hour
        try:
            with closing(iter(data.iter_rows())) as done:
                for row in done:
                    made = pickle.loads(row["made"])
                    if isinstance(made, Exception):
                        raise made
                    advance(sizes[made.number])
                    yield made
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray failed: {type(error).__name__}: {first_line(error)} Complete shards are kept: "
                "check the cluster (ray status), and run the recipe again."
            ) from error


class Worker:
    """The code of an actor: it loads the encoder when it is first needed, and keeps it."""

    def __init__(self, job: Job, held: Any, crew: Crew, attempts: Any, tasks: Mapping[int, Any]) -> None:
        import torch

        torch.set_num_threads(crew.cpus)
        if not crew.gpus:  # the machine's GPUs are not ours
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.job, self.held, self.attempts, self.tasks = job, held, attempts, tasks

    def __call__(self, row: dict[str, int]) -> dict[str, bytes]:
        """Make the shard and return it as bytes; an error is returned as raised, without Ray's wrappers."""
        from ray import cloudpickle

        try:
            return {"made": cloudpickle.dumps(self.make(row["number"]))}
        except Exception as error:
            try:
                pickle.loads(cloudpickle.dumps(error))
            except Exception:  # it contains objects that cannot be pickled
                error = LightCRLError(f"{type(error).__name__}: {error}")
            error.add_note(f"On {platform.node()}:\n{traceback.format_exc()}")
            return {"made": cloudpickle.dumps(error)}

    def make(self, number: int) -> Made:
        """Run `make_shard`, unless this machine lacks access or too many workers died on the shard."""
        import ray

        task: Task = ray.get(self.tasks[number])
        if ray.get(self.attempts.begin.remote(number)) > ATTEMPTS:
            raise EngineError(
                f"{ATTEMPTS} workers died while they made shard {number} ({task.items[0].source} to "
                f"{task.items[-1].source}). Most often memory runs out: take fewer actors on a machine, or a smaller "
                "batch_size. Ray's logs say more (ray logs)."
            )
        folder = folder_at(self.job.folder)
        if isinstance(folder, LocalFolder) and not folder.path.is_dir():
            raise StorageError(
                f"{platform.node()} has no access to the folder {folder.uri}. Expected features.folder on a disk that "
                "all machines share, or on an object store (s3://bucket/features)."
            )
        return make_shard(self.job, task, lambda: self.encoder)

    @cached_property
    def encoder(self) -> Encoder:
        """Load the encoder here, and check that it is the same as the driver's."""
        import ray

        made: Encoder = ray.get(self.held)()
        if (fingerprint := made.fingerprint) != self.job.encoder:
            raise EncoderError(
                f"the encoder on {platform.node()} has fingerprint {fingerprint}, expected {self.job.encoder}: its "
                "files differ from those here. Copy the same model to all machines, or name a hub id and revision."
            )
        return made


class _Attempts:
    """A count of the attempts at each shard, which survives the workers."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self._begun[number] += 1
        return self._begun[number]


def _hold(encoder: Encoder) -> Any:
    """Put into Ray's store the means to load the encoder in any process."""
    import ray

    try:
        return ray.put(encoder.origin or (lambda: encoder))
    except Exception as error:  # pickling fails with any kind of error
        raise EngineError(
            f"{type(encoder).__name__} cannot be sent to other machines: {first_line(error)} Make it by load_encoder, "
            "or leave out of it what cannot be pickled."
        ) from error


def connect() -> None:
    """Join the cluster at `$RAY_ADDRESS`; without one, start Ray on this machine until the process ends."""
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options = {"include_dashboard": False} if address == "local" else {}
    # Ray reports every restartable actor as an error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise EngineError(
            f"no Ray cluster for RAY_ADDRESS = {address!r}: {first_line(error)} Start one (ray start --head), give its "
            "token where it asks for one (RAY_AUTH_MODE=token), or unset RAY_ADDRESS to use this machine alone."
        ) from error


def _count(crew: Crew) -> int:
    """Return the number of actors.

    A cluster may grow, so actors that do not fit now are waited for; a single machine cannot grow.
    """
    import ray

    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0), have.get("GPU", 0)
    room = int(min(cpus / crew.cpus, gpus / crew.gpus if crew.gpus else cpus))
    wanted = max(1, room) if crew.actors == "auto" else crew.actors
    if wanted > room and not os.environ.get("RAY_ADDRESS"):
        raise EngineError(
            f"{wanted} actors with {crew.cpus} CPUs and {crew.gpus:g} GPUs each do not fit on this machine, which has "
            f"{cpus:g} CPUs and {gpus:g} GPUs. Change features.actors, actor_cpus or actor_gpus, or set RAY_ADDRESS "
            "to a cluster."
        )
    return wanted


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Ray Data's console output; its logs are complete."""
    handlers = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
