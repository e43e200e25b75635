"""Text encoders: what their tokens are, against the model's own hidden states in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.errors import EncoderError, ItemError
from lightcrl.tokens import TokenBatch


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("llama"))


def make(folder: Path, **settings: object) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": "text", "model": str(folder), **settings}))


def encode(folder: Path, texts=tiny.TEXTS, **settings: object) -> TokenBatch:
    encoder = make(folder, **settings)
    return encoder.encode([encoder.prepare(text) for text in texts])


def hidden_states(model, tokenizer, text: str) -> list[Tensor]:
    """[T, D] after the embedding and after every block."""
    with torch.no_grad():
        output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return [state[0] for state in output.hidden_states]


@pytest.fixture
def states(reference):
    """The hidden states of each of the texts, one text at a time."""

    def run(folder: Path) -> list[list[Tensor]]:
        model, words = reference(folder), make(folder).processor
        return [hidden_states(model, words, text) for text in tiny.TEXTS]

    return run


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_pools_are_those_of_the_hidden_states(name, request, states):
    folder = request.getfixturevalue(name)
    found = encode(folder, layers=(-1, 1), tokens="mean+max").values
    for one, layers in zip(found.double(), states(folder), strict=True):
        expected = [layers[5].mean(0), layers[5].amax(0), layers[2].mean(0), layers[2].amax(0)]
        torch.testing.assert_close(one, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_pooled_is_the_mean_over_all_tokens_special_ones_included(bert, states):
    found = encode(bert, layers=(-1,), tokens="pooled").values
    expected = torch.stack([layers[-1].mean(0) for layers in states(bert)]).unsqueeze(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_cls_is_the_first_token(bert, states):
    found = encode(bert, layers=(-1,), tokens="cls").values
    torch.testing.assert_close(
        found[:, 0].double(), torch.stack([s[-1][0] for s in states(bert)]), rtol=1e-5, atol=1e-5
    )


def test_all_tokens_with_two_layers_side_by_side(bert, states):
    found = encode(bert, layers=(-1, -5), tokens="all").ragged()
    for one, layers in zip(found, states(bert), strict=True):
        torch.testing.assert_close(one.double(), torch.cat([layers[5], layers[1]], dim=-1), rtol=1e-5, atol=1e-5)


def test_the_last_layer_is_the_models_output_final_norm_included(llama, reference):
    model, words = reference(llama), make(llama).processor
    found = encode(llama, tiny.TEXTS[:1], layers=(-1, -2), tokens="all").values[0]
    with torch.no_grad():
        output = model(**words(tiny.TEXTS[0], return_tensors="pt"), output_hidden_states=True)
    torch.testing.assert_close(found[:, :32].double(), output.last_hidden_state[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, 32:].double(), output.hidden_states[4][0], rtol=1e-5, atol=1e-5)


def test_auto_takes_what_the_model_has(bert, llama):
    assert (make(bert).loaded.tokens, make(bert).slots, make(bert).dim) == ("mean+cls+max,mean,mean|all", 5, 32)
    assert (make(llama).loaded.tokens, make(llama).slots, make(llama).dim) == ("mean+max,mean,mean|all", 4, 32)
    assert make(bert).loaded.layers == (-1, -2, -3)
    assert make(bert).sequence
    assert not make(bert, tokens="mean").sequence


def test_a_causal_model_has_no_cls(llama):
    with pytest.raises(EncoderError, match="no CLS token"):
        _ = make(llama, tokens="cls").dim


def test_a_long_text_is_cut(bert):
    words = make(bert, max_length=6)
    item = words.prepare("a red dog runs under the old roof")
    assert words.length(item) == 6
    assert words.processor.convert_ids_to_tokens(item["input_ids"]) == ["[CLS]", *["a", "red", "dog", "runs"], "[SEP]"]
    torch.testing.assert_close(
        words.encode([item]).values, encode(bert, ["a red dog runs"]).values, rtol=1e-5, atol=1e-5
    )


def test_without_a_max_length_the_model_decides(bert, tmp_path):
    assert make(bert).max_length == 24
    assert encode(bert, ["dog " * 200], tokens="all", layers=(-1,)).values.shape[1] == 24
    assert make(tiny.t5(tmp_path)).max_length == 512


@pytest.mark.parametrize("length", [1, 2, 25])
def test_a_max_length_that_cannot_be_is_refused(bert, length):
    with pytest.raises(EncoderError, match=f"max_length = {length} for .*; expected 3 to 24 tokens"):
        make(bert, max_length=length)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_text_without_tokens_is_empty(name, request):
    encoder = make(request.getfixturevalue(name))
    for text in ("", " \n "):
        with pytest.raises(ItemError, match="empty text"):
            encoder.prepare(text)
    # A word that the tokenizer does not know is a token all the same.
    assert encoder.length(encoder.prepare("zebra")) == encoder.length(encoder.prepare("dog"))


def test_what_is_no_text_is_refused(bert):
    with pytest.raises(ItemError, match="not a text: found bytes"):
        make(bert).prepare(b"dog")


def test_the_texts_of_a_dual_encoder_go_through_its_tower(tmp_path, reference):
    folder = tiny.clip(tmp_path)
    found = encode(folder, layers=(-1,), tokens="all").ragged()
    expected = hidden_states(reference(folder).text_model, make(folder).processor, tiny.TEXTS[0])
    with torch.no_grad():
        final = reference(folder).text_model.final_layer_norm(expected[-1])
    torch.testing.assert_close(found[0].double(), final, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_near_float32(bert):
    exact, rough = (encode(bert, dtype=dtype).values for dtype in ("float32", "bfloat16"))
    assert rough.dtype == torch.float32
    assert float(torch.cosine_similarity(exact, rough, dim=-1).min()) > 0.999
    assert not torch.equal(exact, rough)


def test_the_dtype_is_what_was_asked_for_whatever_the_checkpoint_has(bert, tmp_path):
    from transformers import AutoModel

    from lightcrl.encoders.files import quiet

    with quiet():
        AutoModel.from_pretrained(bert, dtype=torch.bfloat16).save_pretrained(tmp_path)
        make(bert).processor.save_pretrained(tmp_path)
    assert make(tmp_path).loaded.network.dtype == torch.float32


@pytest.mark.real
def test_minilm_ranks_sentence_pairs_as_it_should(shared):
    from scipy.stats import spearmanr

    lines = (shared / "data" / "text_pairs" / "stsb_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[::3]]
    encoder = make(shared / "models" / "all-MiniLM-L6-v2", layers=(-1,), tokens="pooled")
    texts = sorted({row[side] for row in rows for side in ("text1", "text2")}, key=len)
    vectors: dict[str, Tensor] = {}
    for start in range(0, len(texts), 64):
        batch = texts[start : start + 64]
        vectors.update(zip(batch, encoder.encode([encoder.prepare(text) for text in batch]).values[:, 0], strict=True))
    similarity = [float(torch.cosine_similarity(vectors[row["text1"]], vectors[row["text2"]], dim=0)) for row in rows]
    assert len(rows) == 460
    assert spearmanr(similarity, [row["score"] for row in rows]).statistic > 0.80


@pytest.mark.real
def test_stories_is_a_causal_model_of_five_blocks(shared):
    encoder = make(shared / "models" / "stories260K")
    texts = ["Once upon a time", "Lily saw a big red ball in the park and wanted to play with it."]
    tokens = encoder.encode([encoder.prepare(text) for text in texts])
    assert (encoder.loaded.blocks, encoder.dim, encoder.slots) == (5, 64, 4)
    for row, text in enumerate(texts):
        alone = encoder.encode([encoder.prepare(text)]).values[0]
        torch.testing.assert_close(tokens.ragged()[row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize(
    "layout", [{}, {"tokens": "max+mean,cls", "layers": (-1, 0)}, {"tokens": "all", "layers": (0, -1)}]
)
def test_by_itself_a_model_says_the_mean_of_its_last_layer(name, layout, request, reference):
    """As sentence-transformers pools: over all tokens, special ones too, whatever else is kept beside it."""
    if name == "llama" and "cls" in layout.get("tokens", ""):
        layout = {"tokens": "max+mean,max", "layers": (-1, 0)}
    folder = request.getfixturevalue(name)
    encoder, model = make(folder, **layout), reference(folder)
    found = encoder.own_vectors(encoder.encode([encoder.prepare(text) for text in tiny.TEXTS]))
    words = [torch.tensor([encoder.processor(text)["input_ids"]]) for text in tiny.TEXTS]
    with torch.no_grad():
        expected = torch.cat([model(ids).last_hidden_state.mean(1) for ids in words])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_by_itself_a_model_without_its_mean_says_what_is_kept(bert):
    encoder = make(bert, tokens="mean,cls", layers=(0, -1))
    tokens = encoder.encode([encoder.prepare(text) for text in tiny.TEXTS])
    assert torch.equal(encoder.own_vectors(tokens), tokens.values[:, 1])
