"""What holds for every operation of the table `OPERATIONS`; a new one needs its formula here, and has these tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.methods.fusion import OPERATIONS, Concatenation, FusionOperation
from samples import GARBAGE, padded, ragged, randn

DIM = 6

Array = np.ndarray
Weights = dict[str, Array]


def dense(weights: Weights, layer: str, x: Array) -> Array:
    return weights[f"{layer}.weight"] @ x + weights.get(f"{layer}.bias", 0)


def gelu(x: Array) -> Array:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


def add_attended(
    score: Callable[[Weights, Array, Array], float],
    value: Callable[[Weights, Array], Array] = lambda weights, token: token,
) -> Callable[[Weights, Array, Array], Array]:
    """Every token plus the mean value, each token weighted by the exponential of its score."""

    def formula(weights: Weights, tokens: Array, context: Array) -> Array:
        shares = [math.exp(score(weights, token, context)) for token in tokens]
        values = [value(weights, token) for token in tokens]
        attended = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
        return np.stack([token + attended for token in tokens])

    return formula


def concatenation(weights: Weights, tokens: Array, context: Array) -> Array:
    short = dense(weights, "project", context)
    hidden = [gelu(dense(weights, "mlp.0", np.concatenate([token, short]))) for token in tokens]
    return np.stack([token + dense(weights, "mlp.2", h) for token, h in zip(tokens, hidden, strict=True)])


def additive_score(weights: Weights, token: Array, context: Array) -> float:
    return dense(weights, "energy", np.tanh(dense(weights, "query", context) + dense(weights, "key", token)))[0]


def general_score(weights: Weights, token: Array, context: Array) -> float:
    return context @ dense(weights, "bilinear", token) / math.sqrt(DIM)


def scaled_score(weights: Weights, token: Array, context: Array) -> float:
    return dense(weights, "query", context) @ dense(weights, "key", token) / math.sqrt(DIM)


# One item's tokens [T, d] and the context [d], in float64.
FORMULAS: dict[str, Callable[[Weights, Array, Array], Array]] = {
    "addition": lambda weights, tokens, context: tokens + context,
    "multiplication": lambda weights, tokens, context: tokens * context,
    "concatenation": concatenation,
    "additive_attention": add_attended(additive_score),
    "general_attention": add_attended(general_score),
    "scaled_dot_product": add_attended(scaled_score, lambda weights, token: dense(weights, "values", token)),
}

every_operation = pytest.mark.parametrize("name", OPERATIONS)


def make(name: str, **options: int) -> FusionOperation:
    """An operation in float64 whose weights are far from where they start."""
    operation = OPERATIONS.load(name)(DIM, **options).double()
    with torch.no_grad():
        for number, parameter in enumerate(operation.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=number))
    return operation


def formula(operation: FusionOperation, name: str, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    weights = {key: value.numpy() for key, value in operation.state_dict().items()}
    return torch.from_numpy(FORMULAS[name](weights, tokens.numpy(), context.numpy()))


CONTEXT = randn(DIM, seed=77, dtype=torch.float64)


def batch(lengths: list[int], extra: int = 0, garbage: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = padded(ragged(lengths, DIM), extra, garbage).to("cpu", torch.float64)
    return tokens.values, tokens.mask


def test_the_papers_six_are_here():
    assert set(OPERATIONS) >= {
        "addition", "multiplication", "concatenation", "additive_attention", "general_attention", "scaled_dot_product"
    }  # fmt: skip


@every_operation
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), extra=st.integers(0, 2), data=st.data())
def test_it_is_its_formula_and_never_reads_padding(name, lengths, extra, data):
    operation = make(name)
    values, mask = batch(lengths, extra, data.draw(st.sampled_from(GARBAGE)))
    found = operation(values, mask, CONTEXT)
    for item, real, fused in zip(values, mask, found.detach(), strict=True):
        torch.testing.assert_close(fused[real], formula(operation, name, item[real], CONTEXT))


@every_operation
def test_every_weight_and_the_context_receive_a_gradient(name):
    operation = make(name)
    values, mask = batch([3, 1, 4])
    context = CONTEXT.clone().requires_grad_()
    target = randn(*values.shape, seed=5, dtype=torch.float64)
    (operation(values, mask, context) * target)[mask].sum().backward()
    for where, parameter in [("context", context), *operation.named_parameters()]:
        assert parameter.grad is not None, where
        assert parameter.grad.isfinite().all(), where
        assert parameter.grad.any(), where


@every_operation
def test_it_follows_the_order_of_items_and_of_tokens(name):
    operation = make(name)
    values, mask = batch([3, 3, 3])
    found = operation(values, mask, CONTEXT)
    items, tokens = [2, 0, 1], [1, 2, 0]
    torch.testing.assert_close(operation(values[items], mask, CONTEXT), found[items])
    torch.testing.assert_close(operation(values[:, tokens], mask, CONTEXT), found[:, tokens])


@every_operation
def test_two_contexts_tell_the_same_tokens_apart(name):
    operation = make(name)
    values, mask = batch([2, 3])
    one, other = (operation(values, mask, context)[mask] for context in (CONTEXT, -CONTEXT))
    assert ((one - other).norm(dim=-1) > 0.1).all()


@pytest.mark.parametrize("name", ["concatenation", "scaled_dot_product"])
def test_what_it_adds_starts_small(name):
    torch.manual_seed(0)
    operation = OPERATIONS.load(name)(64)
    tokens = randn(8, 5, 64)
    mask = torch.ones(8, 5, dtype=torch.bool)
    change = operation(tokens, mask, torch.full((64,), operation.neutral)) - tokens
    assert change.norm() < 0.2 * tokens.norm()


@pytest.mark.parametrize("name", ["addition", "multiplication"])
def test_the_neutral_context_changes_nothing(name):
    operation = make(name)
    values, mask = batch([2, 3])
    assert torch.equal(operation(values, mask, torch.full((DIM,), operation.neutral).double()), values)


@every_operation
def test_an_item_of_padding_alone_spoils_no_other(name):
    operation = make(name)
    values, mask = batch([2, 3], garbage=float("nan"))
    alone = operation(values, mask, CONTEXT)[mask]
    with_empty = operation(torch.cat([values, values[:1]]), torch.cat([mask, torch.zeros_like(mask[:1])]), CONTEXT)
    torch.testing.assert_close(with_empty[:2][mask], alone)


@pytest.mark.parametrize("context_dim", [1, 3, 10])
def test_the_width_of_the_concatenated_context_is_an_option(context_dim):
    operation = make("concatenation", context_dim=context_dim)
    values, mask = batch([3])
    assert operation.state_dict()["project.weight"].shape == (context_dim, DIM)
    wanted = formula(operation, "concatenation", values[0], CONTEXT)
    torch.testing.assert_close(operation(values, mask, CONTEXT)[0].detach(), wanted)


def test_the_concatenated_context_has_the_papers_ten_dimensions_unless_said():
    assert Concatenation(DIM).project.out_features == 10


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_works_where_products_are_in_bfloat16(name, dtype):
    """Scores may be narrower than the tokens: the least number of one is none of the other."""
    torch.manual_seed(0)
    operation, batch = OPERATIONS.load(name)(DIM), ragged([2, 5, 1], DIM)
    wanted = operation(batch.values, batch.mask, randn(DIM))
    with torch.autocast("cpu", torch.bfloat16):
        found = operation(batch.values.to(dtype), batch.mask, randn(DIM).to(dtype))
    torch.testing.assert_close(found[batch.mask].float(), wanted[batch.mask], atol=0.1, rtol=0.05)
