"""A model of ours as sentence-transformers loads it, against `Embedder.encode`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lightcrl
import shelves
import tiny
from lazily import Lazily
from lightcrl.checkpoint import MODULE, write_layout
from lightcrl.embedder import Embedder
from lightcrl.errors import ItemError, ModalityError

library = Lazily("sentence_transformers")
evaluation = Lazily("sentence_transformers.sentence_transformer.evaluation")
bridge = Lazily("lightcrl.bridges.sentence_transformers")
TEXTS = list(tiny.TEXTS)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return shelves.make_embedder(kinds=("text", "image", "audio"))


@pytest.fixture(scope="module")
def run(embedder, tmp_path_factory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    embedder.checkpoint.save(folder / "best")
    write_layout(folder, "best")
    return folder


@pytest.fixture(scope="module")
def model(run) -> Any:
    return library.SentenceTransformer(str(run), trust_remote_code=True, device="cpu")


def close(vectors: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


def test_texts_pictures_and_sounds_have_the_embedders_vectors(model, embedder):
    assert model.modalities == ["text", "image", "audio"]
    assert model.get_embedding_dimension() == embedder.dim == 16
    close(model.encode(TEXTS, batch_size=2), embedder.encode(TEXTS, "text"))
    close(model.encode(tiny.pictures(), batch_size=2), embedder.encode(tiny.pictures(), "image"))
    sounds = tiny.sounds()
    expected = embedder.encode(sounds, "audio")
    close(model.encode(sounds), expected)
    close(model.encode([{"array": samples, "sampling_rate": rate} for samples, rate in sounds]), expected)
    close(model.encode([samples for samples, _ in sounds]), expected)
    close(model.encode([{"image": picture} for picture in tiny.pictures()]), embedder.encode(tiny.pictures(), "image"))


def test_one_item_is_one_vector_and_a_file_is_a_picture(model, embedder, tmp_path):
    path = shelves.picture(tmp_path / "a.png", 1)
    assert model.encode("a red dog runs").shape == (16,)
    close(model.encode(str(path)), embedder.encode([path], "image")[0])


def test_similarity_and_prompts_are_the_librarys(model, run, embedder):
    vectors = embedder.encode(TEXTS, "text")
    torch.testing.assert_close(model.similarity(vectors, vectors), torch.from_numpy(vectors @ vectors.T))
    close(model.encode(TEXTS, prompt="a photo of "), embedder.encode([f"a photo of {text}" for text in TEXTS], "text"))
    prompted = library.SentenceTransformer(str(run), trust_remote_code=True, device="cpu", prompts={"query": "find "})
    close(prompted.encode_query(TEXTS), embedder.encode([f"find {text}" for text in TEXTS], "text"))
    close(prompted.encode_document(TEXTS), vectors)


def test_the_librarys_evaluator_ranks_as_our_retrieval_does(model, embedder):
    pictures = tiny.pictures()
    queries = {str(number): text for number, text in enumerate(TEXTS)}
    corpus = {str(number): picture for number, picture in enumerate(pictures)}
    evaluator = evaluation.InformationRetrievalEvaluator(
        queries, corpus, {number: {number} for number in queries}, accuracy_at_k=[1, 2], write_csv=False
    )
    figures = evaluator(model)
    scores = embedder.encode(TEXTS, "text") @ embedder.encode(pictures, "image").T
    ranks = (scores > scores.diagonal()[:, None]).sum(1)
    assert figures["cosine_accuracy@1"] == pytest.approx((ranks < 1).mean(), abs=1e-6)
    assert figures["cosine_accuracy@2"] == pytest.approx((ranks < 2).mean(), abs=1e-6)


def test_what_the_library_saves_is_our_checkpoint_again(model, embedder, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert np.array_equal(lightcrl.load(tmp_path / "saved").encode(TEXTS, "text"), embedder.encode(TEXTS, "text"))
    assert not list((tmp_path / "saved").rglob("*.py"))
    assert json.loads((tmp_path / "saved/modules.json").read_text())[0]["type"] == MODULE


def test_the_class_named_in_a_checkpoint_is_ours(run):
    assert f"{bridge.EmbedderModule.__module__}.{bridge.EmbedderModule.__name__}" == MODULE
    # The library imports a class of another package only if it is told so.
    with pytest.raises(ValueError, match=r"trust_remote_code=True"):
        library.SentenceTransformer(str(run), device="cpu")


def test_without_the_argument_there_is_a_function(run, embedder):
    model = bridge.as_sentence_transformer(run, prompts={"query": "find "})
    close(model.encode(TEXTS), embedder.encode(TEXTS, "text"))
    assert model.prompts["query"] == "find "
    assert model.similarity_fn_name == "cosine"


def test_a_modality_of_the_same_kind_is_named(tmp_path):
    embedder = shelves.make_embedder(kinds=("text", "image"))
    checkpoint = embedder.checkpoint
    for table in (checkpoint.encoders, checkpoint.fingerprints):
        table["title"] = table["text"]
    module = bridge.EmbedderModule(Embedder(checkpoint, device="cpu"))
    assert module.preprocess(["a"], modality="title")["modality"] == "title"
    assert module.preprocess(["a"])["modality"] == "text"
    with pytest.raises(ModalityError, match="no modality 'sound' in this model; it has text, image, title"):
        module.preprocess(["a"], modality="sound")
    with pytest.raises(ModalityError, match="an item of kind audio; this model takes text, image"):
        module.preprocess([(np.zeros(3), 16_000)])


def test_an_item_that_cannot_be_read_is_named(model):
    with pytest.raises(ItemError, match="empty text"):
        model.encode([" "])


def test_a_process_of_a_pool_gets_the_model_without_loaded_encoders(model, embedder):
    model.encode(TEXTS)
    again = pickle.loads(pickle.dumps(model[0]))
    assert again.embedder._encoders == {}
    close(again(again.preprocess(TEXTS))["sentence_embedding"].detach().numpy(), embedder.encode(TEXTS, "text"))


def test_code_of_an_encoder_needs_a_permission_of_its_own(tmp_path):
    checkpoint = shelves.make_embedder(kinds=("text",)).checkpoint
    spec = checkpoint.encoders["text"]
    checkpoint.encoders["text"] = spec.model_copy(update={"trust_remote_code": True})
    checkpoint.save(tmp_path)
    model = library.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    with pytest.raises(lightcrl.LightCRLError, match="runs code that comes with it"):
        model.encode(TEXTS)
    told = {"trust_remote_code": True, "encoders": {"text": "builtin"}}
    trusted = library.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu", model_kwargs=told)
    assert trusted[0].embedder._trusted
