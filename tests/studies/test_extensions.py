"""Ways to extend a model, compared on the same groups: maps are what they say, and every cell is reused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from growing import base, recipe
from lightcrl.checkpoint import load_checkpoint
from lightcrl.cli import app
from lightcrl.errors import RecipeError, TrainingError, UnknownNameError
from lightcrl.growth.extend import extend
from lightcrl.methods.base import Step
from lightcrl.methods.bridge import LeastSquares, LinearBridge, Procrustes
from lightcrl.methods.solve import rotation
from lightcrl.methods.spec import make_method
from lightcrl.studies.extensions import RIVALS, compare_extensions
from lightcrl.studies.extensions.run import study_sizes
from lightcrl.tokens import TokenBatch, TokenSpec

WIDTH, DIM = 5, 4


def bridge(kind: type[LinearBridge], **options: object) -> LinearBridge:
    path = f"lightcrl.methods.bridge:{kind.__name__}"
    given = {"dim": DIM, "fresh": ["audio"], "standardise": False, **options}
    made = make_method(path, {"audio": TokenSpec(WIDTH), "text": TokenSpec(DIM)}, given, "info_nce")
    assert isinstance(made, kind)
    return made.eval()


def steps(items: torch.Tensor, embeddings: torch.Tensor) -> list[Step]:
    """One step of pairs, each a group."""
    tokens = {"audio": TokenBatch.full(items[:, None]), "text": TokenBatch.full(embeddings[:, None])}
    return [Step(tokens, dict.fromkeys(tokens, torch.arange(len(items))))]


def drawn(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(count, WIDTH, generator=generator) + 1
    return items, torch.nn.functional.normalize(torch.randn(count, DIM, generator=generator), dim=-1)


def test_least_squares_is_that_of_numpy():
    items, embeddings = drawn()
    made = bridge(LeastSquares, shrinkage=0.0)
    made.solve(steps(items, embeddings))
    design = np.column_stack([items.numpy(), np.ones(len(items))]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design, embeddings.numpy().astype(np.float64), rcond=None)
    vectors = made.embed("audio", TokenBatch.full(items[:, None])).detach().numpy()
    np.testing.assert_allclose(vectors, design @ solution, atol=1e-5)
    shrunk = bridge(LeastSquares, shrinkage=0.9)
    shrunk.solve(steps(items, embeddings))
    assert shrunk.stem("audio").weight.norm() < made.stem("audio").weight.norm()


def test_procrustes_finds_a_rotation_again():
    items, _ = drawn()
    turn = rotation(torch.randn(WIDTH, DIM, generator=torch.Generator().manual_seed(1)).double()).float()
    torch.testing.assert_close(turn.T @ turn, torch.eye(DIM), atol=1e-5, rtol=0)
    white = torch.linalg.qr(items - items.mean(0)).Q
    made = bridge(Procrustes)
    made.solve(steps(white, 2 * white @ turn + 3))
    vectors = made.embed("audio", TokenBatch.full(white[:, None]))
    torch.testing.assert_close(vectors, 2 * white @ turn + 3, atol=1e-4, rtol=0)


def test_old_modalities_are_what_they_are():
    _, embeddings = drawn(3)
    made = bridge(LinearBridge)
    torch.testing.assert_close(made("text", TokenBatch.full(embeddings[:, None])), embeddings)
    assert {name for name, part in made.named_parameters() if part.requires_grad} == {
        "stems.audio.weight",
        "stems.audio.bias",
        "logit_scale",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("extensions")
    base(place)
    return place


def test_all_contestants_are_compared_on_the_same_queries(place):
    wanted = recipe(place, partners=["image", "text"])
    done = compare_extensions(place / "dfe", wanted, seeds=1, tune=False, scaling=[20], output=place / "study")
    assert {member.label for member in done.ranked} == set(RIVALS)
    directions = {"audio_to_image", "audio_to_text", "image_to_audio", "text_to_audio"}
    for member in done.ranked:
        assert set(member.cells[0].outcomes["retrieval"].items) == directions
        assert member.figures["mean_recall@1"].mean == pytest.approx(member.cells[0].figures["mean_recall@1"])
    assert set(done.queries) == directions
    assert [list(curve.sizes) for curve in done.growth] == [[20, done.growth[0].sizes[1]]] * len(RIVALS)
    first = next(curve for curve in done.growth if curve.label == "extension")
    assert first.gaps == ()
    for curve in done.growth:
        for gap, mine, theirs in zip(curve.gaps, first.recall.mean(0), curve.recall.mean(0), strict=False):
            assert gap.mean == pytest.approx(mine - theirs)
    assert "Mean R@1 of extension minus that of the others" in (place / "study" / "compare.md").read_text()
    again = compare_extensions(place / "dfe", wanted, seeds=1, tune=False, scaling=[20], output=place / "study")
    assert again.to_json()["methods"] == done.to_json()["methods"]
    assert not any(cell.fresh for member in again.ranked for cell in member.cells)


def test_the_contestant_extension_is_what_extend_makes(place, tmp_path):
    wanted = recipe(place, partners=["image", "text"])
    done = extend(place / "dfe", wanted, output=tmp_path)
    study = compare_extensions(
        place / "dfe", wanted, ["extension", "procrustes"], seeds=1, tune=False, output=place / "study"
    )
    cell = next(member for member in study.ranked if member.label == "extension").cells[0]
    for name, value in done.result.metrics.items():
        if name.endswith("/recall@1"):
            assert cell.figures[name] == pytest.approx(value)
    body = load_checkpoint(cell.folder).method.body.state_dict()
    grown = load_checkpoint(tmp_path).method
    assert all(torch.equal(grown.state_dict()[leaf], body[leaf]) for leaf in grown.leaves_of("audio"))


def test_sizes_contestants_and_labels_are_checked(place):
    wanted = recipe(place, partners=["image", "text"])
    assert study_sizes("auto", 100) == [60, 100]
    with pytest.raises(TrainingError, match="subsets of 200 groups, but the training split has 100"):
        study_sizes([200], 100)
    assert study_sizes("auto", 300, least=100) == [120, 240, 300]
    with pytest.raises(UnknownNameError, match="procrustes"):
        compare_extensions(place / "dfe", wanted, ["extension", "procrustos"], output=place / "study")
    with pytest.raises(RecipeError, match="expected two or more, every label once"):
        compare_extensions(place / "dfe", wanted, ["extension"], output=place / "study")


def test_a_subset_smaller_than_a_batch_is_refused_before_anything_is_encoded(place, tmp_path):
    with pytest.raises(TrainingError, match="a subset of 10 groups was asked for, but a batch has 16"):
        compare_extensions(place / "dfe", recipe(tmp_path), scaling=[10, 20], output=tmp_path / "study")
    assert not (tmp_path / "features").exists()


def test_the_command_takes_a_model_to_extend(place, tmp_path):
    (place / "sound.toml").write_text(
        '[data]\nsource = "synthetic"\noptions = { groups = 60 }\ndev_fraction = 0.3\n'
        '[encoders.audio]\nkind = "audio"\nmodel = "builtin"\noptions = { segments = 2 }\n'
        '[features]\nfolder = "features"\n'
    )
    words = ["compare", str(place / "sound.toml"), "--extend", str(place / "dfe"), "--seeds", "1", "--no-tune"]
    words += ["--methods", "least_squares,procrustes", "--output", str(tmp_path), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert {entry["label"] for entry in json.loads((tmp_path / "out.json").read_text())["methods"]} == {
        "least_squares",
        "procrustes",
    }
    assert CliRunner().invoke(app, [*words[:2], "--replace", "image"]).exit_code == 2
