"""Filters read items and nothing else, whatever they say, and end in time."""

from __future__ import annotations

import time

import pytest

from lightcrl.errors import FilterError
from lightcrl.index import Index
from shelves import clustered, make_embedder

HOSTILE = [
    "1=1; DROP TABLE items",
    "1=1); DELETE FROM items; --",
    "1 = (SELECT count(*) FROM sqlite_master)",
    "1 = (SELECT count(*) FROM state)",
    "id IN (SELECT value FROM state)",
    "id IN (SELECT name FROM pragma_table_info('items'))",
    "load_extension('/tmp/evil.so') IS NULL",
    "readfile('/etc/passwd') IS NOT NULL",
    "writefile('/tmp/x', 'y') IS NOT NULL",
    "length(randomblob(1000000000)) > 1",
    "length(zeroblob(1000000000)) > 1",
    "printf('%1000000000d', 1) = 'x'",
    "replace(id, 'a', 'b') = 'c'",
    "group_concat(id) = 'x'",
    "1 = 1) UNION SELECT value FROM state WHERE (1 = 1",
    "1 = 1) UNION SELECT _number FROM gone --",
    "EXISTS (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n)",
    "sqlite_version() = '3'",
    "_number IN (SELECT rootpage FROM temp.sqlite_temp_master)",
    "RAISE(ABORT, 'x')",
    "",
    "   ",
    "\0",
    "(" * 300 + "1" + ")" * 300,
    "1 + " * 90_000 + "1",
    "year >",
    "'unclosed",
    "ATTACH DATABASE '/tmp/x.db' AS x",
    "PRAGMA journal_mode = DELETE",
    "UPDATE items SET id = 'x'",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    index = Index.create(tmp_path_factory.mktemp("filters") / "index", make_embedder(8, kinds=("text",)))
    metadata = [{"year": 2000 + n, "score": n / 10, "name": f"Name {n}", "mixed Case'": n} for n in range(50)]
    index.add_vectors(
        [f"i{n}" for n in range(50)], clustered(50, 8), "text", fingerprint=index.fingerprint, metadata=metadata
    )
    return index


@pytest.mark.parametrize("where", HOSTILE)
def test_a_hostile_filter_is_refused_and_changes_nothing(index, where):
    before = (index.ids(), index.info()["generation"])
    with pytest.raises(FilterError, match=r"filter"):
        index.ids(where)
    with pytest.raises(FilterError):
        index.search_vectors(clustered(1, 8), 3, where=where)
    with pytest.raises(FilterError):
        index.remove(where=where)
    assert (index.ids(), index.info()["generation"]) == before


def test_a_filter_that_takes_long_is_stopped(index, monkeypatch):
    monkeypatch.setattr("lightcrl.index.filters.run_filter.__defaults__", (0.2,))
    begun = time.monotonic()
    many = " AND ".join(
        f"(SELECT max(a.year + b.year + c.year + d.year + {n}) FROM items a, items b, items c, items d) > 0"
        for n in range(5)
    )
    with pytest.raises(FilterError, match=r"took more than 0\.2 s"):
        index.ids(many)
    assert time.monotonic() - begun < 5
    assert len(index.ids("year > 2010")) == 39


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("year >= 2040", 10),
        ("year between 2001 and 2003 and score < 0.25", 2),
        ("name like '%9' or lower(name) = 'name 3'", 6),
        ('"mixed Case\'" = 7', 1),
        ("id in ('i1', 'i2', 'nobody')", 2),
        ("modality = 'text' and path is null", 50),
        ("text is not null", 0),
        ("year % 2 = 0 -- even years", 25),
        ("year = (select max(year) from items)", 1),
        ("id glob 'i1[0-3]'", 4),
    ],
)
def test_conditions_of_sql_take_the_items_that_they_are_true_for(index, where, count):
    assert len(index.ids(where)) == count


def test_an_error_names_the_columns_and_what_was_wrong(index):
    with pytest.raises(FilterError, match=r"no such column: colour.*Expected a condition on id, .*year, score, name"):
        index.ids("colour = 'red'")
    with pytest.raises(FilterError, match=r"asks for function load_extension, which filters may not use"):
        index.ids("load_extension('x') = 1")
