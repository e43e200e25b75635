"""CSA and ASIF: solved once, each against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightcrl.errors import TrainingError
from lightcrl.methods import Method, Step
from lightcrl.methods.asif import sparse_power
from lightcrl.methods.spec import make_method
from lightcrl.metrics.cca import canonical_variates
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import randn

SPECS = {"image": TokenSpec(4, slots=2), "text": TokenSpec(6)}
PLAIN = {"standardise": False, "by_slot": True}


def paired(count: int = 60) -> Step:
    """Slots, and ragged tokens, of one thing each."""
    thing = randn(count, 3, seed=1)
    images = (thing @ randn(3, 8, seed=2) + 0.3 * randn(count, 8, seed=3)).view(count, 2, 4) + 2
    words = thing @ randn(3, 6, seed=4) + 0.3 * randn(count, 6, seed=5)
    texts = [words[n] + randn(1 + n % 3, 6, seed=100 + n) * 0.1 for n in range(count)]
    groups = {"image": torch.arange(count), "text": torch.arange(count)}
    return Step({"image": TokenBatch.full(images), "text": TokenBatch.from_ragged(texts)}, groups)


def solved(name: str, steps: list[Step], specs: dict[str, TokenSpec] = SPECS, **options: Any) -> Method:
    method = make_method(name, specs, PLAIN | options, "info_nce").eval()
    method.solve(iter(steps))
    return method


def vectors(tokens: TokenBatch, slots: int) -> np.ndarray:
    """An item as one vector: slots side by side, or the mean of its tokens."""
    return np.stack([(item.flatten() if slots > 1 else item.mean(0)).double().numpy() for item in tokens.ragged()])


def rows(step: Step, *ranges: tuple[int, int]) -> list[Step]:
    return [
        Step(
            {name: tokens.rows(slice(*ends)) for name, tokens in step.tokens.items()},
            {name: groups[slice(*ends)] for name, groups in step.groups.items()},
        )
        for ends in ranges
    ]


# --- CSA


@pytest.mark.parametrize(("power", "dropped"), [(1.0, 0.0), (0.5, 0.3)])
def test_csa_is_weighted_canonical_variates(power, dropped):
    step = paired()
    method = solved("csa", [step], dim=4, power=power, shrinkage=dropped)
    features = {name: torch.from_numpy(vectors(step.tokens[name], SPECS[name].slots)) for name in SPECS}
    centred = {name: values - values.mean(0) for name, values in features.items()}
    own = {name: values.T @ values / 60 for name, values in centred.items()}
    own = {name: matrix + dropped / (1 - dropped) * matrix.diag().diag() for name, matrix in own.items()}
    cross = {("image", "text"): centred["image"].T @ centred["text"] / 60}
    correlations, maps = canonical_variates(own, cross, dim=4)
    found = {name: method.embed(name, step.tokens[name]) for name in SPECS}
    wanted = {name: centred[name] @ maps[name] * correlations**power for name in SPECS}
    for name in SPECS:
        torch.testing.assert_close(found[name].abs(), wanted[name].float().abs(), atol=1e-4, rtol=1e-4)
    # The sign of a variate is free, but must be the same in both modalities.
    products = [(one["image"] * one["text"]).float() for one in (found, wanted)]
    torch.testing.assert_close(products[0], products[1], atol=1e-3, rtol=1e-3)


def test_csas_regularisation_is_dropout_in_expectation():
    """The second moments of features under dropout, over many draws, times (1 - p) to undo what dropout scales up."""
    features, dropped = randn(4000, 3, seed=1, dtype=torch.float64), 0.4
    torch.manual_seed(0)
    drawn = torch.nn.functional.dropout(features.repeat(50, 1), dropped)
    covariance = features.T @ features / len(features)
    torch.testing.assert_close(
        drawn.T @ drawn / len(drawn), covariance + dropped / (1 - dropped) * covariance.diag().diag(), atol=0.01, rtol=0
    )


def test_csas_shrinkage_follows_the_data():
    """Features 8 and 6 wide, 7 on average, in 60 groups with two texts each: p = 7 / 67."""
    step = paired()
    texts = TokenBatch.from_ragged(step.tokens["text"].ragged() * 2)
    step = Step(
        {"image": step.tokens["image"], "text": texts},
        {"image": torch.arange(60), "text": torch.arange(60).repeat(2)},
    )
    rule = solved("csa", [step], dim=4)
    told = solved("csa", [step], dim=4, shrinkage=7 / 67)
    other = solved("csa", [step], dim=4, shrinkage=7 / 127)
    for name in SPECS:
        torch.testing.assert_close(rule(name, step.tokens[name]), told(name, step.tokens[name]))
        assert not torch.allclose(rule(name, step.tokens[name]).abs(), other(name, step.tokens[name]).abs(), atol=1e-4)


def test_csa_does_not_depend_on_how_data_is_cut_into_steps():
    step = paired()
    whole = solved("csa", [step], dim=4)
    parts = solved("csa", rows(step, (0, 1), (1, 33), (33, 60)), dim=4)
    torch.testing.assert_close(whole("text", step.tokens["text"]).abs(), parts("text", step.tokens["text"]).abs())


def test_csa_pairs_every_item_of_a_group_with_every_other():
    """Two texts of a picture are two pairs."""
    step = paired(20)
    texts = TokenBatch.from_ragged(step.tokens["text"].ragged() * 2)
    together = Step(
        {"image": step.tokens["image"], "text": texts},
        {"image": torch.arange(20), "text": torch.arange(20).repeat(2)},
    )
    one, both = solved("csa", [step], dim=3), solved("csa", [together], dim=3)
    torch.testing.assert_close(one("image", step.tokens["image"]).abs(), both("image", step.tokens["image"]).abs())


def test_csa_leaves_zero_what_is_beyond_the_rank():
    step = paired()
    found = solved("csa", [step], dim=50).embed("image", step.tokens["image"])
    assert found.shape == (60, 50)
    assert (found[:, :6].abs().sum(0) > 0).all()
    assert not found[:, 6:].any()


@pytest.mark.parametrize("name", ["csa", "asif"])
def test_without_pairs_there_is_nothing_to_solve(name):
    step = paired(6)
    apart = Step(step.tokens, {"image": torch.arange(6), "text": torch.arange(6) + 9})
    with pytest.raises(TrainingError, match="no two modalities share a group"):
        solved(name, [apart], dim=4)


# --- ASIF


def test_asif_is_its_formula():
    step, queries = paired(30), paired(40)
    method = solved("asif", [step], dim=30, neighbours=7, power=3.0)
    for name, spec in SPECS.items():
        anchors, items = (vectors(one.tokens[name], spec.slots) for one in (step, queries))
        found = method(name, queries.tokens[name]).numpy()
        for item, embedding in zip(items, found, strict=True):
            cosines = [item @ anchor / np.linalg.norm(item) / np.linalg.norm(anchor) for anchor in anchors]
            kept = set(np.argsort(cosines)[-7:].tolist())
            wanted = np.array([max(0.0, c) ** 3 if n in kept else 0.0 for n, c in enumerate(cosines)])
            np.testing.assert_allclose(embedding, wanted / np.linalg.norm(wanted), atol=1e-5)


def test_asifs_anchors_are_the_first_groups_and_the_rest_is_zero():
    step = paired(30)
    few = solved("asif", rows(step, (0, 4), (4, 30)), dim=6)
    torch.testing.assert_close(few.anchors["text"], solved("asif", rows(step, (0, 6)), dim=6).anchors["text"])
    many = solved("asif", [step], dim=40)
    assert many.anchors["text"][:30].any(1).all()
    assert not many.anchors["text"][30:].any()


def test_asif_takes_a_group_once_and_its_mean():
    step = paired(5)
    twice = Step(
        {
            "image": step.tokens["image"],
            "text": TokenBatch.from_vectors(torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0]])),
        },
        {"image": torch.arange(5), "text": torch.tensor([2, 2])},
    )
    method = solved("asif", [twice, twice], dim=3)
    torch.testing.assert_close(method.anchors["text"][0], torch.tensor([0.5**0.5, 0.5**0.5, 0, 0, 0, 0]))
    assert not method.anchors["text"][1:].any()
    assert not method.anchors["image"][1:].any()


def test_sparse_power_keeps_the_largest_even_where_all_are_negative():
    found = sparse_power(torch.tensor([[0.5, 0.25, -1.0, 0.1], [-0.2, -0.9, -0.3, -0.4]]), neighbours=2, power=2.0)
    assert found.tolist() == [[1.0, 0.25, 0, 0], [1.0, 0, 0, 0]]
