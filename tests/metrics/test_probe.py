"""The linear probe: the optimum of its loss, a strength that test has no say in, and class folders."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lightcrl.data.synthetic import write_class_folder
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.errors import DataError, ModalityError, ShapeError
from lightcrl.features.spec import FeaturesSpec
from lightcrl.metrics.probe import STRENGTHS, choose_strength, evaluate, fit, hold_out, right, scores, trained
from lightcrl.tasks.base import Setting
from lightcrl.tasks.linear_probe import LinearProbeSpec, LinearProbeTask
from samples import randn

CLASSES = 3


def blobs(count: int, seed: int, spread: float = 1.5, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [count, dim] around three corners, and their labels; nearer corners of larger `spread` overlap."""
    labels = torch.arange(count) % CLASSES
    return torch.eye(dim, dtype=torch.float64)[labels] * 2 + spread * randn(count, dim, seed=seed).double(), labels


# --- the fit


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_fit_is_that_of_scikit_learn(strength):
    from sklearn.linear_model import LogisticRegression

    vectors, labels = blobs(90, 0)
    reference = LogisticRegression(C=1 / (len(labels) * strength), tol=1e-10, max_iter=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its next versions will call things
        wanted = torch.from_numpy(reference.fit(vectors.numpy(), labels.numpy()).predict_proba(vectors.numpy()))
    found = scores(vectors, fit(vectors, labels, CLASSES, strength)).softmax(1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_gradient_of_the_loss_vanishes_at_the_fit_and_biases_are_not_penalised():
    vectors, labels = blobs(60, 1)
    vectors = vectors + 3
    weights = fit(vectors, labels, CLASSES, 0.05)
    error = scores(vectors, weights).softmax(1) - torch.nn.functional.one_hot(labels, CLASSES)
    gradient = torch.cat([vectors.T @ error / 60 + 0.05 * weights[:-1], error.mean(0, keepdim=True)])
    assert gradient.abs().max() < 1e-6
    # So strong that only the biases are left: they say how often each class is there.
    labels = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)
    alone = scores(vectors, fit(vectors, labels, CLASSES, 1e6)).softmax(1)
    torch.testing.assert_close(alone[0], torch.tensor([30, 20, 10]).double() / 60, atol=1e-4, rtol=0)


def test_the_fit_does_not_depend_on_where_it_starts():
    vectors, labels = blobs(60, 2)
    start = randn(6, CLASSES).double()
    # What is added to all biases alike changes nothing.
    one, other = (scores(vectors, fit(vectors, labels, CLASSES, 0.1, at)).softmax(1) for at in (start, None))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert torch.equal(start, randn(6, CLASSES).double())


# --- the strength


def test_the_held_part_is_a_fifth_of_each_class_and_never_all_of_it():
    labels = np.repeat([0, 1, 2], [50, 7, 2])
    held = hold_out(labels)
    assert [int(held[labels == label].sum()) for label in range(3)] == [10, 1, 1]
    assert np.array_equal(held, hold_out(labels))
    assert not np.array_equal(held, hold_out(labels, seed=1))
    assert hold_out(labels, share=0.99)[labels == 2].sum() == 1
    with pytest.raises(DataError, match="class 1 has 1 item in train; expected at least two"):
        hold_out(np.array([0, 0, 1]))


def test_the_strength_chosen_has_the_least_loss_on_the_held_part(monkeypatch):
    monkeypatch.setattr("lightcrl.metrics.probe.PATIENCE", len(STRENGTHS))
    vectors, labels = blobs(60, 3, spread=1.2)
    held = torch.from_numpy(hold_out(labels.numpy()))
    losses = [
        torch.nn.functional.cross_entropy(
            scores(vectors[held], fit(vectors[~held], labels[~held], CLASSES, strength)), labels[held]
        ).item()
        for strength in STRENGTHS
    ]
    chosen = choose_strength(vectors, labels, CLASSES)
    assert chosen == STRENGTHS[int(np.argmin(losses))]
    assert STRENGTHS[0] > chosen > STRENGTHS[-1]


def test_noise_wants_a_strong_penalty_and_clear_classes_a_weak_one():
    clear, labels = blobs(120, 4, spread=0.2)
    noise = randn(120, 40, seed=5).double()
    assert choose_strength(noise, labels, CLASSES) >= 0.1 > 1e-3 >= choose_strength(clear, labels, CLASSES)


def test_test_items_have_no_say_in_the_strength_or_in_each_others_figures():
    (train, labels), (test, wanted) = blobs(60, 6), blobs(30, 7)
    both = evaluate({"a": train}, labels.numpy(), {"a": test}, wanted.numpy(), epochs=())
    half = evaluate({"a": train}, labels.numpy(), {"a": test[:15]}, wanted[:15].numpy(), epochs=())
    rest = evaluate({"a": train}, labels.numpy(), {"a": test[15:]}, wanted[15:].numpy(), epochs=())
    assert both.strengths == half.strengths == rest.strengths
    assert both.metrics["a/top1"] == pytest.approx((half.metrics["a/top1"] + rest.metrics["a/top1"]) / 2)


# --- figures


def test_all_of_train_is_fitted_with_the_strength_chosen():
    (train, labels), (test, wanted) = blobs(60, 8), blobs(60, 9)
    result = evaluate({"a": train}, labels.numpy(), {"a": test}, wanted.numpy(), epochs=())
    mean, scale = train.mean(0), train.sub(train.mean(0)).square().mean().sqrt()
    weights = fit((train - mean) / scale, labels, CLASSES, result.strengths["a"])
    accuracy = (scores((test - mean) / scale, weights).argmax(1) == wanted).double().mean()
    assert result.metrics["a/top1"] == pytest.approx(accuracy.item())
    assert result.counts == {"train": 60, "held": 12, "test": 60, "classes": 3}


def test_place_and_scale_of_a_space_do_not_matter_nor_do_other_spaces():
    (train, labels), (test, wanted) = blobs(60, 10), blobs(60, 11)
    spaces = {"a": (train, test), "moved": (train * 1000 + 70, test * 1000 + 70), "noise": (randn(60, 3), randn(60, 3))}
    given = ({name: pair[side] for name, pair in spaces.items()} for side in (0, 1))
    found = evaluate(next(given), labels.numpy(), next(given), wanted.numpy(), epochs=(5,)).metrics
    alone = evaluate({"a": train}, labels.numpy(), {"a": test}, wanted.numpy(), epochs=(5,)).metrics
    for name in ("top1", "epoch5/top1"):
        assert found[f"moved/{name}"] == found[f"a/{name}"] == alone[f"a/{name}"]
    assert found["noise/top1"] < 0.55 < found["a/top1"]


def test_ties_count_as_if_broken_at_random():
    found = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0 + 1e-8, 1.0], [0.0, 1.0, 0.0]])
    assert right(found, torch.tensor([0, 0, 2, 0])).tolist() == pytest.approx([1 / 2, 1, 1 / 3, 0])


def test_chance_is_the_share_in_test_of_trains_most_frequent_classes():
    train, test = np.repeat([0, 1, 2], [6, 6, 3]), np.array([0, 1, 1, 2])
    same = torch.ones(1, 4)
    result = evaluate({"a": same.repeat(15, 1)}, train, {"a": same.repeat(4, 1)}, test, epochs=())
    assert result.chance == {"a/top1": pytest.approx(3 / 8)}
    assert result.metrics == {"a/top1": pytest.approx(3 / 8)}


# --- the paper's protocol


def test_epochs_are_those_of_adamw_spelt_out(monkeypatch):
    monkeypatch.setattr("lightcrl.metrics.probe.BATCH", 7)
    vectors, labels = blobs(20, 12)
    layer = torch.nn.Linear(5, CLASSES)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=1e-3)
    generator, wanted = torch.Generator().manual_seed(3), []
    for _ in range(4):
        order = torch.randperm(20, generator=generator)
        for start in range(0, 20, 7):
            batch = order[start : start + 7]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(vectors[batch].float()), labels[batch]).backward()
            optimizer.step()
        wanted.append(torch.cat([layer.weight.detach().T, layer.bias.detach()[None]]))
    found = dict(trained(vectors.float(), labels, CLASSES, (2, 4), seed=3))
    assert found.keys() == {2, 4}
    torch.testing.assert_close(found[2], wanted[1])
    torch.testing.assert_close(found[4], wanted[3])


def test_longer_training_comes_nearer_to_the_optimum():
    vectors, labels = blobs(90, 13)
    losses = [
        torch.nn.functional.cross_entropy(scores(vectors.float(), weights), labels).item()
        for _, weights in trained(vectors.float(), labels, CLASSES)
    ]
    assert losses == sorted(losses, reverse=True)
    result = evaluate({"a": vectors}, labels.numpy(), {"a": vectors}, labels.numpy())
    assert list(result.metrics) == ["a/top1", *(f"a/epoch{epoch}/top1" for epoch in (20, 40, 60, 80, 100))]


# --- what cannot be measured


@pytest.mark.parametrize(
    ("labels", "wanted", "error", "message"),
    [
        ([0, 0, 0, 0], [0], DataError, "all 4 items of train are of one class"),
        ([0, 0, 1, 1], [2], ShapeError, "classes up to 2 in test"),
        ([0, 0, 2, 2], [0], ShapeError, r"classes up to 0 in test, \[2, 0, 2\] items by class in train"),
        ([0, 1], [0], ShapeError, "a: 4 and 1 vectors with 2 and 1 labels"),
        ([0, 0, 1, 1], [], ShapeError, "a: 4 and 1 vectors with 4 and 0 labels"),
        ([0, 1, 1, 1], [0], DataError, "class 0 has 1 item in train"),
    ],
)
def test_what_cannot_be_probed_is_refused(labels, wanted, error, message):
    train, test = (np.array(found, dtype=np.int64) for found in (labels, wanted))
    with pytest.raises(error, match=message):
        evaluate({"a": randn(4, 3)}, train, {"a": randn(1, 3)}, test)


# --- class folders


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(EncoderSpec(kind="image", model="builtin"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures by ground, six of each to fit and three to measure on."""
    folder = tmp_path_factory.mktemp("grounds")
    write_class_folder(folder / "train", "background", 6, seed=1)
    write_class_folder(folder / "test", "background", 3, seed=2)
    return folder


def prepare(folder: Path, encoder, data: Path | str, test: Path | str | None = None, **given) -> LinearProbeTask:
    spec = LinearProbeSpec(data=str(data), test=None if test is None else str(test), **given)
    return LinearProbeTask.prepare(spec, Setting({"image": encoder}, FeaturesSpec(folder=str(folder / "features"))))


def test_a_probe_on_what_the_encoder_sees_is_right_and_names_the_raw_space(tmp_path, encoder, folders):
    probe = prepare(tmp_path, encoder, folders / "train", folders / "test")
    result = probe.evaluate({})
    classes = len(probe.train.names)
    assert result.counts["train"] == 6 * classes
    assert result.counts["test"] == 3 * classes
    assert result.metrics["raw image/top1"] > 0.9 > 2 / classes == 2 * result.chance["raw image/top1"]
    # The encoder's own vectors, not those of a neighbour: of one file, by hand.
    file = folders / "test" / probe.test.names[0] / "000.png"
    own = encoder.own_vectors(encoder.encode([encoder.prepare(file)]))
    rows = np.flatnonzero(probe.test.labels == 0)
    assert (probe.own[1][rows] - own).norm(dim=1).min() < 1e-2 * own.norm()


def test_split_folders_two_folders_and_patterns_are_the_same_probe(tmp_path, encoder, folders):
    for split, start in (("train", "fit"), ("test", "new")):
        for file in (folders / split).rglob("*.png"):
            place = tmp_path / "one" / file.parent.name / f"{start}-{file.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    two = prepare(tmp_path, encoder, folders / "train", folders / "test").evaluate({}).metrics
    assert prepare(tmp_path, encoder, folders).evaluate({}).metrics == two
    assert prepare(tmp_path, encoder, tmp_path / "one", files="fit-*", test_files="new-*").evaluate({}).metrics == two


def test_classes_of_test_keep_the_numbers_of_train(tmp_path, encoder, folders):
    shutil.copytree(folders / "test", tmp_path / "some")
    names = sorted(entry.name for entry in (tmp_path / "some").iterdir())
    shutil.rmtree(tmp_path / "some" / names[0])
    probe = prepare(tmp_path, encoder, folders / "train", tmp_path / "some")
    assert sorted(set(probe.test.labels.tolist())) == list(range(1, len(names)))
    assert probe.evaluate({}).metrics["raw image/top1"] > 0.9


class Untouched:
    """An encoder that must not be asked."""

    kind = "image"


def test_mistakes_are_told_before_anything_is_encoded(tmp_path, folders):
    for name in ("a", "b", "c"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "few" / name / f"{number}.png").write_bytes(b"")
    (tmp_path / "one/a").mkdir(parents=True)
    (tmp_path / "one/a/1.png").write_bytes(b"")
    few = tmp_path / "few"
    cases = [
        ((few,), {}, r"has no split folder; expected the folders train and test \(or dev\). Else give another folder"),
        ((few, few), {}, "9 of 9 files of test are in train too"),
        ((few,), {"test_files": "0*"}, "3 of 3 files of test are in train too"),
        (
            (few,),
            {"files": "0*", "test_files": "1*"},
            r"too few files in a \(1\), b \(1\), c \(1\); expected at least 2",
        ),
        ((folders / "train", few), {}, "has classes that .*train lacks: a, b, c"),
        ((tmp_path / "one", few), {}, "found files in 1 of the folders a; expected at least two classes"),
        ((few, tmp_path / "absent"), {}, "absent is not there"),
        ((few, few), {"modality": "sound"}, "no modality 'sound'; there are image"),
    ]
    for places, given, message in cases:
        with pytest.raises((DataError, ModalityError), match=message):
            prepare(tmp_path, Untouched(), *places, **given)


def test_a_model_of_texts_alone_has_nothing_to_probe(tmp_path, folders):
    encoder = Untouched()
    encoder.kind = "text"
    with pytest.raises(ModalityError, match="class folders need a modality of pictures or sounds; there are text"):
        LinearProbeTask.prepare(
            LinearProbeSpec(data=str(folders)), Setting({"text": encoder}, FeaturesSpec(folder=str(tmp_path)))
        )
