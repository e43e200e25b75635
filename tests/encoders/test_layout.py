"""Layers and pools, by hand on a few numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightcrl.encoders.layout import (
    AUTO,
    Layer,
    auto_layers,
    average_segments,
    choose_layers,
    choose_tokens,
    count_slots,
    describe_layout,
    lay_out,
)
from lightcrl.errors import EncoderError
from samples import ragged

# Three tokens of two numbers; the second item has two.
VALUES = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [5.0, 8.0]], [[-1.0, -2.0], [-3.0, -6.0], [9.0, 9.0]]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
TEXT = Layer(VALUES, MASK, cls=True)
CAUSAL = Layer(VALUES, MASK)
# A CLS token, a register, and patches 0 to 11 in three rows of four.
PATCHES = torch.cat([torch.tensor([100.0, 50.0]), torch.arange(12.0)]).reshape(1, 14, 1)
IMAGE = Layer(PATCHES, torch.ones(1, 14, dtype=torch.bool), cls=True, prefix=2, grid=(3, 4))


def pooled(layer: Layer, tokens: str) -> Tensor:
    found = lay_out([layer], tokens)
    assert found.mask.all()
    return found.values


def test_cls_is_the_first_token():
    assert pooled(TEXT, "cls").tolist() == [[[1, 2]], [[-1, -2]]]


def test_mean_is_over_real_tokens():
    assert pooled(TEXT, "mean").tolist() == [[[3, 2]], [[-2, -4]]]


def test_max_is_over_real_tokens_even_if_all_are_negative():
    assert pooled(TEXT, "max").tolist() == [[[5, 8]], [[-1, -2]]]


def test_pools_of_an_image_leave_cls_and_registers_out():
    assert pooled(IMAGE, "cls+mean+max").flatten().tolist() == [100, 5.5, 11]


def test_what_the_mask_hides_is_never_read():
    spoilt = Layer(VALUES.masked_fill(~MASK.unsqueeze(-1), torch.nan), MASK, cls=True)
    for tokens in ("cls+mean+max", "grid:2"):
        torch.testing.assert_close(lay_out([spoilt], tokens).values, lay_out([TEXT], tokens).values)


def test_pools_come_layer_by_layer():
    double = Layer(2 * VALUES, MASK, cls=True)
    found = lay_out([double, TEXT], "mean+max")
    assert found.values[0].tolist() == [[6, 4], [10, 16], [3, 2], [5, 8]]
    each = lay_out([double, TEXT], "mean+max,cls")
    assert each.values[0].tolist() == [[6, 4], [10, 16], [1, 2]]


def test_pools_for_another_number_of_layers_are_refused():
    with pytest.raises(EncoderError, match="pools for 2 layers, found 3 layers"):
        lay_out([TEXT] * 3, "mean,cls")


def test_narrow_layers_are_filled_up_with_zeros():
    narrow = Layer(VALUES[..., :1], MASK)
    assert lay_out([CAUSAL, narrow], "mean").values[0].tolist() == [[3, 2], [3, 0]]


def test_cls_of_a_model_without_one_is_refused():
    with pytest.raises(EncoderError, match=r"no CLS token\. Use 'mean'"):
        lay_out([CAUSAL], "mean+cls")


def test_all_keeps_every_token_with_the_layers_side_by_side():
    found = lay_out([TEXT, Layer(-VALUES, MASK)], "all")
    assert found.mask.tolist() == MASK.tolist()
    torch.testing.assert_close(found.values, torch.cat([VALUES, -VALUES], dim=-1))


def test_all_of_layers_with_different_grids_is_refused():
    short = Layer(VALUES[:, :2], MASK[:, :2])
    with pytest.raises(EncoderError, match="layers with 3, 2 tokens cannot stand side by side"):
        lay_out([TEXT, short], "all")


def test_a_grid_averages_patches_and_keeps_cls_first():
    # Rows 0-1 and 1-2 of three, columns 0-1 and 2-3 of four.
    assert pooled(IMAGE, "grid:2").flatten().tolist() == [100, 2.5, 4.5, 6.5, 8.5]
    assert pooled(IMAGE, "grid:1").flatten().tolist() == [100, 5.5]


def test_a_grid_finer_than_the_model_is_refused():
    with pytest.raises(EncoderError, match="'grid:4' of a model with 3 x 4 patches"):
        lay_out([IMAGE], "grid:4")


def test_a_grid_of_a_text_averages_equal_segments():
    values = torch.tensor([[1.0, 3.0, 5.0, 7.0, 0.0], [2.0, 4.0, 6.0, 8.0, 10.0], [9.0, 0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4 + [False], [True] * 5, [True] + [False] * 4])
    found = lay_out([Layer(values.unsqueeze(-1), mask)], "grid:2")
    assert found.values.squeeze(-1).tolist() == [[2, 6], [3, 8], [9, 0]]
    assert found.mask.tolist() == [[True, True], [True, True], [True, False]]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 8))
def test_segments_use_every_real_token_once(lengths: list[int], parts: int):
    tokens = ragged(lengths, 3)
    found = average_segments(tokens, parts)
    assert found.lengths.tolist() == [min(length, parts) for length in lengths]
    for item, segments, length in zip(tokens.ragged(), found.ragged(), lengths, strict=True):
        edges = [part * length // len(segments) for part in range(len(segments) + 1)]
        expected = torch.stack([item[a:b].mean(0) for a, b in itertools.pairwise(edges)])
        torch.testing.assert_close(segments, expected)


@pytest.mark.parametrize("blocks", range(1, 60))
def test_auto_layers_are_different_and_in_the_upper_half(blocks: int):
    layers = auto_layers(blocks)
    assert layers[0] == -1
    assert len(set(layers)) == len(layers)
    assert len(layers) == (1 if blocks < 4 else 3)
    assert all(-layer <= blocks // 2 + 2 for layer in layers)


def test_stages_of_unequal_width_count_as_one_layer():
    assert choose_layers("auto", [64] * 12) == auto_layers(12)
    assert choose_layers("auto", [16, 32, 64, 64, 64]) == (-1,)


def test_layers_count_from_both_ends():
    assert choose_layers((0, 11, -12), [64] * 12) == (0, 11, -12)
    for wrong in (12, -13):
        with pytest.raises(EncoderError, match=f"layer {wrong} of a model with 12 blocks; expected -12 to 11"):
            choose_layers((wrong,), [64] * 12)
    with pytest.raises(EncoderError, match="keeps nothing"):
        choose_layers((), [64] * 12)


@pytest.mark.parametrize("kind", ["text", "image", "audio"])
def test_auto_and_pooled_suit_the_model(kind):
    for last in (TEXT, CAUSAL):
        for tokens in ("auto", "pooled"):
            chosen = choose_tokens(tokens, kind, last, layers=2)
            assert last.cls or "cls" not in chosen
            assert count_slots(chosen, 2) >= 2
            assert ("|" in chosen) == (tokens == "auto")
    assert choose_tokens("pooled", "image", TEXT, 1) == "cls"
    assert choose_tokens("pooled", kind, CAUSAL, 1) == "mean"
    assert choose_tokens("grid:3", kind, TEXT, 1) == "grid:3"


def test_the_sequence_of_auto_is_words_patches_or_segments():
    assert choose_tokens("auto", "text", TEXT, 1).endswith("|all")
    assert choose_tokens("auto", "audio", CAUSAL, 1).endswith("|grid:16")
    assert choose_tokens("auto", "image", IMAGE, 1).endswith("|grid:3"), "a grid is never finer than the model's"
    assert choose_tokens("auto|grid:2", "image", IMAGE, 2) == "cls+mean,cls+mean|grid:2"
    assert choose_tokens("auto|grid:9", "image", IMAGE, 1).endswith("|grid:3")
    assert choose_tokens("auto|grid:9", "text", TEXT, 1).endswith("|grid:9"), "at most nine segments of words"
    assert describe_layout("auto", "auto|grid:9", "text") != describe_layout("auto", "auto", "text")
    single = Layer(VALUES[:, :1], MASK[:, :1])
    assert "|" not in choose_tokens("auto", "image", single, 1)
    assert "|" not in choose_tokens("auto", "image", Layer(PATCHES[:, 2:3], IMAGE.mask[:, :1], grid=(1, 1)), 1)


def test_slots_are_pools_times_layers():
    assert [count_slots(tokens, 3) for tokens in ("mean", "mean+max", "mean+max,cls,mean")] == [3, 6, 4]
    assert [count_slots(tokens, 3) for tokens in ("all", "grid:7")] == [1, 1]
    assert [count_slots(tokens, 3) for tokens in ("mean|all", "mean+max,cls,mean|grid:7")] == [3, 4]


def test_the_first_layers_sequence_follows_the_pools():
    narrow = Layer(VALUES[..., :1], MASK)
    found = lay_out([TEXT, narrow], "cls+max,mean|all")
    assert found.values[0].tolist() == [[1, 2], [5, 8], [3, 0], [1, 2], [3, -4], [5, 8]]
    assert found.mask.tolist() == [[True] * 6, [True] * 5 + [False]]
    assert lay_out([narrow, TEXT], "mean|all").values[0, 2:].tolist() == [[1, 0], [3, 0], [5, 0]]
    assert lay_out([IMAGE], "mean|grid:2").values.flatten().tolist() == [5.5, 100, 2.5, 4.5, 6.5, 8.5]


def test_the_rule_behind_auto_is_part_of_the_description(monkeypatch):
    before = describe_layout("auto", "auto", "text")
    monkeypatch.setitem(AUTO, "text", (("mean", "mean"), ("mean", "mean")))
    assert describe_layout("auto", "auto", "text") != before
    assert describe_layout((-1,), "mean", "text") == {"layers": [-1], "tokens": "mean"}
