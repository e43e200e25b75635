"""Who takes part, and with which options."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightcrl.errors import RecipeError, TrainingError, UnknownNameError
from lightcrl.methods import METHODS
from lightcrl.methods.dfe import DeepFusionEncoder
from lightcrl.methods.linear import Linear
from lightcrl.recipe import make_recipe
from lightcrl.studies.entries import (
    Entry,
    check_entries,
    default_entries,
    parse_entries,
    parse_entry,
    subset_sizes,
    tries,
)
from samples import make_split


def recipe(**training):
    return make_recipe(
        {
            "name": "r",
            "data": {"source": "synthetic"},
            "encoders": {kind: {"kind": kind, "model": "builtin"} for kind in ("image", "text")},
            "method": {"name": "dfe", "dim": 32, "heads": 2},
            "training": training,
        }
    )


def features(groups: int):
    """As many usable groups, and two with a picture alone."""
    split = make_split({"image": [[n] for n in range(groups + 2)], "text": [[n] for n in range(groups)] + [[], []]})
    return SimpleNamespace(split=lambda name: split)


def test_a_list_of_methods_and_variants():
    found = parse_entries("linear, dfe[fusion=addition,heads=2],dfe[layer_scale=0.2, standardise=false],my.own:M")
    assert [(entry.method, dict(entry.options)) for entry in found] == [
        ("linear", {}),
        ("dfe", {"fusion": "addition", "heads": 2}),
        ("dfe", {"layer_scale": 0.2, "standardise": False}),
        ("my.own:M", {}),
    ]
    assert found[1].label == "dfe[fusion=addition,heads=2]"
    assert parse_entry("x[sizes=[1,2],dim=3]").options == {"sizes": [1, 2], "dim": 3}


@pytest.mark.parametrize("text", ["dfe[fusion", "dfe]", "dfe[fusion]", "dfe[=3]", "[dim=3]"])
def test_what_cannot_be_read_says_what_is_expected(text):
    with pytest.raises(RecipeError, match="expected name"):
        parse_entry(text)


def test_by_default_the_recipes_method_comes_first():
    labels = [entry.label for entry in default_entries(recipe())]
    assert labels[0] == "dfe"
    assert sorted(labels) == sorted(METHODS)


def test_mistakes_are_told_before_anything_is_encoded():
    cases = (
        (["dfe", "liner"], UnknownNameError, "Did you mean 'linear'"),
        (["dfe", "linear[dimm=3]"], RecipeError, "unknown key 'method.dimm'. Did you mean 'dim'"),
        (["dfe"], RecipeError, "1 method to compare"),
        (["dfe", "dfe"], RecipeError, "'dfe' is given twice"),
    )
    for names, kind, message in cases:
        with pytest.raises(kind, match=message):
            check_entries([parse_entry(name) for name in names], recipe())


def test_the_recipes_options_are_for_its_own_method_alone(monkeypatch):
    for name, dim in (("dfe", 32), ("linear", 256), ("dfe[dim=16]", 16)):
        ((_, spec),) = tries(parse_entry(name), recipe(), tune=False)
        assert spec.options["dim"] == dim
    assert tries(parse_entry("dfe"), recipe(), tune=False)[0][1].options["heads"] == 2


def test_a_grid_is_tried_without_repeating_itself_and_leaves_a_variants_own_options_alone(monkeypatch):
    monkeypatch.setattr(Linear, "grid", ({}, {"input_dropout": 0.2}, {"input_dropout": "auto"}, {"dim": 64}))
    found = tries(Entry("linear", "linear"), recipe(), tune=True)
    # The third is the defaults again.
    assert [tried for tried, _ in found] == [{}, {"input_dropout": 0.2}, {"dim": 64}]
    assert found[1][1].options["input_dropout"] == 0.2
    pinned = tries(parse_entry("linear[dim=8]"), recipe(), tune=True)
    assert [spec.options["dim"] for _, spec in pinned] == [8, 8]
    assert len(tries(Entry("linear", "linear"), recipe(), tune=False)) == 1
    monkeypatch.setattr(DeepFusionEncoder, "grid", ({}, {"heads": 4}))
    assert [spec.options["heads"] for _, spec in tries(parse_entry("dfe"), recipe(), tune=True)] == [2, 4]


def test_sizes_end_with_all_usable_groups():
    entries = [parse_entry("dfe"), parse_entry("linear")]
    assert subset_sizes("auto", entries, recipe(), features(1100)) == [125, 250, 500, 1000, 1100]
    assert subset_sizes([400, 100], entries, recipe(), features(1100)) == [100, 400, 1100]
    assert subset_sizes([1100], entries, recipe(), features(1100)) == [1100]
    assert subset_sizes("auto", entries, recipe(batch_size=300), features(1100)) == [500, 1000, 1100]
    with pytest.raises(TrainingError, match=r"2,000 groups was asked for, but the training split has 1,100"):
        subset_sizes([2000], entries, recipe(), features(1100))
    with pytest.raises(TrainingError, match="100 groups was asked for, but a batch has 300"):
        subset_sizes([100], entries, recipe(batch_size=300), features(1100))
