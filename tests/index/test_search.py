"""The nearest are those of exact scores, whatever the precision of the product, the blocks and the order."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.errors import ShapeError
from lightcrl.index import nearest, search
from lightcrl.metrics import scores
from lightcrl.metrics.sketches import Sketches, fit_basis, sketch, sketch_width
from samples import randn, units


def by_force(queries: Tensor, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Every pair in float64, rounded, sorted; equal ones by their place."""
    every = (queries.double()[:, None] * vectors.double()).sum(-1).float()
    order = every.sort(dim=1, descending=True, stable=True)
    return order.indices[:, :k], order.values[:, :k]


def coded_and_sketched(vectors: Tensor) -> scores.Codes:
    codes = scores.Codes.of(vectors)
    if not sketch_width(vectors.shape[1]):
        return codes
    basis = fit_basis(vectors[: max(1, len(vectors) // 2)])
    return replace(codes, sketches=Sketches(basis, scores.Codes.of(sketch(vectors, basis).float())))


def assert_exact(queries: Tensor, vectors: Tensor, k: int) -> None:
    wanted = by_force(queries, vectors, k)
    codes = coded_and_sketched(vectors)
    for coded, int8 in ((None, False), (codes, False), (codes, True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scores, "multiplies_int8", lambda int8=int8: int8)
            places, values = nearest(queries, vectors, k, coded)
        assert torch.equal(places, wanted[0])
        assert torch.equal(values, wanted[1])


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def product(request, monkeypatch):
    """Either precision of the product, whichever is quicker here."""
    monkeypatch.setattr(scores, "quickest", lambda device: request.param)
    return request.param


def cut(monkeypatch, block: int, piece: int, queries: int = 1024) -> None:
    """Small blocks, so that small cases have many."""
    monkeypatch.setattr(scores, "BLOCK", block)
    monkeypatch.setattr(search, "BLOCK", block)
    monkeypatch.setattr(search, "BOUNDED", block)
    monkeypatch.setattr(scores, "BLOCK_ALONE", 2 * block)
    monkeypatch.setattr(scores, "BLOCK_INT8", 4 * block)
    monkeypatch.setattr(search, "PIECE", piece)
    monkeypatch.setattr(search, "QUERIES", queries)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("queries", [1, 3, 4, 33])
@pytest.mark.parametrize(("size", "k"), [(1, 1), (700, 10), (700, 1), (700, 300), (9, 20)])
def test_the_nearest_are_those_of_every_pair_in_float64(monkeypatch, product, dtype, queries, size, k):
    cut(monkeypatch, 128, 32)
    assert_exact(units(queries, 32, seed=1), units(size, 32, seed=2).to(dtype), k)


def near_ties(kind: str, dtype: torch.dtype) -> Tensor:
    """1,500 unit vectors [1500, 16] whose scores bfloat16 cannot tell apart, or whose order is the worst."""
    base = units(1, 16, seed=3)
    if kind == "same":
        return base.repeat(1500, 1).to(dtype)
    if kind == "few different":
        return units(5, 16, seed=4).repeat(300, 1).to(dtype)
    if kind == "rising":
        steps = torch.linspace(-1, 1, 1500, dtype=torch.float64)[:, None]
        return normalize(steps * base + 0.3 * units(1, 16, seed=5), dim=1).to(dtype)
    spread = {"within bfloat16": 1e-3, "within float16": 1e-5}[kind]
    return normalize(base + spread * randn(1500, 16, seed=6, dtype=torch.float64), dim=1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["same", "few different", "rising", "within bfloat16", "within float16"])
@pytest.mark.parametrize("queries", [1, 40])
def test_near_ties_are_told_apart_as_float64_does(monkeypatch, product, dtype, kind, queries):
    cut(monkeypatch, 256, 64)
    vectors = near_ties(kind, dtype)
    asked = normalize(vectors[:: 1500 // queries][:queries].double() + 1e-3 * units(queries, 16, seed=7), dim=1)
    assert_exact(asked, vectors, 10)
    base = units(1, 16, seed=3)
    askew = (
        asked - 0.97 * (asked @ base.T) * base
    )  # scores about 0, where no rounding of them hides errors of the product
    assert_exact(normalize(askew + 0.1 * units(queries, 16, seed=8), dim=1), vectors, 10)


def few_directions(count: int, seed: int) -> Tensor:
    """Unit vectors [count, 256] near eight directions, as embeddings are."""
    inside = randn(count, 8, seed=seed, dtype=torch.float64) @ randn(8, 256, seed=20, dtype=torch.float64)
    return normalize(normalize(inside, dim=1) + 0.1 * units(count, 256, seed=seed + 1), dim=1)


def vectors_of(kind: str, seed: int) -> Tensor:
    """3,000 unit vectors [3000, 256]."""
    if kind == "random":
        return units(3000, 256, seed=seed + 1)
    if kind == "same":
        return units(1, 256, seed=seed + 2).repeat(3000, 1)
    vectors = few_directions(3000, seed)
    return vectors[vectors[:, 0].argsort()] if kind == "sorted" else vectors


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["few directions", "random", "same", "sorted"])
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_sketches_change_no_result(monkeypatch, dtype, kind, queries):
    cut(monkeypatch, 256, 64)
    vectors = vectors_of(kind, 21).to(dtype)
    for asked in (few_directions(queries, 25), units(queries, 256, seed=26), vectors[-queries:].double()):
        assert_exact(asked, vectors, 10)


@pytest.mark.parametrize("queries", [1, 5, 70])
@pytest.mark.parametrize("share", ["most", "every third", "the last", "few", "one", "none"])
@pytest.mark.parametrize("kind", ["few directions", "random", "same"])
def test_only_allowed_vectors_are_found(monkeypatch, kind, share, queries):
    cut(monkeypatch, 256, 64)
    vectors = vectors_of(kind, 31).half()
    number = torch.arange(3000)
    allowed = {
        "most": number % 50 != 7,
        "every third": number % 3 == 0,
        "the last": number >= 2900,
        "few": number % 700 == 350,
        "one": number == 1234,
        "none": number < 0,
    }[share]
    asked = few_directions(queries, 34)
    wanted = by_force(asked, vectors[allowed], 10)
    count = wanted[0].shape[1]
    for int8 in (False, True):
        monkeypatch.setattr(scores, "multiplies_int8", lambda int8=int8: int8)
        for codes in (None, coded_and_sketched(vectors)):
            places, values = nearest(asked, vectors, 10, codes, allowed)
            assert torch.equal(places[:, :count], number[allowed][wanted[0]])
            assert torch.equal(values[:, :count], wanted[1])
            assert (values[:, count:] == -torch.inf).all()


@pytest.mark.skipif(not scores.multiplies_codes(64), reason="torch has no vector instructions for codes here")
@pytest.mark.parametrize(("spread", "read"), [("few directions", 0), ("random", 1)])
def test_sketches_spare_most_vectors_and_are_given_up_where_they_spare_few(monkeypatch, spread, read):
    cut(monkeypatch, 1024, 64)
    vectors = (few_directions(9000, 27) if spread == "few directions" else units(9000, 256, seed=28)).half()
    asked = few_directions(1, 29) if spread == "few directions" else units(1, 256, seed=30)
    whole, compared = [], []
    quick, exact = scores.QuickScores.__call__, scores.exact_scores

    def spy(self: scores.QuickScores, start: int) -> Tensor:
        whole.append(self._vectors.shape[1])
        return quick(self, start)

    def count(queries: Tensor, vectors: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        compared.append(len(rows))
        return exact(queries, vectors, rows, places)

    monkeypatch.setattr(scores.QuickScores, "__call__", spy)
    monkeypatch.setattr(search, "exact_scores", count)
    nearest(asked, vectors, 10, coded_and_sketched(vectors))
    assert (256 in whole) == bool(read)
    assert whole.count(64) == (1 if read else 9)
    assert sum(compared) < 900


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_coarse_vectors_with_many_equal_scores_come_in_order_of_place(data):
    size, queries, k = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    signs = st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)
    vectors = torch.tensor(data.draw(st.lists(signs, min_size=size, max_size=size)), dtype=torch.float16)
    asked = torch.tensor(data.draw(st.lists(signs, min_size=queries, max_size=queries)))
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, data.draw(st.sampled_from([1, 4, 16, 64])), data.draw(st.sampled_from([1, 2, 4])))
        assert_exact(asked, vectors, k)


@pytest.mark.parametrize(("block", "piece", "queries"), [(1, 1, 1), (7, 3, 5), (64, 16, 8), (5000, 512, 1000)])
def test_neither_blocks_nor_who_asks_beside_changes_a_bit(monkeypatch, block, piece, queries):
    asked, vectors = units(20, 32, seed=8), units(500, 32, seed=9, dtype=torch.float32)
    vectors[::7] = vectors[0]
    wanted = nearest(asked, vectors, 12)
    cut(monkeypatch, block, piece, queries)
    found = nearest(asked, vectors, 12)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    alone = [nearest(one[None], vectors, 12) for one in asked]
    assert torch.equal(torch.cat([places for places, _ in alone]), wanted[0])
    assert torch.equal(torch.cat([scores for _, scores in alone]), wanted[1])


def test_vectors_in_another_order_are_found_at_their_new_places():
    asked, vectors = units(9, 32, seed=10), units(3000, 32, seed=11).half()
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    places, found = nearest(asked, vectors, 10)
    turned, again = nearest(asked, vectors[order], 10)
    assert torch.equal(order[turned], places)
    assert torch.equal(again, found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("queries", [1, 64])
@pytest.mark.parametrize("dim", [3, 24, 256, 1024])
@pytest.mark.parametrize(("coded", "int8"), [(False, False), (True, False), (True, True)])
def test_quick_scores_err_by_no_more_than_they_say_and_not_much_less(
    monkeypatch, product, dtype, queries, dim, coded, int8
):
    monkeypatch.setattr(scores, "multiplies_int8", lambda: int8)
    asked, vectors = units(queries, dim, seed=12), units(2000, dim, seed=13).to(dtype)
    vectors[:queries] = asked.to(dtype)  # greatest scores, where rounding moves most
    quick = scores.QuickScores(asked, vectors, scores.Codes.of(vectors) if coded else None)
    found = torch.cat([quick(start) for start in range(0, 2000, quick.step)], 1).double()
    rounding = found.abs() * scores.ROUNDING[quick.dtype]
    wrong = (found - asked @ vectors.double().T).abs() - rounding
    assert (wrong <= quick.error[:, None]).all()
    products_in_8_bits = int8 and queries > scores.CODED_INT8 and scores.multiplies_codes(dim)
    assert quick.error.max() < (0.025 if products_in_8_bits else 0.015 if quick.dtype == torch.bfloat16 else 0.001)


def test_codes_are_the_vectors_to_half_a_step():
    vectors = torch.cat([units(50, 24, seed=14), torch.eye(24)[:3], torch.zeros(1, 24)]).half()
    coded = scores.Codes.of(vectors)
    scales = coded.scales.double()[:, None]
    off = (vectors.double() - coded.codes.double() * scales).abs()
    assert (off <= scales / 2 + 1e-9).all()
    assert coded.codes.abs().max() <= 127
    assert coded.error == pytest.approx(float(off.norm(dim=1).max()))
    assert torch.equal(coded[2:5].codes, coded.codes[2:5])
    assert coded[2:5].error == coded.error


@pytest.mark.skipif(not scores.multiplies_codes(16), reason="torch has no vector instructions for codes here")
@pytest.mark.parametrize("int8", [False, True])
def test_the_codes_are_used_where_they_are_quicker(monkeypatch, int8):
    monkeypatch.setattr(scores, "multiplies_int8", lambda: int8)
    vectors, alone = units(8, 16).half(), scores.CODED_INT8 if int8 else scores.CODED
    together = scores.BLOCK_INT8 if int8 else scores.BLOCK
    steps = {1: scores.BLOCK_ALONE, alone: scores.BLOCK_ALONE, alone + 1: together, scores.INT8 + 1: scores.BLOCK}
    for queries, step in steps.items():
        coded = scores.QuickScores(units(queries, 16), vectors, scores.Codes.of(vectors))
        plain = scores.QuickScores(units(queries, 16), vectors)
        assert coded.step == step
        assert torch.equal(coded(0), plain(0)) == (step == scores.BLOCK)


def test_the_bound_grows_where_float32_products_are_made_of_less(product):
    asked, vectors = units(8, 16), units(8, 16, dtype=torch.float32)
    exact = scores.QuickScores(asked, vectors).error
    torch.set_float32_matmul_precision("medium")
    try:
        assert (scores.QuickScores(asked, vectors).error > exact + 0.007).all() == (product == torch.float32)
        assert_exact(asked, vectors, 3)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_product_is_in_bfloat16_where_a_cpu_has_it(monkeypatch):
    for has, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(scores, "multiplies_bfloat16", lambda device, has=has: has)
        assert scores.quickest("cpu") == wanted
        assert scores.quickest("cuda") == torch.float32


def test_no_queries_and_no_vectors_find_nothing():
    places, found = nearest(torch.zeros(0, 4), units(5, 4).half(), 2)
    assert (places.shape, found.shape) == ((0, 2), (0, 2))
    places, found = nearest(units(3, 4), torch.zeros(0, 4), 2)
    assert (places.shape, found.shape) == ((3, 0), (3, 0))


@pytest.mark.parametrize(
    ("queries", "vectors", "k", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 5), 1, r"queries \[2, 3\] against vectors \[4, 5\]"),
        (torch.zeros(3), torch.zeros(4, 3), 1, r"expected two matrices of one width"),
        (torch.zeros(2, 3), torch.zeros(4, 3), 0, r"the best 0; .* at least the best 1"),
        (torch.full((1, 3), torch.nan), torch.zeros(4, 3), 1, r"a query holds a number that is not finite"),
        (torch.ones(1, 3), torch.tensor([[0.0, 0, 1], [0, torch.nan, 0]]), 1, r"a vector from number 0 on holds"),
        (torch.ones(9, 3), torch.tensor([[0.0, 0, 1], [0, torch.inf, 0]]), 1, r"a vector from number 0 on holds"),
    ],
    ids=["widths", "a single query", "k", "query not finite", "vector not finite", "vector infinite"],
)
def test_what_cannot_be_searched_is_refused(queries, vectors, k, message):
    with pytest.raises(ShapeError, match=message):
        nearest(queries, vectors, k)


MEMORY = """
import resource, torch
from torch.nn.functional import normalize
from lightcrl.index import nearest
torch.set_num_threads(1)
vectors = normalize(torch.randn(200_000, 32), dim=1).half()
queries = normalize(torch.randn(2048, 32), dim=1)
nearest(queries[:64], vectors[:8192], 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest(queries, vectors, 10)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_hold_all_scores():
    """All scores are 1.6 GB."""
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 250
