"""Numbers for names are those that a dictionary would give."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.data.naming import LONG, digests, number_names

NAMES = st.one_of(
    st.text(max_size=12), st.integers(0, 9).map(lambda n: "x" * (LONG - 5 + n)), st.sampled_from(["", "\0", "\0\0"])
)


@given(columns=st.lists(st.lists(NAMES, max_size=30), min_size=1, max_size=3), again=st.booleans())
def test_numbers_follow_the_first_appearance(columns, again):
    columns = columns + columns[:1] * again
    numbers, count = number_names([digests(pa.array(column, pa.string())) for column in columns])
    known: dict[str, int] = {}
    for column in columns:
        for name in column:
            known.setdefault(name, len(known))
    assert count == len(known)
    assert [found.tolist() for found in numbers] == [[known[name] for name in column] for column in columns]


@given(names=st.lists(NAMES, min_size=1, max_size=20), cut=st.integers(0, 19))
def test_a_digest_does_not_depend_on_the_names_beside_it(names, cut):
    array = pa.array(names, pa.string())
    assert np.array_equal(digests(array.slice(cut)), digests(array)[cut:])
    alone = [digests(pa.array([name], pa.string()))[0] for name in names]
    assert np.array_equal(np.array(alone), digests(array))


def test_names_of_equal_halves_are_still_told_apart():
    column = np.array([[5, 1], [5, 2], [3, 9], [5, 1], [5, 2], [4, 9]], dtype=np.uint64)
    (numbers,), count = number_names([column])
    assert numbers.tolist() == [0, 1, 2, 0, 1, 3]
    assert count == 4


def test_every_bit_of_a_name_changes_every_bit_of_its_digest_about_half_of_the_time():
    """Names that differ in one bit: what a sum or a plain product of words would map close together."""
    names = [bytes([97, 98, 99, 100, 101, 102, 103, 104, 105, 106])]
    names += [
        bytes(byte ^ (1 << bit) * (place == at) for at, byte in enumerate(names[0]))
        for place in range(10)
        for bit in range(7)
    ]
    found = digests(pa.array([name.decode("latin-1") for name in names], pa.string())).view(np.uint8)
    flipped = np.unpackbits(found[1:] ^ found[0], axis=1)
    assert flipped.mean(0).min() > 0.3
    assert flipped.mean(0).max() < 0.7
    assert flipped.mean(1).min() > 0.3
    assert flipped.mean(1).max() < 0.7
