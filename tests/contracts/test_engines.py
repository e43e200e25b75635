"""What holds for every engine of the table `ENGINES`: the same store, whoever makes its shards."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from buckets import object_store
from lightcrl.errors import DataError, EngineError, LightCRLError, MissingExtraError, TooManyRejectedError
from lightcrl.features import Extraction, FeatureStore, extract
from lightcrl.features.engines import ENGINES, Crew
from lightcrl.features.engines.ray import Worker
from lightcrl.features.extract import encode_modality
from lightcrl.features.shards import Job, Made, Task
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.remote import folder_at
from worlds import Deadly, Digits, backwards, numbers

Extract = Callable[..., Extraction]
BAD = range(0, 3000, 41)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store("bucket") as served:
        yield served


@pytest.fixture(scope="module")
def cluster(endpoint: str) -> Iterator[None]:
    """Ray on this machine, its workers able to import what lies beside the tests."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a token would be written into the home folder
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(params=[*ENGINES, "worlds:backwards"])
def engine(request: pytest.FixtureRequest) -> Extract:
    """`extract` by one of the engines."""
    if request.param == "ray":
        request.getfixturevalue("cluster")

    def by_engine(*given: Any, **options: Any) -> Extraction:
        return extract(*given, engine=request.param, crew=Crew(actors=1), **options)

    return by_engine


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_store_is_the_same_to_the_byte_and_complete_shards_are_kept(engine, tmp_path):
    data, told = numbers(3000, bad=BAD), []
    whole = extract(Digits(), data, "text", tmp_path / "whole")
    done = engine(Digits(), data, "text", tmp_path / "store", progress=lambda at, total: told.append((at, total)))
    assert (done.encoded, done.copied, done.kept) == (2926, 0, 0)
    assert done.rejected == whole.rejected
    assert contents(done.store.folder) == contents(whole.store.folder)
    assert (told[0], told[-1]) == ((0, 3000), (3000, 3000))
    assert told == sorted(told)

    (done.store.folder / "manifest.json").unlink()
    (done.store.folder / "offsets-00001.npy").write_bytes(b"torn")
    told.clear()
    again = engine(Digits(), data, "text", tmp_path / "store", progress=lambda at, total: told.append((at, total)))
    assert (again.encoded, again.kept) == (999, 1927)
    assert contents(again.store.folder) == contents(whole.store.folder)
    assert (told[0], told[-1]) == ((1976, 3000), (3000, 3000))


def test_what_ends_a_run_comes_as_itself(engine, tmp_path):
    with pytest.raises(DataError, match=r"^numbers:1100: not a number: word 1100\. strict = true stops"):
        engine(Digits(), numbers(1200, bad=[1100]), "text", tmp_path, strict=True)
    with pytest.raises(TooManyRejectedError, match=r"300 of 1100 items .* 300 not a number"):
        engine(Digits(), numbers(1100, bad=range(300)), "text", tmp_path)


def test_an_object_store_is_as_good_as_a_disk_and_siblings_are_copied(engine, endpoint, tmp_path, monkeypatch, request):
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path / "cache"))
    root = f"s3://bucket/{request.node.name}"
    data = numbers(2500, bad=[7])
    whole = extract(Digits(), data, "text", tmp_path / "whole")
    extract(Digits(), numbers(1200), "text", root)
    done = engine(Digits(), data, "text", root)
    assert (done.encoded, done.copied) == (2500 - 1200, 1199)
    assert contents(done.store.folder).items() <= contents(whole.store.folder).items()
    place = folder_at(f"{root}/{whole.store.folder.name}")
    assert {name: place.read(name) for name in place.sizes()} == contents(whole.store.folder)
    encoder = Digits()
    again = engine(encoder, data, "text", root)
    assert (again.encoded, again.kept, encoder.calls) == (0, 2499, [])
    assert FeatureStore(place.uri).rows == 2499


def test_the_shard_of_a_killed_worker_is_done_again(cluster, tmp_path):
    """One worker dies once, in the first shard; the last shard kills every worker that takes it."""
    data = numbers(2500)
    texts = [item.raw for item in data.items["text"]]
    whole = extract(Digits(), data, "text", tmp_path / "whole")
    deadly = Deadly(tmp_path, once=[texts[700]], always=[texts[2200]])
    with pytest.raises(EngineError, match=r"3 workers died while they made shard 2 \(numbers:2048 to numbers:2499\)"):
        extract(deadly, data, "text", tmp_path / "store", engine="ray", crew=Crew(actors=2))
    assert (tmp_path / f"died-of-{texts[700]}").exists()
    done = extract(Digits(), data, "text", tmp_path / "store")
    assert (done.kept, done.encoded) == (2048, 452)
    assert contents(done.store.folder) == contents(whole.store.folder)


def test_a_recipe_says_who_encodes(tmp_path, monkeypatch):
    given = []

    def note(job: Job, encoder: Digits, tasks: Iterator[Task], advance: object, crew: Crew) -> Iterator[Made]:
        given.append((job.folder, job.dtype, job.workers, crew))
        return backwards(job, encoder, tasks, lambda items: None, crew)

    monkeypatch.setattr("worlds.backwards", note)
    table = {"engine": "worlds:backwards", "folder": str(tmp_path), "actors": 3, "actor_cpus": 2, "actor_gpus": 0.5}
    done = encode_modality(Digits(), numbers(20), "text", FeaturesSpec(**table, workers=2), lambda event: None)
    assert given == [(str(done.store.folder), "float16", 2, Crew(3, 2, 0.5))]


class HeldError(Exception):
    """An error that cannot travel."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ZeroDivisionError("by its author"), ZeroDivisionError, "by its author"),
        (HeldError(), LightCRLError, "HeldError: "),
    ],
)
def test_a_mistake_of_an_encoder_comes_with_where_it_happened(error, kind, text, monkeypatch):
    def make(self: Worker, task: object) -> None:
        raise error

    monkeypatch.setattr(Worker, "make", make)
    threads = torch.get_num_threads()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    worker = Worker(None, None, Crew(cpus=threads), None, {})  # type: ignore[arg-type]
    found = pickle.loads(worker({"number": 0})["made"])
    assert (type(found), str(found)) == (kind, text)
    assert "in make" in found.__notes__[0]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_crew_too_large_for_this_machine_is_refused(cluster, tmp_path):
    with pytest.raises(EngineError, match=r"3 actors with 1 CPUs and 0 GPUs each do not fit .* has 2 CPUs"):
        extract(Digits(), numbers(20), "text", tmp_path, engine="ray", crew=Crew(actors=3))
    with pytest.raises(EngineError, match=r"1 actors with 1 CPUs and 1 GPUs each do not fit"):
        extract(Digits(), numbers(20), "text", tmp_path, engine="ray", crew=Crew(gpus=1))


def test_a_cluster_that_is_not_there_is_named(tmp_path, monkeypatch):
    import ray

    def refuse(address: str, **options: object) -> None:
        raise ConnectionError(f"Could not find any running Ray instance at {address}.\nPlease")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(
        EngineError, match=r"no Ray cluster for RAY_ADDRESS = '10\.0\.0\.1:6379': Could not .* Start one"
    ):
        extract(Digits(), numbers(20), "text", tmp_path, engine="ray")


def test_without_ray_the_pip_line_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"features\.engine = 'ray' needs .* 'lightcrl\[ray\]'"):
        extract(Digits(), numbers(20), "text", tmp_path, engine="ray")
