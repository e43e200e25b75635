"""What holds for every encoder, built in, of the transformers library, or the user's own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.errors import ItemError
from tiny import ITEMS, MODELS

MODES: dict[str, dict[str, Any]] = {
    "auto": {},
    "all": {"tokens": "all", "layers": (-1,)},
    "grid": {"tokens": "grid:2", "layers": (-1, 0)},
}
CASES = [f"{name}:{mode}" for name in MODELS for mode in ("auto", "all")]
CASES += [f"{name}:grid" for name in ("bert", "registers", "resnet", "wav2vec2")]
CASES += ["builtin:text", "builtin:image", "builtin:audio", "vectors:given", "own:Letters", "own:LetterTokens"]

UNREADABLE: dict[str, list[Any]] = {
    "text": ["", " \n\t", 7, None],
    "image": [b"", b"no picture", Path("nowhere.png"), None, 7],
    "audio": [b"", b"no sound", Path("nowhere.wav"), None, 7],
    "vectors": [b"", b"no array", Path("nowhere.npy"), None, "[one]", [1.0, 2.0], [], {"a": 1}],
}


@dataclass(frozen=True)
class Case:
    make: Callable[[], Encoder]
    items: Sequence[Any]
    own: bool

    def prepared(self, encoder: Encoder) -> list[Any]:
        return [encoder.prepare(item) for item in self.items]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = MODELS[name][1](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Case:
    name, _, mode = request.param.partition(":")
    if name == "builtin":
        spec = EncoderSpec(kind=mode, model="builtin")
    elif name == "vectors":
        spec = EncoderSpec(kind="vectors", options={"dim": 3})
    elif name == "own":
        spec = EncoderSpec(kind="text", model=f"tiny:{mode}")
    else:
        spec = EncoderSpec(kind=MODELS[name][0], model=str(folders(name)), **MODES[mode])
    return Case(lambda: load_encoder(spec), ITEMS[spec.kind](), name == "own")


@pytest.fixture(scope="module")
def encoder(case: Case) -> Encoder:
    return case.make()


def assert_alike(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert [len(item) for item in found] == [len(item) for item in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_tokens_are_as_declared(case: Case, encoder: Encoder) -> None:
    tokens = encoder.encode(case.prepared(encoder))
    assert len(tokens) == len(case.items)
    assert tokens.dim == encoder.dim
    assert tokens.values.dtype == torch.float32
    assert torch.isfinite(tokens.values[tokens.mask]).all()
    assert (tokens.lengths > 0).all()
    assert int(tokens.lengths.max()) == tokens.values.shape[1]
    # Real tokens first, padding after them.
    assert (tokens.mask.int().diff(dim=1) <= 0).all()
    if encoder.sequence:
        assert (tokens.lengths > encoder.slots).all()
    elif encoder.slots > 1:
        assert tokens.values.shape[1] == encoder.slots
        assert tokens.mask.all()


def test_different_items_have_different_tokens(case: Case, encoder: Encoder) -> None:
    means = encoder.encode(case.prepared(encoder)).mean()
    assert float(torch.pdist(means).min()) > 1e-4 * float(means.norm(dim=1).mean())


def test_an_item_has_the_same_tokens_whatever_else_is_in_the_batch(case: Case, encoder: Encoder) -> None:
    prepared = case.prepared(encoder)
    alone = [encoder.encode([item]).ragged()[0] for item in prepared]
    assert_alike(encoder.encode(prepared).ragged(), alone)
    assert_alike(encoder.encode(prepared[::-1]).ragged(), alone[::-1])
    assert_alike(encoder.encode(prepared[1:4] * 2).ragged(), alone[1:4] * 2)


def test_it_is_deterministic_from_one_load_to_the_next(case: Case, encoder: Encoder) -> None:
    other = case.make()
    torch.manual_seed(1)
    first, again = encoder.encode(case.prepared(encoder)), encoder.encode(case.prepared(encoder))
    torch.testing.assert_close(again.values, first.values, rtol=0, atol=0)
    torch.testing.assert_close(other.encode(case.prepared(other)).values, first.values, rtol=0, atol=0)
    assert (other.fingerprint, other.slots, other.dim) == (encoder.fingerprint, encoder.slots, encoder.dim)
    assert len(encoder.fingerprint) == 32


def test_another_process_can_have_it(case: Case, encoder: Encoder) -> None:
    expected = encoder.encode(case.prepared(encoder)).values
    assert encoder.origin is not None
    twin = pickle.loads(pickle.dumps(encoder.origin))()
    assert twin.fingerprint == encoder.fingerprint
    torch.testing.assert_close(twin.encode(case.prepared(twin)).values, expected, rtol=0, atol=0)


def test_it_is_frozen_and_its_tokens_can_be_trained_on(case: Case, encoder: Encoder) -> None:
    tokens = encoder.encode(case.prepared(encoder))
    assert not tokens.values.requires_grad
    if isinstance(encoder, HuggingFaceEncoder):
        network = encoder.loaded.network
        assert not any(module.training for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters())
    head = torch.nn.Linear(tokens.dim, 2)
    (head(tokens.values) * tokens.mask.unsqueeze(-1)).sum().backward()
    assert head.weight.grad is not None


def test_threads_prepare_the_same(case: Case, encoder: Encoder) -> None:
    items = list(case.items) * 2
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(encoder.prepare, items))
    expected = encoder.encode([encoder.prepare(item) for item in items])
    torch.testing.assert_close(encoder.encode(prepared).values, expected.values, rtol=0, atol=0)


def test_length_grows_with_the_item(case: Case, encoder: Encoder) -> None:
    prepared = sorted(case.prepared(encoder), key=encoder.length)
    tokens = [int(encoder.encode([item]).lengths[0]) for item in prepared]
    if encoder.length(prepared[0]) < encoder.length(prepared[-1]):
        assert tokens == sorted(tokens)


def test_what_cannot_be_read_is_an_item_error(case: Case, encoder: Encoder) -> None:
    for raw in UNREADABLE[encoder.kind]:
        if case.own:
            # The user's own code decides what it can read: prepare passes everything on.
            assert encoder.prepare(raw) is raw
            continue
        with pytest.raises(ItemError):
            encoder.prepare(raw)


def test_by_itself_it_says_one_vector_per_item_whatever_the_batch(encoder: Encoder, case: Case) -> None:
    prepared = case.prepared(encoder)
    together = encoder.own_vectors(encoder.encode(prepared))
    assert together.shape[0] == len(prepared)
    alone = torch.cat([encoder.own_vectors(encoder.encode([item])) for item in prepared])
    assert_alike([together], [alone])
