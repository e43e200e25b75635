"""Batches by length, and the stream of items through an encoder."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.data.base import Item
from lightcrl.encoders import Encoder
from lightcrl.errors import EncoderError, ItemError
from lightcrl.features.encoding import batches, encode, encode_items
from lightcrl.tokens import TokenBatch


class Counts(Encoder):
    """Texts as one token per letter: its place in the text and its code."""

    kind = "text"
    dim = 2
    batch_size = 4

    def __init__(self, batch_length: float = 12) -> None:
        self.batch_length = batch_length
        self.seen: list[list[str]] = []
        self.threads: set[int] = set()

    def describe(self):
        return {"encoder": "counts"}

    def prepare(self, raw):
        self.threads.add(threading.get_ident())
        if raw == "broken":
            raise ItemError("broken")
        if raw == "wrong":
            raise ZeroDivisionError("by zero")
        if raw == "fatal":
            raise EncoderError("no such model")
        return raw

    def length(self, prepared):
        return len(prepared)

    def encode(self, prepared):
        self.seen.append(list(prepared))
        return TokenBatch.from_ragged(
            [
                torch.tensor([[place, ord(letter)] for place, letter in enumerate(text)]).reshape(-1, 2).float()
                for text in prepared
            ]
        )


def item(text: str) -> Item:
    return Item(text, text, text)


TEXTS = ["a" * (1 + number * 7 % 11) for number in range(150)]


def test_every_item_comes_once_with_its_own_tokens():
    found = dict(encode_items(Counts(), [item(text) for text in TEXTS]))
    assert sorted(found) == list(range(150))
    for number, text in enumerate(TEXTS):
        np.testing.assert_array_equal(found[number], [[place, 97] for place in range(len(text))])
        assert found[number].dtype == np.float32


def test_only_the_places_asked_for_are_encoded_in_the_dtype_asked_for():
    found = dict(encode(Counts(), [item(text) for text in TEXTS], [140, 3, 77], "float16"))
    assert sorted(found) == [3, 77, 140]
    assert {tokens.dtype for tokens in found.values()} == {np.dtype("float16")}


def test_batches_hold_items_of_like_length_and_no_more_than_the_encoder_wants():
    encoder = Counts()
    dict(encode_items(encoder, [item(text) for text in TEXTS]))
    for batch in encoder.seen:
        longest = max(map(len, batch))
        assert len(batch) <= 4
        assert len(batch) == 1 or len(batch) * longest <= 12
    padding = sum(max(map(len, batch)) - len(text) for batch in encoder.seen for text in batch)
    assert padding < 0.05 * sum(map(len, TEXTS))


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 9), st.integers(1, 100))
def test_batches_cover_everything_in_order(lengths, most, total):
    lengths.sort()
    found = list(batches(lengths, SimpleNamespace(batch_size=most, batch_length=total)))
    assert [place for batch in found for place in range(len(lengths))[batch]] == list(range(len(lengths)))
    for batch, after in zip(found, [*found[1:], None], strict=False):
        size, longest = batch.stop - batch.start, lengths[batch.stop - 1]
        assert 1 <= size <= most
        assert size == 1 or size * longest <= total
        if after is not None:  # and no batch could have taken one more
            assert size == most or (size + 1) * lengths[after.start] > total


def test_what_cannot_be_read_concerns_itself_alone():
    found = dict(encode_items(Counts(), [item(text) for text in ("ab", "broken", "c", "wrong", "")]))
    assert found[1].reason == "broken"
    assert found[3].reason == "unreadable"
    assert found[3].detail == "ZeroDivisionError: by zero"
    assert found[4].reason == "no tokens"
    assert [len(found[number]) for number in (0, 2)] == [2, 1]


def test_what_is_wrong_with_the_encoder_stops_everything():
    with pytest.raises(EncoderError, match="no such model"):
        dict(encode_items(Counts(), [item("a"), item("fatal")]))


def test_values_that_do_not_fit_are_set_aside():
    class Large(Counts):
        def encode(self, prepared):
            tokens = super().encode(prepared)
            return TokenBatch(tokens.values * 1000, tokens.mask)

    found = dict(encode(Large(), [item("a"), item("b")], [0, 1], "float16"))
    assert found[0].reason == "not finite"
    assert np.isfinite(dict(encode(Large(), [item("a")], [0], "float32"))[0]).all()


def test_decoding_happens_in_other_threads():
    encoder = Counts()
    dict(encode_items(encoder, [item(text) for text in TEXTS], workers=2))
    assert threading.get_ident() not in encoder.threads
    assert len(encoder.threads) <= 2
