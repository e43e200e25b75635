"""Views: made from an item's content alone, encoded beside the plain items, seen by training and by nothing else."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import Dataset, file_item
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.views import View
from lightcrl.errors import EncoderError, RecipeError
from lightcrl.features import Features, FeatureStore
from lightcrl.features.embed import embed_split
from lightcrl.features.extract import encode_each, encode_views
from lightcrl.features.spec import FeaturesSpec
from lightcrl.features.store import write_manifest, write_shard
from lightcrl.features.views import ViewedStore, settled_views, view_addresses
from lightcrl.methods import METHODS
from lightcrl.methods.base import Step
from lightcrl.methods.spec import make_method
from lightcrl.recipe import make_recipe
from lightcrl.training import loop as training
from lightcrl.training.batches import Window, draw_views, epoch_batches
from lightcrl.training.log import read_log
from lightcrl.training.loop import train
from lightcrl.training.plan import make_plan, make_window
from lightcrl.training.spec import TrainingSpec
from samples import make_features, randn
from shelves import make_embedder, picture

IMAGE = EncoderSpec(kind="image", model="builtin", views=3)
AUDIO = EncoderSpec(kind="audio", model="builtin", views=2)


def pixels(view: View) -> np.ndarray:
    return np.asarray(view())


def test_a_view_is_a_part_of_the_picture_that_its_content_and_number_decide(tmp_path):
    path = picture(tmp_path / "a.png", 1)
    whole = np.asarray(Image.open(path))
    views = [pixels(View(path, number, IMAGE)) for number in range(1, 9)]
    areas = [view.shape[0] * view.shape[1] / (48 * 48) for view in views]
    assert 0.3 < min(areas) < 0.6 < max(areas) <= 1
    assert len({view.tobytes() for view in views}) == 8
    windows = [np.lib.stride_tricks.sliding_window_view(whole, view.shape).reshape(-1, *view.shape) for view in views]
    plain = [(window == view).all((1, 2, 3)).any() for window, view in zip(windows, views, strict=True)]
    mirrored = [(window == view[:, ::-1]).all((1, 2, 3)).any() for window, view in zip(windows, views, strict=True)]
    assert [one != other for one, other in zip(plain, mirrored, strict=True)] == [True] * 8
    assert 0 < sum(mirrored) < 8
    # The same file elsewhere, as bytes, or in another process has the same views; another picture has others.
    copy = shutil.copy(path, tmp_path / "b.png")
    for raw in (copy, path.read_bytes(), lambda: path):
        assert np.array_equal(pixels(View(raw, 3, IMAGE)), views[2])
    assert np.array_equal(pixels(pickle.loads(pickle.dumps(View(path, 3, IMAGE)))), views[2])
    assert pixels(View(picture(tmp_path / "c.png", 2), 3, IMAGE)).shape != views[2].shape
    still = EncoderSpec(kind="image", model="builtin", views={"count": 2, "crop": 1, "flip": False})
    assert np.array_equal(pixels(View(path, 1, still)), whole)


def test_a_view_of_a_sound_is_a_stretch_at_another_level():
    samples = randn(4000, seed=3).numpy() * 0.2
    lengths, gains = [], []
    for number in range(1, 13):
        stretch, rate = View((samples, 16_000), number, AUDIO)()
        assert rate == 16_000
        at = [
            n
            for n in range(4000 - len(stretch) + 1)
            if abs(samples[n] * stretch[1] - samples[n + 1] * stretch[0]) < 1e-7
        ]
        start = next(n for n in at if np.corrcoef(samples[n : n + len(stretch)], stretch)[0, 1] > 0.9999)
        lengths.append(len(stretch))
        gains.append(float(np.abs(stretch).sum() / np.abs(samples[start : start + len(stretch)]).sum()))
        assert np.abs(stretch).max() <= 1
    assert 0.35 * 4000 <= min(lengths) < 2500 < max(lengths)
    assert 0.5 <= min(gains) < 0.9 < 1.1 < max(gains) <= 2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Dataset:
    """Seven pictures, the fourth of them broken; the last two are dev, and the second is in both splits."""
    root = tmp_path_factory.mktemp("pictures")
    paths = [picture(root / f"{number}.png", number) for number in range(7)]
    paths[3].write_bytes(b"broken")
    links = np.array([[n, n] for n in range(7)] + [[1, 6]])
    return Dataset(
        groups=[f"g{n}" for n in range(7)],
        splits=["train"] * 5 + ["dev"] * 2,
        items={"image": [file_item(path, root) for path in paths]},
        links={"image": links[np.argsort(links[:, 0], kind="stable")]},
    )


def encode(data: Dataset, folder: Path, views: int) -> tuple[ViewedStore | FeatureStore, dict[str, tuple[int, int]]]:
    """Encode a data set with views; return the store, and numbers of encoded and kept items by name."""
    spec = EncoderSpec(kind="image", model="builtin", views=views)
    encoders, features, told = {"image": load_encoder(spec)}, FeaturesSpec(folder=str(folder)), []
    stores, _ = encode_each(encoders, data, features, told.append, max_rejected=0.5)
    viewed = encode_views(stores, encoders, {"image": spec}, data, features, told.append, max_rejected=0.5)
    done = {event["modality"]: (event["encoded"], event["kept"]) for event in told if event["event"] == "encoded"}
    store = viewed["image"]
    assert isinstance(store, ViewedStore if views > 1 else FeatureStore)
    return store, done


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_more_views_encode_only_what_is_new(pictures, tmp_path):
    _, done = encode(pictures, tmp_path / "f", 1)
    assert done == {"image": (6, 0)}
    before = contents(tmp_path / "f")
    _, done = encode(pictures, tmp_path / "f", 2)
    assert done == {"image": (0, 6), "image, view 1": (4, 0)}  # of the training pictures, of which one is broken
    store, done = encode(pictures, tmp_path / "f", 3)
    assert done == {"image": (0, 6), "image, view 1": (0, 4), "image, view 2": (4, 0)}
    after = contents(tmp_path / "f")
    assert before == {name: after[name] for name in before}
    # A killed extraction of a view goes on with what it has, and makes the same bytes.
    folder = store.views[1].folder
    (folder / "manifest.json").unlink(), (folder / "shard-00000.json").unlink()
    encode(pictures, tmp_path / "f", 3)
    assert contents(tmp_path / "f") == after


def test_the_store_has_the_plain_items_and_their_views_behind_them(pictures, tmp_path):
    store, _ = encode(pictures, tmp_path, 3)
    assert (store.rows, len(store.metadata()), store.memory) == (6, 7, False)
    # Rows 3 to 5 are pictures 4 to 6; pictures 5 and 6 are not in training.
    assert store.addresses.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 4, 5], [10, 11, 12, 13, 4, 5]]
    encoder = load_encoder(IMAGE)
    for number, row in ((1, 7), (2, 13)):
        item = pictures.items["image"][{7: 1, 13: 4}[row]]
        expected = encoder.encode([encoder.prepare(View(item.raw, number, IMAGE)())]).values.half()
        assert torch.equal(store.gather(np.array([row])).values, expected)
    rows = np.array([12, 0, 7, 7, 4, 13])
    every = [each.gather(np.arange(each.rows)).values for each in store.stores]
    for held in (store, store.in_memory()):
        assert torch.equal(held.gather(rows).values, torch.cat(every)[rows])
        assert torch.equal(held.read(rows).gather(rows).values, torch.cat(every)[rows])
        assert torch.equal(held.gather(np.array([3, 1])).values, every[0][[3, 1]])


def ragged(seed: int, count: int) -> Sequence[torch.Tensor]:
    return [randn(1 + (n + seed) % 3, 5, seed=seed * 100 + n) for n in range(count)]


@pytest.fixture(scope="module")
def viewed(tmp_path_factory) -> Features:
    """Forty groups, ten of them dev, whose pictures have two further views of other lengths."""
    folder = tmp_path_factory.mktemp("viewed")
    owners = [f"{'dev' if group % 4 == 0 else 'train'}:g{group}" for group in range(40)]
    data = make_features(folder, {"image": ragged(0, 40), "text": ragged(9, 40)}, {"image": owners, "text": owners})
    chosen, views = [n for n in range(40) if n % 4], []
    for number in (1, 2):
        place = folder / f"view{number}"
        place.mkdir()
        lines = {
            "row": list(range(30)),
            "item": [f"image{n}+{number:016}" for n in chosen],
            "group": [f"g{n}" for n in chosen],
            "split": ["train"] * 30,
            "source": ["image"] * 30,
        }
        tokens = [each.numpy() for each in ragged(number, 30)]
        shard = write_shard(place, 0, f"view{number}", tokens, lines, [], 5, "float32")
        write_manifest(place, f"view{number}", {"dim": 5, "slots": 1, "dtype": "float32"}, [shard])
        views.append(FeatureStore(place))
    plain = data.store("image")
    assert isinstance(plain, FeatureStore)
    return data.replace_stores({"image": ViewedStore(plain, tuple(views))})


def plain(data: Features) -> Features:
    return data.replace_stores({"image": data.store("image").plain})


def test_items_of_unequal_length_come_padded_whatever_their_store(viewed):
    store = viewed.store("image")
    rows = store.addresses[[2, 0, 1], [1, 2, 3]]
    assert rows.tolist() == [70, 2, 42]
    for held in (store, store.in_memory()):
        tokens = held.gather(rows)
        expected = [ragged(2, 30)[0], ragged(0, 40)[2], ragged(1, 30)[2]]
        assert [torch.equal(*pair) for pair in zip(tokens.ragged(), expected, strict=True)] == [True] * 3


def test_views_are_drawn_alike_and_other_ones_in_the_next_epoch(viewed):
    split, views = viewed.split("train"), view_addresses(viewed.stores)
    assert list(views) == ["image"]

    def drawn(seed: int, epoch: int) -> np.ndarray:
        batches = list(epoch_batches(split, 8, 1, seed, epoch))
        with_views = list(draw_views(batches, views, seed, epoch))
        for batch, other in zip(batches, with_views, strict=True):
            assert np.array_equal(batch.rows["text"], other.rows["text"])
            assert (views["image"][:, batch.rows["image"]] == other.rows["image"]).any(0).all()
        return np.concatenate([batch.rows["image"] for batch in with_views])

    counts = sum(np.histogram(drawn(0, epoch), [0, 40, 70, 100])[0] for epoch in range(40))
    assert (abs(counts / 1200 - 1 / 3) < 0.05).all()
    assert np.array_equal(drawn(1, 2), drawn(1, 2))
    assert not np.array_equal(np.sort(drawn(1, 2)), np.sort(drawn(1, 3)))
    # Without views a batch stays as it is, and draws of groups and items do not change.
    batches = list(epoch_batches(split, 8, 1, 0, 0))
    assert all(one is other for one, other in zip(batches, draw_views(batches, {}, 0, 0), strict=True))


def fit(data: Features, folder: Path, name: str = "linear", **given):
    settings = {"epochs": 4, "batch_size": 8, "tensorboard": False, "precision": "float32", "learning_rate": 0.01}
    spec = TrainingSpec(**{**settings, **given.pop("training", {})})
    method = make_method(name, data.specs, {"dim": 4 if name == "linear" else 48}, "info_nce")
    encoders = {name: EncoderSpec(kind="text", model="builtin") for name in data.stores}
    marks = dict.fromkeys(data.stores, "f")
    checkpoint = Checkpoint(method, name=name, loss="info_nce", encoders=encoders, fingerprints=marks)
    train(checkpoint, data, spec, folder, **given)
    return [event["loss"] for event in read_log(folder) if event["event"] == "step"], checkpoint.method


@pytest.mark.parametrize("memory", [4.0, 1e-6])
def test_training_draws_views_and_resumes_exactly_and_evaluation_has_none(viewed, tmp_path, monkeypatch, memory):
    limit = {"training": {"memory": memory}}
    whole, method = fit(viewed, tmp_path / "whole", **limit)
    without, _ = fit(plain(viewed), tmp_path / "plain", **limit)
    assert len(whole) == len(without)
    assert whole != without
    for split in ("train", "dev"):
        with_views, _ = embed_split(method, viewed, viewed.split(split))
        expected, _ = embed_split(method, plain(viewed), viewed.split(split))
        assert all(torch.equal(with_views[name], expected[name]) for name in expected)

    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)

    def stop(event):
        if event.get("step") == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(viewed, tmp_path / "stopped", report=stop, **limit)
    resumed, again = fit(viewed, tmp_path / "stopped", **limit)
    assert resumed == whole
    assert all(torch.equal(leaf, again.state_dict()[name]) for name, leaf in method.state_dict().items())


@pytest.mark.parametrize("memory", [4.0, 1e-6])
def test_a_closed_form_sees_every_item_in_every_view_once(viewed, tmp_path, memory):
    """One step with all views and as many copies of the texts has the same covariances, and so the same solution."""
    _, method = fit(viewed, tmp_path / "csa", "csa", training={"memory": memory})
    store, split = viewed.store("image"), viewed.split("train")
    rows, groups = split.members["image"].rows, torch.from_numpy(split.members["image"].groups)
    assert np.array_equal(groups, split.members["text"].groups)
    tokens = {
        "image": store.gather(store.addresses[:, rows].ravel()),
        "text": viewed.store("text").gather(np.tile(split.members["text"].rows, 3)),
    }
    expected = make_method("csa", viewed.specs, {"dim": 48}, "info_nce")
    for name, stem in expected.stems.items():
        stem.mean.copy_(method.stem(name).mean)
        stem.deviation.copy_(method.stem(name).deviation)
    expected.solve([Step(tokens, dict.fromkeys(tokens, groups.repeat(3)))])
    everything = {name: viewed.store(name).gather(np.arange(40)) for name in tokens}
    solved, wanted = ({name: m(name, everything[name]) for name in tokens} for m in (method, expected))
    for pair in (("image", "image"), ("text", "text"), ("image", "text")):
        ours, theirs = (vectors[pair[0]] @ vectors[pair[1]].T for vectors in (solved, wanted))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    _, without = fit(plain(viewed), tmp_path / "plain", "csa", training={"memory": memory})
    assert (
        without("image", everything["image"]) @ solved["text"].T - solved["image"] @ solved["text"].T
    ).abs().max() > 0.05


def test_the_closed_part_of_an_encoder_counts_more_the_more_views_it_sees(viewed, tmp_path):
    """F / (1.5 F + G / V): five features, 30 groups, three views or one."""
    shares = [
        float(fit(data, tmp_path / str(views), "dfe")[1].share) for data, views in ((viewed, 3), (plain(viewed), 1))
    ]
    assert shares == pytest.approx([5 / (7.5 + 10), 5 / (7.5 + 30)])


def test_anchors_are_plain_items(viewed, tmp_path):
    anchors, expected = (
        fit(data, tmp_path / name, "asif")[1].anchors for name, data in (("viewed", viewed), ("plain", plain(viewed)))
    )
    assert all(torch.equal(anchors[name], expected[name]) for name in expected)


def test_a_window_counts_the_bytes_of_one_view(viewed):
    split = viewed.split("train")
    plan = make_plan(TrainingSpec(batch_size=8).suited(METHODS.load("linear")), split)
    windows = [make_window(data, split, plan, 40_000.0, False) for data in (viewed, plain(viewed))]
    assert windows[0] == windows[1] == Window(1, 15)


def recipe(tuning: bool = False, kind: str = "image", **table) -> None:
    encoders = {"one": {"kind": kind, "model": "builtin", **table}, "text": {"kind": "text", "model": "builtin"}}
    made = {"name": "a", "data": {"source": "synthetic"}, "encoders": encoders}
    made |= {"tuning": {"one": {}}} if tuning else {}
    return make_recipe(made).encoders["one"].views


def test_a_recipe_takes_a_number_or_a_table_and_says_what_has_no_views():
    assert recipe(views=3).model_dump() == {"count": 3, "crop": IMAGE.views.crop, "flip": True}
    assert recipe(views={"count": 2, "flip": False}).flip is False
    with pytest.raises(RecipeError, match=r"encoders\.one: items of kind 'text' have no views; expected pictures or"):
        recipe(kind="text", views=2)
    with pytest.raises(RecipeError, match=r"encoders\.one\.views\.count: .* greater than 0 or 'auto', found 0"):
        recipe(views=0)
    with pytest.raises(RecipeError, match=r"unknown key 'encoders\.one\.views\.cropp'. Did you mean 'crop'"):
        recipe(views={"count": 2, "cropp": 1})
    with pytest.raises(RecipeError, match=r"encoders\.one\.views is 2, but the encoder is trained"):
        recipe(views=2, tuning=True)
    assert "views" not in EncoderSpec(kind="image", model="builtin").model_dump(mode="json")


@pytest.mark.parametrize(
    ("training", "table", "tuned", "count"),
    [
        (2, {}, (), 3),
        (20_000, {}, (), 3),
        (20_001, {}, (), 1),
        (1_000, {"kind": "audio"}, (), 1),
        (1_000, {"model": "builtin"}, (), 1),
        (1_000, {"model": "builtin:image"}, (), 1),
        (1_000, {"model": "my_lab.scans:ScanNet"}, (), 1),
        (1_000, {}, ("one",), 1),
        (20_001, {"views": 2}, (), 2),
        (1_000, {"views": 1}, (), 1),
    ],
)
def test_the_number_of_views_follows_the_training_pictures(training, table, tuned, count):
    """Links count once for each picture, and those of the five hundred of dev not at all."""
    total = training + 500
    splits = ["train" if number < training else "dev" for number in range(total)]
    links = np.stack([np.arange(total).repeat(2), np.repeat(np.arange(total), 2)], 1)
    dataset = Dataset([str(number) for number in range(total)], splits, {"one": [None] * total}, {"one": links})
    spec = EncoderSpec(**{"kind": "image", "model": "a/model", **table})
    assert settled_views({"one": spec}, dataset, tuned)["one"].views.count == count


def test_an_embedder_gives_the_mean_of_views(tmp_path):
    embedder, paths = make_embedder(), [picture(tmp_path / f"{n}.png", n) for n in range(3)]
    made = embedder.encode(paths, "image", views=3)
    views = [[View(path, number, embedder.checkpoint.encoders["image"])() for path in paths] for number in (1, 2)]
    total = sum(embedder.encode(items, "image") for items in (paths, *views))
    np.testing.assert_allclose(made, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-6)
    assert (np.abs(made - embedder.encode(paths, "image")).max(1) > 1e-3).all()
    once = io.BufferedReader(_Pipe(paths[0].read_bytes()))
    np.testing.assert_array_equal(embedder.encode([once], "image", views=3)[0], made[0])
    mirrored = np.asarray(ImageOps.mirror(Image.open(paths[0])))
    assert embedder.encode([mirrored], "image", views=2).shape == (1, 16)
    with pytest.raises(EncoderError, match="items of kind 'text' have no views"):
        embedder.encode(["a dog"], "text", views=2)
    with pytest.raises(EncoderError, match="views = 0; expected 1 or more"):
        embedder.encode(paths, "image", views=0)


class _Pipe(io.RawIOBase):
    """A stream that can be read once."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.inner.readinto(buffer)
