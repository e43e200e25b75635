"""The published figures are those of the paper, and the families beside the library hold together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightcrl.errors import RecipeError, UnknownNameError
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.recipe import load_recipe
from lightcrl.studies.entries import Entry, method_spec, parse_entry
from lightcrl.studies.reproduce import load_family
from lightcrl.studies.reproduce.published import published
from lightcrl.tasks.base import TASKS

PROJECT = Path(__file__).parents[2]
REFERENCE = PROJECT.parent / "shared/reference/lightcrl_tables.json"
PAIRS = ("similar", "dissimilar")

FAMILY = """
[models]
one = "linear"

[recipes.small]

[tasks.shapes]
task = "zero_shot"
recipe = "small"
data = "shapes"
"""


@pytest.mark.real
@pytest.mark.skipif(not REFERENCE.is_file(), reason="no shared folder with the reference tables beside the project")
def test_every_figure_is_the_papers():
    reference, facts = json.loads(REFERENCE.read_text()), published()
    single = {
        "cifar10_zero_shot": "cifar10_zero_shot_top1_to_top5",
        "cifar100_linear_probe": "cifar100_linear_epochs_20_40_60_80_100",
        "tiny_imagenet_fine_tuning": "tiny_imagenet_fine_tuning_epochs_20_40_60_80_100",
    }
    for name, key in single.items():
        assert {row: list(values) for row, values in facts.table(name).rows.items()} == reference[key]
    for name in ("mrpc", "qqp"):
        table = facts.table(name)
        for at, kind in enumerate(PAIRS):
            known = reference[f"{name}_{kind}"]
            rows = {row: [values[0], *values[1 + 3 * at : 4 + 3 * at]] for row, values in table.rows.items()}
            assert rows == {row: values for row, values in known.items() if row != "columns"}
            named = [f"{kind}/{column}" for column in known["columns"][1:]]
            assert list(table.measures[1 + 3 * at : 4 + 3 * at]) == named


def test_tables_are_whole_and_their_notes_are_true():
    facts = published()
    for table in facts.tables.values():
        assert all(len(row) == len(table.measures) for row in table.rows.values())
    tuned = facts.table("tiny_imagenet_fine_tuning")
    same = [(a, b) for a in tuned.rows for b in tuned.rows if a < b and tuned.rows[a] == tuned.rows[b]]
    assert same == [("DFE-1", "DFE-4")]
    assert "DFE-1 and DFE-4" in tuned.note
    odd = {}
    for name in ("mrpc", "qqp"):
        for row, (_, *rest) in facts.table(name).rows.items():
            for at, kind in enumerate(PAIRS):
                precision, recall, f1 = rest[3 * at : 3 * at + 3]
                right = 2 * precision * recall / max(precision + recall, 1e-9)
                if abs(right - f1) > 0.15:
                    odd[name, row, kind] = (f1, round(right, 2))
    assert odd == {("mrpc", "DFE-2", "dissimilar"): (48.3, 52.03), ("qqp", "DFE-5", "dissimilar"): (60.63, 58.47)}
    for (name, row, _), figures in odd.items():
        assert all(f"{value:.2f}" in facts.table(name).note for value in figures)
        assert row in facts.table(name).note


def test_every_operation_and_every_claim_has_its_place():
    facts = published()
    assert set(facts.operations) == set(OPERATIONS)
    assert facts.name(Entry("mine", "dfe", {"fusion": "additive_attention"})) == "DFE-4"
    assert facts.name(Entry("mine", "lightcrl_paper")) == "DFE-1"
    assert facts.name(Entry("mine", "convirt")) == "conVIRT"
    assert facts.name(Entry("mine", "linear")) is None
    kinds = {table.task for table in facts.tables.values()}
    assert kinds >= set(TASKS) - {"captioning", "prior"}
    for claim in facts.claims:
        assert claim.task in kinds
        assert claim.against in ("raw", *facts.methods.values())
    with pytest.raises(UnknownNameError, match="Did you mean 'mrpc'"):
        facts.table("mrcp")


@pytest.mark.parametrize("name", ["paper", "paper_small"])
def test_the_families_of_the_project_hold_together(name):
    family = load_family(PROJECT / "recipes" / name)
    assert family.name == name
    named = {published().name(parse_entry(text)) for text in family.models.values()}
    assert named == {*published().operations.values(), "conVIRT"}
    for use in family.recipes:
        recipe = load_recipe(family.file(use))
        for text in (*family.models.values(), *family.optional.values()):
            method_spec(parse_entry(text), recipe)
    assert {spec.task for spec in family.tasks.values()} <= set(TASKS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[models]", "[modles]"), r"unknown key 'modles'. Did you mean 'models'\?"),
        (
            ("[recipes.small]", "[recipes.small]\ngrups = 3"),
            r"unknown key 'recipes.small.grups'. Did you mean 'groups'\?",
        ),
        (("data = ", "dta = "), r"unknown key 'tasks.shapes.dta'. Did you mean 'data'\?"),
        (('"zero_shot"', '"zeroshot"'), r"unknown task 'zeroshot'. Did you mean 'zero_shot'\?"),
        (('task = "zero_shot"\n', ""), "tasks.shapes: .* expected a table with a task, one of retrieval, zero_shot"),
        (('recipe = "small"', 'recipe = "smal"'), r"tasks.shapes: unknown recipe 'smal'. Did you mean 'small'\?"),
        (
            ("data = ", 'published = "mrpc"\ndata = '),
            "the published table 'mrpc' is of text_similarity, the task is zero",
        ),
        (("data = ", 'published = "mrp"\ndata = '), r"unknown published table 'mrp'. Did you mean 'mrpc'\?"),
        (("[recipes", '[optional]\none = "csa"\n[recipes'), "optional.one: 'one' is taken"),
        (("[models]", "[models"), "family.toml is not TOML"),
    ],
)
def test_a_mistake_in_a_family_is_one_clear_message(tmp_path, change, message):
    (tmp_path / "family.toml").write_text(FAMILY)
    assert load_family(tmp_path).name == tmp_path.name
    (tmp_path / "family.toml").write_text(FAMILY.replace(*change, 1))
    with pytest.raises((RecipeError, UnknownNameError), match=message):
        load_family(tmp_path)


def test_a_folder_without_a_family_is_told():
    with pytest.raises(RecipeError, match=r"cannot read .*family\.toml: .* such as recipes/paper_small"):
        load_family(PROJECT / "docs")
