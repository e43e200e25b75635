"""A writer killed at any moment: whole commits are there, nothing that was reported is lost, the next one goes on.

`LIGHTCRL_KILLS=100 pytest tests/index/test_kills.py` kills a hundred times. `LIGHTCRL_SEED` draws other moments, so
that a hundred kills may be four parts of 25.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from forked import Program
from lightcrl.index import ENGINES, Index
from shelves import clustered, make_embedder

DIM, PER_ROUND = 16, 48
KILLS = int(os.environ.get("LIGHTCRL_KILLS", "5"))
SEED = int(os.environ.get("LIGHTCRL_SEED", "0"))
VECTORS = clustered(800 * KILLS, DIM)

# Adds some items, removes every fourth of them, rewrites the index now and then, and says what it has done.
WRITER = f"""
import sys, numpy as np
from lightcrl.data.base import Item
from lightcrl.index import Entry, Index
folder, first, vectors = sys.argv[1], int(sys.argv[2]), np.load(sys.argv[3])
index = Index.open(folder)
print("ready", flush=True)
for number in range(first, len(vectors) // {PER_ROUND}):
    some = range(number * {PER_ROUND}, (number + 1) * {PER_ROUND})
    entries = [Entry("text", Item(f"key {{n}}", f"item {{n}}", None), f"item {{n}}", vector=vectors[n]) for n in some]
    said = lambda event: print("added", some[0] + event["added"] + event["present"], flush=True)
    index.add(entries, commit=8, tell=lambda event: said(event) if event["event"] == "added" else None)
    index.remove([f"item {{n}}" for n in some if n % 4 == 0])
    print("removed", some[-1] + 1, flush=True)
    if number % 3 == 2:
        index.compact()
        print("compact", number, flush=True)
"""


def run_and_kill(folder: Path, first: int, vectors: Path, delay: float) -> list[str]:
    """What the writer said before it was killed: its whole lines."""
    with Program(WRITER, folder, first, vectors) as writer:
        assert writer.stdout.readline() == "ready\n"
        time.sleep(delay)
        writer.kill()
        return writer.stdout.read().split("\n")[:-1]  # unbuffered output (PYTHONUNBUFFERED) may end within a line


def check(folder: Path, added: int, removed: int) -> None:
    """Items below `removed` are there but every fourth, those below `added` all but those that may be gone."""
    index = Index.open(folder)
    ids = index.ids()
    numbers = [int(id.removeprefix("item ")) for id in ids]
    assert len(index) == len(ids) == len(set(ids))
    assert {n for n in range(removed) if n % 4} <= set(numbers)
    assert not {n for n in range(removed) if n % 4 == 0} & set(numbers)
    assert {n for n in range(removed, added) if n % 4} <= set(numbers)
    assert sum(n >= added for n in numbers) <= 8  # one commit that was not reported any more
    np.testing.assert_allclose(index.vectors(ids), VECTORS[numbers], atol=1e-3)
    for number, hits in zip(numbers[-20:], index.search_vectors(VECTORS[numbers[-20:]], 1), strict=True):
        assert hits[0].id == f"item {number}"


@pytest.mark.timeout(180 + 10 * KILLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_writer_leaves_whole_commits_and_loses_none(engine, tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    folder = tmp_path / "index"
    Index.create(folder, make_embedder(DIM), engine=engine)
    lot = random.Random(SEED)
    added = removed = kills = 0
    while kills < KILLS and removed < len(VECTORS) - 10 * PER_ROUND:
        said = run_and_kill(folder, removed // PER_ROUND, tmp_path / "vectors.npy", lot.uniform(0, 0.6))
        kills += 1
        for line in said:
            word, number = line.split()
            if word == "added":
                added = max(added, int(number))
            elif word == "removed":
                removed = int(number)
        check(folder, max(added, removed), removed)
    assert kills == KILLS
    assert added > 0
    index = Index.open(folder)
    index.compact()
    check(folder, max(added, removed), removed)
    assert index.info()["removed"] == 0


def test_a_build_that_was_killed_goes_on_where_it_was(tmp_path):
    """By the command line, of real files, until it is whole."""
    from shelves import picture

    for number in range(60):
        picture(tmp_path / "photos" / f"{number}.png", number)
    make_embedder(DIM).checkpoint.save(tmp_path / "model")
    script = (
        "import sys, lightcrl.index.writing as writing; writing.COMMIT = 4\n"
        "import lightcrl.index.index as index; index.Index.add.__kwdefaults__['commit'] = 4\n"
        "from lightcrl.cli import main\n"
        "main()\n"
    )
    words = ["index", "build", str(tmp_path / "model"), str(tmp_path / "photos"), "--output", str(tmp_path / "index")]
    seen = 0
    for _ in range(20):
        with Program(script, *words) as builder:
            while builder.poll() is None:
                if (tmp_path / "index" / "manifest.json").exists() and len(Index.open(tmp_path / "index")) > seen + 20:
                    builder.kill()
                time.sleep(0.005)
        count = len(Index.open(tmp_path / "index"))
        assert count >= seen
        seen = count
        if builder.returncode == 0:
            break
    assert seen == 60
    assert sorted(Index.open(tmp_path / "index").ids()) == sorted(f"{number}.png" for number in range(60))
