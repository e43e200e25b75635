"""Another encoder for an old modality: the index stays where it may, and the figures say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from growing import DATA, base, encoder, recipe
from lightcrl.checkpoint import load_checkpoint
from lightcrl.features.embed import embed_split
from lightcrl.growth.extend import extend
from lightcrl.growth.replacement import Replacement, measure_replacement
from lightcrl.lineage import identity
from lightcrl.metrics.retrieval import Retrieval, evaluate
from lightcrl.metrics.statistics import Difference
from lightcrl.pipeline import prepare
from lightcrl.recipe import make_recipe

COUNT = 8
DIRECTIONS = {
    added: [f"{asking}/recall@{place}" for asking in directions for place in (1, 5, 10)]
    for added, directions in ((False, ("image_to_text", "text_to_image")), (True, ("audio_to_image", "text_to_audio")))
}
LINKS = {name: np.stack([np.arange(COUNT)] * 2, 1) for name in ("new", "old", "text")}


def found(new: torch.Tensor, old: torch.Tensor):
    return measure_replacement("image", new, old, {"text": torch.eye(COUNT)}, LINKS)


def shifted(some: list[int]) -> torch.Tensor:
    """Unit vectors, those of `some` pictures moved to another's place."""
    place = torch.arange(COUNT)
    place[some] = place[some].roll(1)
    return torch.eye(COUNT)[place]


def test_equal_encoders_lose_and_gain_nothing():
    same = found(torch.eye(COUNT), torch.eye(COUNT))
    assert {case: value.mean for case, value in same.recall.items()} == dict.fromkeys(same.recall, 1.0)
    assert (same.kept.mean, same.anew.mean) == (0, 0)
    assert same.advice == (
        "You may keep the index: 0.0 points gained (+0.0 to +0.0); embedding everything again would give 0.0 points "
        "more (+0.0 to +0.0)."
    )


def test_every_case_is_what_it_says():
    """The old encoder takes two pictures for each other, the new one none."""
    better = found(torch.eye(COUNT), shifted([0, 1]))
    wrong = 1 - 2 / COUNT
    assert better.directions["old/old"] == {"image_to_text": wrong, "text_to_image": wrong}
    assert better.directions["new/old"] == {"image_to_text": 1.0, "text_to_image": wrong}
    assert better.directions["new/new"] == {"image_to_text": 1.0, "text_to_image": 1.0}
    # Even groups are old: picture 0 stands where 1 should, so 0 finds nothing and 1 has two on its place.
    assert better.directions["new/mixed"]["text_to_image"] == pytest.approx((COUNT - 2 + 1 / COUNT + 1 / 2) / COUNT)
    assert better.kept.mean == pytest.approx(1 / COUNT)
    assert better.anew.mean == pytest.approx(1 / COUNT)
    low, high = better.kept.interval
    assert low < 1 / COUNT < high
    assert "12.5 points gained" in better.advice


def test_a_worse_encoder_is_not_to_be_taken():
    worse = found(shifted(list(range(COUNT))), torch.eye(COUNT))
    assert worse.recall["new/old"].mean == 0.5
    assert not worse.may_keep
    assert worse.kept.word == "worse"
    assert worse.advice == (
        "Stay with the old encoder: 50.0 points lost (-50.0 to -50.0) with its index, and embedding everything again "
        "would give 50.0 points less (-50.0 to -50.0)."
    )


@pytest.mark.parametrize(
    ("kept", "interval", "start"),
    [
        (-0.009, (-0.012, -0.006), "You may keep the index: 0.9 points lost (-1.2 to -0.6); embedding everything"),
        (-0.04, (-0.09, 0.01), "You may keep the index: 4.0 points lost (-9.0 to +1.0)"),
        (-0.04, (-0.05, -0.03), "Embed everything again: with the old index 4.0 points lost (-5.0 to -3.0), a new one"),
    ],
)
def test_advice_follows_what_is_lost_and_how_sure_that_is(kept, interval, start):
    done = Replacement("image", {}, {}, Difference(kept, interval), Difference(0.06, (0.05, 0.07)))
    assert done.advice.startswith(start)
    assert "6.0 points more (+5.0 to +7.0)" in done.advice


@pytest.mark.parametrize("partners", [None, ["text", "image"]])
def test_an_encoder_is_replaced_and_everything_else_stays(tmp_path, partners):
    model = base(tmp_path, ("audio", "image", "text"), epochs=10)
    other = encoder("image") | {"options": {"grid": 3}}
    wanted = recipe(tmp_path, partners=partners, encoders={"image": other}, training={"epochs": 10})
    done = extend(model, wanted, replace="image", output=tmp_path / "grown")
    old, grown = load_checkpoint(model), load_checkpoint(tmp_path / "grown")
    assert (done.replaced, done.added, done.proof.modalities) == ("image", (), ("audio", "text"))
    assert grown.method.modalities["image"].slots == 11
    assert grown.encoders["image"].options == {"grid": 3}
    assert identity(grown.lineage) == [{"from": old.digest, "replaced": ["image"]}]
    assert done.partners == (("audio", "text") if partners is None else ("text", "image"))
    assert done.emergent == ()
    metrics = done.result.metrics
    assert metrics["image_to_old image/recall@1"] > 0.5
    figures = done.replacement
    assert figures is not None
    assert figures.directions["new/new"]["image_to_text"] == metrics["image_to_text/recall@1"]
    assert figures.directions["new/new"]["text_to_image"] == metrics["text_to_image/recall@1"]
    assert figures.directions["new/old"]["text_to_image"] == figures.directions["old/old"]["text_to_image"]
    assert figures.recall["new/old"].mean > 0.5 * figures.recall["old/old"].mean
    assert figures.to_json()["advice"] == figures.advice


def test_without_old_pictures_there_is_nothing_to_compare_with(tmp_path):
    model = base(tmp_path)
    done = extend(model, recipe(tmp_path, ["image"]), replace="image", output=tmp_path / "grown")
    assert done.replacement is None
    assert set(done.result.metrics) == set(evaluate(*both(tmp_path, done)).metrics)


def both(folder, done):
    """Embeddings and links of the dev split, as the grown model has them."""
    from lightcrl.features import Features, FeatureStore
    from lightcrl.features.embed import embed_split

    stores = {name: FeatureStore(next((folder / "features").glob(f"{name}-*"))) for name in ("image", "text")}
    features = Features(stores)
    return embed_split(load_checkpoint(done.folder).method, features, features.split("dev"))


@pytest.mark.parametrize(("most", "views"), [(45, ["image, view 1", "image, view 2"]), (44, [])])
def test_a_new_encoder_sees_as_many_views_of_its_training_pictures_as_in_a_run(tmp_path, monkeypatch, most, views):
    monkeypatch.setattr("lightcrl.features.views.AUTO_ITEMS", most)
    events = []
    seen = {"kind": "image", "model": str(tiny.vit(tmp_path / "vit"))}
    extend(
        base(tmp_path),
        recipe(tmp_path, partners=None, encoders={"image": seen}),
        replace="image",
        output=tmp_path / "grown",
        tell=events.append,
    )
    encoded = [event["modality"] for event in events if event["event"] == "encoded" and event["encoded"]]
    assert encoded == ["image", *views]


@pytest.mark.parametrize("added", [False, True])
def test_figures_are_those_of_the_finished_model_which_is_corrected_for_hubs(tmp_path, added):
    model = base(tmp_path, epochs=8, hubs=True)
    new = {"audio": encoder("audio")} if added else {"image": encoder("image") | {"options": {"grid": 3}}}
    wanted = recipe(tmp_path, partners=None, encoders=new, training={"epochs": 4})
    done = extend(model, wanted, replace=None if added else "image", output=tmp_path / "grown")
    grown = load_checkpoint(tmp_path / "grown").method
    assert grown.hubs is not None
    encoders = {name: new.get(name) or encoder(name) for name in grown.modalities}
    whole = {"name": "grown", "data": DATA, "encoders": encoders, "features": {"folder": str(tmp_path / "features")}}
    features, _, _ = prepare(make_recipe(whole))
    vectors, links = embed_split(grown, features, features.split("dev"))
    metrics = {name: value for name, value in Retrieval(links)(vectors).metrics.items() if name in DIRECTIONS[added]}
    assert metrics == pytest.approx({name: done.result.metrics[name] for name in DIRECTIONS[added]}, abs=1e-6)
