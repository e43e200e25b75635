"""Tokens and their mask: what is padded in comes out again, and what stands under the mask is never read."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.errors import ShapeError
from lightcrl.tokens import TokenBatch
from samples import GARBAGE, padded, ragged, randn

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(LENGTHS)
def test_padding_a_ragged_list_and_unpadding_it_gives_it_back(lengths):
    sequences = [randn(length, 3, seed=n) for n, length in enumerate(lengths)]
    batch = TokenBatch.from_ragged(sequences)
    assert batch.values.shape == (len(lengths), max(lengths), 3)
    assert batch.lengths.tolist() == lengths
    assert (len(batch), batch.dim) == (len(lengths), 3)
    assert not batch.values[~batch.mask].any()
    for found, wanted in zip(batch.ragged(), sequences, strict=True):
        assert torch.equal(found, wanted)


@given(LENGTHS, st.integers(0, 3), st.sampled_from(GARBAGE))
def test_the_mean_is_that_of_the_real_tokens_whatever_stands_under_the_mask(lengths, extra, garbage):
    batch = ragged(lengths, 4)
    wanted = [[sum(column) / len(item) for column in item.T.double().tolist()] for item in batch.ragged()]
    torch.testing.assert_close(padded(batch, extra, garbage).mean().double(), torch.tensor(wanted).double())


def test_no_gradient_flows_into_padding():
    batch = padded(ragged([1, 3], 2), 1, float("nan"))
    values = batch.values.requires_grad_()
    TokenBatch(values, batch.mask).mean().sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad != 0, batch.mask.unsqueeze(-1).expand_as(values))


def test_an_item_without_tokens_has_mean_zero():
    assert TokenBatch(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)).mean().tolist() == [[0.0, 0.0, 0.0]]


def test_vectors_are_items_of_one_token():
    vectors = randn(4, 3)
    batch = TokenBatch.from_vectors(vectors)
    assert batch.mask.tolist() == [[True]] * 4
    assert torch.equal(batch.mean(), vectors)


def test_full_has_no_padding():
    batch = TokenBatch.full(randn(2, 5, 3))
    assert batch.lengths.tolist() == [5, 5]


def test_rows_are_taken_in_the_order_asked():
    batch = ragged([1, 2, 3], 2)
    taken = batch.rows(torch.tensor([2, 0, 2]))
    assert taken.lengths.tolist() == [3, 1, 3]
    assert torch.equal(taken.values[1], batch.values[0])
    assert batch.rows(slice(1, None)).lengths.tolist() == [2, 3]


def test_to_changes_the_values_type_and_leaves_the_mask():
    batch = ragged([1, 2], 2)
    half = batch.to("cpu", torch.float16)
    assert (half.values.dtype, half.mask.dtype) == (torch.float16, torch.bool)
    assert batch.to("cpu").values.dtype == torch.float32
    assert torch.equal(half.values, batch.values.half())


@pytest.mark.parametrize(
    ("values", "mask"),
    [
        ((2, 3), torch.ones(2, 3, dtype=torch.bool)),
        ((2, 3, 4), torch.ones(2, 4, dtype=torch.bool)),
        ((2, 3, 4), torch.ones(3, dtype=torch.bool)),
        ((2, 3, 4), torch.ones(2, 3)),
    ],
    ids=["two axes", "other length", "one axis of mask", "float mask"],
)
def test_sizes_that_disagree_are_refused_with_both_named(values, mask):
    with pytest.raises(ShapeError) as error:
        TokenBatch(torch.zeros(values), mask)
    for part in (str(list(values)), str(list(mask.shape)), str(mask.dtype), "[B, T, D]"):
        assert part in str(error.value)


def test_a_batch_is_not_changed_once_made():
    batch = ragged([1], 2)
    with pytest.raises(FrozenInstanceError):
        batch.values = torch.zeros(1, 1, 2)
