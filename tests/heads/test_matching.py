"""Matching: what only the tokens of both items together can tell, negatives, and reordered hits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightcrl.checkpoint import Checkpoint
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import HeadError, RecipeError
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.heads.crowding import NEAREST, Crowding
from lightcrl.heads.matching import Matching, row_scorer
from lightcrl.heads.negatives import nearest, positives
from lightcrl.heads.spec import HeadSpec
from lightcrl.heads.weighing import Hits, Scored, choose_weights, figures
from lightcrl.methods.spec import make_method
from lightcrl.metrics.pairs import pair_accuracy
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.specs import parse
from lightcrl.tasks.base import Setting
from lightcrl.tasks.retrieval import RetrievalSpec, RetrievalTask
from lightcrl.tokens import TokenSpec
from lightcrl.training.heads import gather_material, train_head
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec
from relations import world
from samples import make_split, units

DEV = 60
SMALL = {"width": 32, "hidden": 32, "dropout": 0.0, "input_dropout": 0.0, "negatives": 3, "pool": 16, "hardest": 3}
TRAINING = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "tensorboard": False, "evaluate_every": 3}


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Features:
    return world(tmp_path_factory.mktemp("relations"), 600, DEV)


@pytest.fixture(scope="module")
def model(features, tmp_path_factory) -> Checkpoint:
    """A space of slots alone, and a matching head on it."""
    place = tmp_path_factory.mktemp("model")
    options = {"dim": 32, "input_dropout": 0.1}
    checkpoint = Checkpoint(
        make_method("linear", features.specs, options, "info_nce"),
        name="linear",
        loss="info_nce",
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in features.stores},
        fingerprints=dict.fromkeys(features.stores, "f"),
    )
    spec = TrainingSpec(epochs=6, batch_size=64, precision="float32", tensorboard=False, evaluate_every=6)
    train(checkpoint, features, spec, place / "space")
    table = {"kind": "matching", "apart": 0.0, "held_out": 0.0, "ramp": 0.3, "training": TRAINING, **SMALL}
    head: HeadSpec = parse(HeadSpec, table, "heads")
    checkpoint.heads["matching"] = train_head(checkpoint, "matching", head, features, place / "head")
    return checkpoint


def twin_accuracy(scores: np.ndarray) -> float:
    """Share of items [N, 2] whose own partner scores higher than its swapped twin; equal scores count half."""
    return float(pair_accuracy(np.round(scores, 4), np.tile([True, False], (len(scores), 1))).mean())


def test_word_order_is_chance_to_a_space_of_means_and_learnt_by_matching(features, model):
    """ "Red circle left of blue star" against "blue star left of red circle", which only the tokens can tell."""
    split = features.split("dev")
    vectors, _ = embed_split(model.method, features, split)
    own = np.arange(DEV)
    lists = np.stack([own, own ^ 1], 1)  # twins are neighbours
    space = torch.einsum("nd,nkd->nk", vectors["image"], vectors["text"][torch.from_numpy(lists)]).numpy()
    assert twin_accuracy(space) == pytest.approx(0.5, abs=0.1)
    head = model.head("matching")
    assert isinstance(head, Matching)
    scorer = row_scorer(head, features, "dev", vectors)
    assert twin_accuracy(scorer("image", own, "text", lists)) >= 0.9
    assert twin_accuracy(scorer("text", own, "image", lists)) >= 0.9
    figures = model.heads["matching"].figures["metrics"]
    assert figures["pair_accuracy"] > figures["space/pair_accuracy"] + 0.02
    assert figures["average_precision"] > figures["space/average_precision"] + 0.2


def test_reordered_hits_are_measured_by_the_retrieval_task(features, model):
    setting = Setting({}, None, features=features)  # type: ignore[arg-type]
    before = RetrievalTask.prepare(RetrievalSpec(), setting).evaluate(model)
    after = RetrievalTask.prepare(RetrievalSpec(rerank=8), setting).evaluate(model)
    assert after.metrics["mean_recall@1"] > before.metrics["mean_recall@1"] + 0.25
    assert after.metrics["mean_recall@1"] == pytest.approx(
        model.heads["matching"].figures["metrics"]["mean_recall@1"], abs=0.05
    )
    # The first ten of a reordered list of eight hold the same items.
    assert after.metrics["image_to_text/recall@10"] == pytest.approx(before.metrics["image_to_text/recall@10"])
    assert after.curves["image_to_text"]["precision"][0] == pytest.approx(
        after.metrics["image_to_text/recall@1"], abs=1e-6
    )
    assert after.chance == before.chance


def test_weights_of_zero_are_the_space(features, model):
    head = model.head("matching")
    assert isinstance(head, Matching)
    head.weight.zero_()
    head.local.zero_()
    vectors, links = embed_split(model.method, features, features.split("dev"))
    scorer = row_scorer(head, features, "dev", vectors)
    head.residual = None  # costs a network per pair, and is not needed
    retrieval = Retrieval(links)
    for direction, (counts, _) in retrieval.per_query(vectors).items():
        again = retrieval.reordered(vectors, direction, 8, scorer).ranks(counts)
        np.testing.assert_array_equal(again[:, 0], counts[:, 0])


def test_hubs_are_ranked_by_their_own_standard():
    """Half of the texts lie between all pictures, and win their searches; scaled by their crowding they do not."""
    pictures, common = units(40, 8, seed=3).float(), torch.nn.functional.normalize(torch.ones(8), dim=0)
    bank = torch.nn.functional.normalize(units(200, 8, seed=4).float() + 2 * common, dim=1)
    pictures = torch.nn.functional.normalize(pictures + 2 * common, dim=1)
    right = torch.nn.functional.normalize(pictures + 0.35 * units(40, 8, seed=5).float(), dim=1)
    texts = torch.cat([right, torch.nn.functional.normalize(common + 0.2 * units(40, 8, seed=6).float(), dim=1)])
    crowding = Crowding(8)
    assert crowding(texts).tolist() == [0.0] * 80
    crowding.take(bank)
    space = pictures @ texts.T
    expected = (texts @ bank.half().float().T).sort(1, descending=True).values[:, :NEAREST].mean(1)
    torch.testing.assert_close(crowding(texts), expected)
    scored = Scored(space, crowding(texts).expand(40, 80), torch.zeros(40, 80))
    hits = [Hits(scored, torch.eye(40, 80, dtype=torch.bool))]
    weights = choose_weights(hits)
    values = figures(hits, weights)
    assert weights == (0.5, 0.0)
    assert values["local/mean_recall@1"] > values["space/mean_recall@1"] + 0.2
    assert values["mean_recall@1"] == values["local/mean_recall@1"]


def test_negatives_are_the_nearest_of_other_groups_and_get_harder():
    vectors = {"image": units(6, 4, seed=1).float(), "text": units(12, 4, seed=2).float()}
    split = make_split({"image": [[n] for n in range(6)], "text": [[2 * n, 2 * n + 1] for n in range(6)]})
    near = nearest(vectors, split, "image", "text", 5)
    own = positives(split, "image", "text")
    for row in range(6):
        others = [text for text in range(12) if text not in own[row]]
        expected = sorted(others, key=lambda text: -float(vectors["image"][row] @ vectors["text"][text]))[:5]
        assert near.others[row].tolist() == expected
    torch.manual_seed(0)
    easy = {int(text) for _ in range(30) for text in near.draw(np.array([2]), 2, 0.0, 0.5, 2)[0]}
    hard = {int(text) for _ in range(30) for text in near.draw(np.array([2]), 2, 0.6, 0.5, 2)[0]}
    assert easy == set(near.others[2].tolist())
    assert hard == set(near.others[2][:2].tolist())


def test_wrong_use_is_refused_with_advice(features, model):
    def three(table: dict[str, Any]) -> HeadSpec:
        spec: HeadSpec = parse(HeadSpec, {"kind": "matching", "apart": 0.0, "held_out": 0.0, **table}, "heads")
        return spec

    with pytest.raises(HeadError, match="the space has image, text"):
        train_head(model, "matching", three({"modalities": ["image", "sound"]}), features, None)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="width 30 does not divide into 4 heads"):
        three({"width": 30})
    with pytest.raises(HeadError, match="no head 'captioning' in this model; it has matching"):
        model.head("captioning")
    stale = Features.of(features.stores, features.splits)
    head = model.head("matching")
    head.space.modalities["text"] = TokenSpec(9)  # type: ignore[index]
    with pytest.raises(HeadError, match="reads tokens T x 9 of 'text', and the features have tokens 1 \\+ T x 32"):
        row_scorer(head, stale, "dev", {})  # type: ignore[arg-type]
    head.space.modalities["text"] = features.specs["text"]  # type: ignore[index]
    assert gather_material(model, features).vectors["text"].shape[1] == 32
