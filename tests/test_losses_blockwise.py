"""Losses over pieces of the matrix of logits: the same values and gradients, and never the whole matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode

from lightcrl.losses import LOSSES, row_and_column_logsumexp, softplus_sum
from samples import units


def plain_info_nce(left: Tensor, right: Tensor, left_groups: Tensor, right_groups: Tensor, scale: Tensor, bias: Tensor):
    """The matrix and its mask, whole."""
    positive = left_groups[:, None] == right_groups
    matrix = scale * left @ right.T
    sides = []
    for same, scores in ((positive, matrix), (positive.T, matrix.T)):
        surprise = -torch.where(same, scores.log_softmax(1), 0).sum(1) / same.sum(1).clamp(min=1)
        sides.append(surprise[same.any(1)].mean())
    return sum(sides) / 2


def plain_sigmoid(left: Tensor, right: Tensor, left_groups: Tensor, right_groups: Tensor, scale: Tensor, bias: Tensor):
    positive = left_groups[:, None] == right_groups
    matrix = scale * left @ right.T + bias
    return -logsigmoid(torch.where(positive, matrix, -matrix)).sum() / len(left)


PLAIN = {"info_nce": plain_info_nce, "sigmoid": plain_sigmoid}


def inputs(lefts: int = 37, rights: int = 53, dim: int = 6) -> tuple[list[Tensor], list[Tensor]]:
    """Leaves that take gradients (embeddings, scale, bias), and groups of which some are on one side alone."""
    leaves = [units(lefts, dim, 1), units(rights, dim, 2), torch.tensor(14.3).double(), torch.tensor(-3.0).double()]
    groups = [torch.arange(lefts) * 7 % 31, torch.arange(rights) * 5 % 29]
    return [leaf.requires_grad_() for leaf in leaves], groups


def test_a_plain_loss_stands_for_every_loss():
    assert set(PLAIN) == set(LOSSES)


@pytest.mark.parametrize("piece", [1, 60, 53 * 8, 53 * 36, 53 * 37], ids="{} logits at a time".format)
@pytest.mark.parametrize("name", LOSSES)
def test_pieces_give_the_value_and_the_gradients_of_the_whole(name, piece, monkeypatch):
    monkeypatch.setattr("lightcrl.losses.PIECE", piece)
    (left, right, scale, bias), groups = inputs()
    found = LOSSES.load(name)(left, right, *groups, scale, bias)
    wanted = PLAIN[name](left, right, *groups, scale, bias)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    leaves = [left, right, scale, *([bias] if name == "sigmoid" else [])]
    for one, other in zip(torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * wanted, leaves), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("piece", [20, 1000])
def test_gradients_of_the_reductions_are_those_of_finite_differences(piece, monkeypatch):
    monkeypatch.setattr("lightcrl.losses.PIECE", piece)
    (left, right, scale, bias), _ = inputs(4, 5, 3)
    assert torch.autograd.gradcheck(row_and_column_logsumexp, (left, right, scale))
    assert torch.autograd.gradcheck(softplus_sum, (left, right, scale, bias))


@pytest.mark.parametrize("piece", [100, 10_000])
def test_backward_can_be_asked_twice(piece, monkeypatch):
    monkeypatch.setattr("lightcrl.losses.PIECE", piece)
    (left, right, scale, bias), groups = inputs()
    for name in LOSSES:
        loss = LOSSES.load(name)(left, right, *groups, scale, bias)
        first = torch.autograd.grad(loss, [left, right], retain_graph=True)
        second = torch.autograd.grad(loss, [left, right])
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_logits_far_apart_neither_overflow_nor_vanish(monkeypatch):
    """In float32 exp(-200) is zero: sums have to be taken around each row's and each column's own largest."""
    monkeypatch.setattr("lightcrl.losses.PIECE", 6)
    left, right = torch.eye(3)[[0, 1, 2]], -torch.eye(3)[[0, 0, 0]]
    left.requires_grad_()
    rows, columns = row_and_column_logsumexp(left, right, torch.tensor(200.0))
    torch.testing.assert_close(rows, torch.tensor([-200.0, 0, 0]) + torch.tensor(3.0).log())
    torch.testing.assert_close(columns, torch.full((3,), torch.tensor(2.0).log().item()))
    (slope,) = torch.autograd.grad(rows[0], left)
    torch.testing.assert_close(slope[0], torch.tensor([-200.0, 0, 0]), rtol=1e-4, atol=0)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor made meanwhile has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_linear_in_the_batch(name, monkeypatch):
    monkeypatch.setattr("lightcrl.losses.PIECE", 1024)
    largest = {}
    for count in (256, 512):
        (left, right, scale, bias), _ = inputs(count, count, 4)
        with Largest() as seen:
            LOSSES.load(name)(left, right, torch.arange(count), torch.arange(count), scale, bias).backward()
        largest[count] = seen.elements
    assert largest == {256: 1024, 512: 2048}, "a piece of the logits, or the embeddings"
    with Largest() as seen:
        PLAIN[name](left, right, torch.arange(count), torch.arange(count), scale, bias).backward()
    assert seen.elements == 512 * 512
