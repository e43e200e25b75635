"""What is added learns; what was there stays, bit for bit, through training, saving, loading and export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lightcrl
from growing import LARGER, base, encoder, items, recipe, write_wave
from lightcrl.checkpoint import load_checkpoint
from lightcrl.errors import CheckpointError, DataError, GrowthError, StaleStoreError
from lightcrl.export import ExportedEmbedder, export_onnx
from lightcrl.features import FeatureStore
from lightcrl.growth.extend import Extended, extend, remove
from lightcrl.growth.proof import prove, same_bits
from lightcrl.lineage import Line, change, identity
from lightcrl.methods import METHODS
from lightcrl.methods.extension import NAME
from lightcrl.training import loop as training
from lightcrl.training.log import read_log

GROWING = [name for name in METHODS if not METHODS.load(name).rigid]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("growth")


@pytest.fixture(scope="module")
def model(place) -> Path:
    return base(place)


@pytest.fixture(scope="module")
def grown(place, model) -> Extended:
    """The model with sounds; tests leave its folder as it is."""
    return extend(model, recipe(place), output=place / "grown")


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_log(folder / "training") if event["event"] == "step"]


def embedded(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    embedder = lightcrl.load(folder)
    return {name: embedder.encode(items(name), name) for name in names}


@pytest.mark.parametrize("method", GROWING)
def test_every_method_takes_a_modality_and_keeps_what_it_had(place, tmp_path, method):
    folder = base(place, method=method)
    before = embedded(folder, ["image", "text"])
    done = extend(folder, recipe(place, training={"loss": "sigmoid" if method == "dfe" else "auto"}), output=tmp_path)
    after = embedded(tmp_path, ["image", "text", "audio"])
    for name, vectors in before.items():
        assert vectors.tobytes() == after[name].tobytes()
    np.testing.assert_allclose(np.linalg.norm(after["audio"], axis=1), 1, atol=1e-5)
    assert np.ptp(after["audio"], axis=0).max() > 1e-3
    grown, old = load_checkpoint(tmp_path), load_checkpoint(folder)
    fresh = grown.method.leaves_of("audio")
    assert grown.method.state_dict().keys() - old.method.state_dict().keys() == fresh
    assert done.proof.leaves == len(old.method.state_dict())
    assert done.proof.modalities == ("image", "text")
    assert grown.loss == old.loss
    assert identity(grown.lineage) == [{"from": old.digest, "added": ["audio"]}]


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(GROWING)))
def test_a_method_that_cannot_grow_says_why(place, tmp_path, method):
    folder = base(place, method=method)
    with pytest.raises(GrowthError, match=r"ASIF cannot be extended: its weights are the training pairs themselves"):
        extend(folder, recipe(place), output=tmp_path)
    assert not (tmp_path / "best").exists()


def test_it_learns_and_pairs_emerge(tmp_path):
    """Sounds are added through captions alone; pictures they have never met."""
    folder = base(tmp_path, data=LARGER, epochs=10)
    wanted = recipe(tmp_path, data=LARGER, training={"epochs": 10}, evaluation={"others": ["image"]})
    done = extend(folder, wanted, output=tmp_path / "grown")
    metrics, chance = done.result.metrics, done.result.chance
    assert done.emergent == ("audio_to_image", "image_to_audio")
    assert set(done.emergent) < {name.partition("/")[0] for name in metrics}
    assert "image_to_text/recall@1" not in metrics
    for directions, times in ((("audio_to_text", "text_to_audio"), 10), (done.emergent, 8)):
        recall, blind = (np.mean([found[f"{name}/recall@1"] for name in directions]) for found in (metrics, chance))
        assert recall > times * blind
    assert losses(tmp_path / "grown")[-1] < losses(tmp_path / "grown")[0]


def test_only_what_is_new_is_trained(grown):
    method = load_checkpoint(grown.folder).method
    audio = sum(p.numel() for name, p in method.named_parameters() if name in method.leaves_of("audio"))
    canonical = sum(p.numel() for p in method.canonical["audio"].parameters())
    assert grown.parameters == audio - canonical + 1  # and the logit scale, which ends with the training
    start = read_log(grown.folder / "training")[0]
    assert sum(start["parameters"].values()) == grown.parameters


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_interrupted_it_goes_on_as_if_nothing_had_happened(place, model, tmp_path, monkeypatch, loss):
    wanted = recipe(place, training={"loss": loss, "epochs": 4})
    extend(model, wanted, output=tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    for stop in (1, 5):

        def tell(event, stop=stop):
            if event.get("step") == stop and event["event"] == "step":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extend(model, wanted, output=tmp_path / "stopped", tell=tell)
    extend(model, wanted, output=tmp_path / "stopped")
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    assert len(losses(tmp_path / "whole")) > 6
    one, other = (load_checkpoint(tmp_path / name) for name in ("whole", "stopped"))
    assert one.digest == other.digest


def test_done_it_is_not_done_again(place, model, grown):
    events: list = []
    again = extend(model, recipe(place), output=grown.folder, tell=events.append)
    assert not [event for event in events if event["event"] == "step"]
    assert again.to_json() == grown.to_json() == json.loads((grown.folder / "extension.json").read_text())


def test_a_folder_with_another_extension_is_refused(place, model, grown, tmp_path):
    with pytest.raises(CheckpointError, match="holds a run of other settings"):
        extend(model, recipe(place, seed=1), output=grown.folder)
    other = base(tmp_path / "other", epochs=3)
    with pytest.raises(CheckpointError, match="holds a run of other settings"):
        extend(other, recipe(place), output=grown.folder)


def test_a_fourth_and_a_fifth_and_away_again(place, model, grown, tmp_path):
    extend(grown.folder, recipe(place, ["note"], partners=["audio", "image"]), output=tmp_path / "four")
    before = embedded(model, ["image", "text"]) | embedded(grown.folder, ["audio"])
    after = embedded(tmp_path / "four", ["image", "text", "audio", "note"])
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    left = remove(remove_to(tmp_path, "four", "note"), "audio", tmp_path / "two")
    assert list(left.method.modalities) == ["image", "text"]
    original = load_checkpoint(model).method.state_dict()
    state = left.method.state_dict()
    assert state.keys() == original.keys()
    assert all(same_bits(state[leaf], original[leaf]) for leaf in original)
    assert [change(step)[0] for step in left.lineage] == ["added"] * 2 + ["removed"] * 2
    assert left.lineage[1]["from"] == load_checkpoint(grown.folder).digest


def remove_to(folder: Path, name: str, modality: str) -> Path:
    place = folder / f"{name} without {modality}"
    remove(folder / name, modality, place)
    return place


def test_several_at_once_learn_from_each_other_too(place, model, tmp_path):
    done = extend(model, recipe(place, ["audio", "note"]), output=tmp_path)
    assert done.added == ("audio", "note")
    assert {"audio_to_note/recall@1", "note_to_text/recall@1"} < done.result.metrics.keys()


def test_exports_of_old_modalities_are_the_same_to_the_bit(model, grown, tmp_path):
    found = {}
    for name, folder in (("before", model), ("after", grown.folder)):
        export_onnx(lightcrl.load(folder, device="cpu"), tmp_path / name, ["image", "text"])
        exported = ExportedEmbedder(tmp_path / name, threads=1)
        found[name] = [exported.encode(items(modality), modality) for modality in ("image", "text")]
    for before, after in zip(found["before"], found["after"], strict=True):
        assert before.tobytes() == after.tobytes()


# --- what old items come as ---


def test_a_feature_store_does_for_raw_items(tmp_path):
    model = base(tmp_path)
    extend(model, recipe(tmp_path), output=tmp_path / "raw")
    stores = {name: str(next((tmp_path / "features").glob(f"{name}-*"))) for name in ("image", "text")}
    extend(model, recipe(tmp_path, stores={"text": stores["text"]}), output=tmp_path / "stored")
    assert losses(tmp_path / "raw") == losses(tmp_path / "stored")
    wrong = recipe(tmp_path, stores={"text": stores["image"]})
    with pytest.raises(StaleStoreError, match="is of an encoder with fingerprint"):
        extend(model, wrong, output=tmp_path / "wrong")


def write_sounds(folder: Path, grown: Path) -> tuple[np.ndarray, list[str]]:
    """A table of sounds with ids of captions, and the vectors of these."""
    from lightcrl.data.synthetic.source import Synthetic

    anchors = FeatureStore(grown / "anchors" / "text")
    lines = anchors.metadata().to_pydict()
    by_group: dict[str, list[str]] = {}
    for row, group in zip(lines["row"], lines["group"], strict=True):
        by_group.setdefault(group, []).append(f"t{row}")
    with (folder / "sounds.jsonl").open("w") as stream:
        for number, row in enumerate(Synthetic({"audio": "audio"}, groups=60).rows()):
            samples, rate = row.cells["audio"][0].read()  # type: ignore[union-attr]
            write_wave(folder / f"{number}.wav", samples, rate)
            name = row.key  # type: ignore[union-attr]
            stream.write(json.dumps({"audio": f"{number}.wav", "id": by_group[name], "key": name}) + "\n")
    vectors = anchors.gather(np.arange(anchors.rows)).values[:, 0].numpy()
    return vectors, [f"t{row}" for row in range(anchors.rows)]


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_embeddings_do_where_the_old_encoder_is_is_not_at_hand(place, model, grown, tmp_path, form):
    vectors, ids = write_sounds(tmp_path, grown.folder)
    if form == "npy":
        np.save(tmp_path / "v.npy", vectors)
        (tmp_path / "v.json").write_text(json.dumps({"modality": "text", "ids": ids}))
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        pq.write_table(pa.table({"id": ids, "vector": column}), tmp_path / "v.parquet")
    data = {"path": str(tmp_path / "sounds.jsonl"), "key": "key", "dev_fraction": 0.3}
    given = {"text": {"path": str(tmp_path / f"v.{form}"), "column": "id"}}
    # Nothing of the old modality but its vectors: its encoder could not even be loaded.
    moved = {"image": tmp_path / "nowhere", "text": tmp_path / "nowhere"}
    wanted = recipe(place, data=data, vectors=given, training={"epochs": 8})
    done = extend(model, wanted, output=tmp_path / "grown", encoders=moved)
    assert done.proof.modalities == ("image", "text")
    assert done.result.metrics["audio_to_text/recall@1"] > 2 * done.result.chance["audio_to_text/recall@1"]
    store = FeatureStore(tmp_path / "grown" / "anchors" / "text")
    assert store.rows == len(ids)
    kept = store.gather(np.arange(store.rows)).values[:, 0].numpy()
    # In another order, and otherwise the same.
    np.testing.assert_allclose(kept[np.lexsort(kept.T)], vectors[np.lexsort(vectors.T)], atol=1e-6)


def test_vectors_that_cannot_be_used_are_refused(tmp_path):
    from lightcrl.growth.spec import VectorsSpec
    from lightcrl.growth.vectors import read_vectors

    eye, path = np.eye(4, dtype=np.float16), tmp_path / "v.npy"

    def written(vectors: np.ndarray, ids: object) -> VectorsSpec:
        np.save(path, vectors)
        path.with_suffix(".json").write_text(json.dumps(ids))
        return VectorsSpec(path=str(path))

    def read(spec: VectorsSpec, dim: int) -> tuple[np.ndarray, dict[str, int]]:
        return read_vectors(spec, dim, "text", Line("of a model"))

    vectors, at = read(written(eye, ["a", "b", "c", 4]), 4)
    assert (vectors.dtype, at) == (np.float32, {"a": 0, "b": 1, "c": 2, "4": 3})
    with pytest.raises(DataError, match=r"no vectors in .*nothing.npy; expected \.npy"):
        read(VectorsSpec(path=str(tmp_path / "nothing.npy")), 4)
    with pytest.raises(DataError, match=r"vectors \[4, 4\]; expected \[N, 5\], the width of this model"):
        read(written(eye, list("abcd")), 5)
    with pytest.raises(DataError, match=r"4 vectors and 3 ids, 3 of them different"):
        read(written(eye, list("abc")), 4)
    with pytest.raises(DataError, match=r"4 vectors and 4 ids, 3 of them different"):
        read(written(eye, list("abca")), 4)
    with pytest.raises(DataError, match=r"the vector of 'c' has length 2; expected unit vectors"):
        read(written(eye * np.array([1, 1, 2, 1])[:, None], list("abcd")), 4)
    with pytest.raises(DataError, match=r"has no list of ids; expected one"):
        read(written(eye, {"names": []}), 4)
    pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0], [1.0, 0.0]]}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match="lists of equal length"):
        read(VectorsSpec(path=str(tmp_path / "v.parquet")), 1)


# --- the proof ---


def test_the_proof_sees_a_single_bit(model, grown):
    old, now = load_checkpoint(model), load_checkpoint(grown.folder)
    proof = prove(old, now, ["audio"])
    assert proof.numbers == sum(leaf.numel() for leaf in old.method.state_dict().values())
    bits = now.method.layer_scale.detach().view(torch.int32)
    bits[3] ^= 1
    with pytest.raises(GrowthError, match="the leaf 'layer_scale' is not as it was"):
        prove(old, now, ["audio"])


def test_a_grown_checkpoint_is_verified_with_its_lineage(grown, tmp_path):
    shutil.copytree(grown.folder / "best", tmp_path / "best")
    path = tmp_path / "best" / "config.json"
    path.write_text(path.read_text().replace('"added"', '"replaced"'))
    with pytest.raises(CheckpointError, match="it was changed by hand"):
        load_checkpoint(tmp_path)


def test_the_models_own_folder_is_not_written(place, model):
    with pytest.raises(GrowthError, match="is the model's own folder, which stays as it is"):
        extend(model, recipe(place), output=model)
    with pytest.raises(GrowthError, match="is the model's own folder"):
        remove(model, "text", model)


def test_names_that_files_hold_are_literals():
    assert NAME == "lightcrl.methods.extension:Extension"
    assert encoder("audio") == {"kind": "audio", "model": "builtin", "options": {"segments": 2}}
