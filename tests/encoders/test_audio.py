"""Sounds: what can be read and what cannot; audio encoders against the model's own hidden states in float64."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.audio import read_sound
from lightcrl.errors import ItemError, MissingExtraError

RATE = 16_000


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def saved(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", **options: object) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, **options)
    return stream.getvalue()


def test_a_sound_may_be_a_path_bytes_or_samples_and_their_rate(tmp_path):
    samples = tone(0.2)
    path = tmp_path / "tone.wav"
    path.write_bytes(saved(samples, subtype="FLOAT"))
    for raw in (path, str(path), path.read_bytes(), (samples, RATE), (samples.astype(np.float64), RATE)):
        found = read_sound(raw, RATE)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, samples)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_common_formats_are_read(kind):
    found = read_sound(saved(tone(0.5), kind=kind), RATE)
    assert abs(len(found) - 8000) < 2500
    assert 0.3 < np.abs(found).max() < 0.7


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.int16, 2**15), (np.int32, 2**31), (np.uint8, 2**7)], ids=lambda value: str(value)
)
def test_integers_are_of_full_scale(dtype, scale):
    middle = scale if dtype == np.uint8 else 0
    samples = np.array([middle, middle + scale // 2, middle - scale // 2], dtype=dtype)
    assert read_sound((samples, RATE), RATE).tolist() == [0, 0.5, -0.5]


def test_channels_are_averaged():
    stereo = np.stack([tone(0.1), np.zeros(1600, np.float32)], axis=1)
    for raw in ((stereo, RATE), saved(stereo, subtype="FLOAT")):
        np.testing.assert_allclose(read_sound(raw, RATE), tone(0.1) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(rate):
    found = read_sound((tone(0.5, rate), rate), RATE)
    assert len(found) == 8000
    np.testing.assert_allclose(found[500:-500], tone(0.5)[500:-500], atol=0.01)


def test_a_long_sound_is_cut(tmp_path):
    samples = tone(0.5)
    path = tmp_path / "long.wav"
    path.write_bytes(saved(samples, subtype="FLOAT"))
    for raw in (path, (samples, RATE)):
        np.testing.assert_array_equal(read_sound(raw, RATE, max_length=0.2), samples[:3200])
    assert len(read_sound((tone(1, 48_000), 48_000), RATE, max_length=0.25)) == 4000


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ((np.zeros(0, np.float32), RATE), "empty sound"),
        (saved(np.zeros(0, np.float32)), "empty sound"),
        ((np.array([0.0, np.nan]), RATE), "not finite"),
        ((np.array([0.0, np.inf]), RATE), "not finite"),
        ((np.zeros((2, 2, 2)), RATE), "not a sound: found float64 of shape"),
        ((np.array(["a"]), RATE), "not a sound"),
        ((np.zeros(4), 0), "at 0 Hz"),
        ((np.zeros(4),), "found 1 values; expected samples and their rate"),
        (np.zeros(4), "not a sound: found ndarray"),
        (b"no sound", "unreadable sound"),
        (saved(tone(0.1))[:20], "unreadable sound"),
        (Path("nowhere.wav"), r"missing file: nowhere\.wav"),
    ],
)
def test_what_is_no_sound_is_set_aside(raw, message):
    with pytest.raises(ItemError, match=message):
        read_sound(raw, RATE)


def test_without_its_extra_a_file_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lightcrl\[audio\]'"):
        read_sound(saved(tone(0.1)), RATE)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(MissingExtraError, match="a sound at 8000 Hz for an encoder at 16000 Hz"):
        read_sound((tone(0.1, 8000), 8000), RATE)
    assert len(read_sound((tone(0.1), RATE), RATE)) == 1600


def make(folder: Path, **settings: object) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": "audio", "model": str(folder), **settings}))


@pytest.mark.parametrize("masked", [True, False])
def test_tokens_of_waveforms_are_the_hidden_states_of_each_alone(masked, tmp_path, reference):
    folder = tiny.wav2vec2(tmp_path, masked)
    encoder, model = make(folder, layers=(-1, 2), tokens="mean+max"), reference(folder)
    prepared = [encoder.prepare(sound) for sound in tiny.sounds()]
    assert encoder.loaded.pads is masked
    assert ("attention_mask" in prepared[0]) is masked
    for found, item in zip(encoder.encode(prepared).values, prepared, strict=True):
        with torch.no_grad():
            output = model(item["input_values"].double().unsqueeze(0), output_hidden_states=True)
        states = [output.last_hidden_state[0], output.hidden_states[3][0]]
        expected = torch.stack([vector for state in states for vector in (state.mean(0), state.amax(0))])
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_mask_counts_frames(tmp_path):
    encoder = make(tiny.wav2vec2(tmp_path), layers=(-1,), tokens="all")
    sounds = [(tone(seconds), RATE) for seconds in (0.2, 0.5, 1.0)]
    # Frames of 400 samples, 320 apart.
    expected = [(len(samples) - 400) // 320 + 1 for samples, _ in sounds]
    assert encoder.encode([encoder.prepare(sound) for sound in sounds]).lengths.tolist() == expected


def test_a_mask_that_does_not_keep_padding_out_is_not_relied_on(tmp_path):
    encoder = make(tiny.data2vec(tmp_path))
    assert "attention_mask" in encoder.prepare((tone(0.3), RATE))
    assert encoder.loaded.pads is False


def test_whispers_tokens_end_with_the_sound(tmp_path):
    encoder = make(tiny.whisper(tmp_path), layers=(-1,), tokens="all")
    prepared = [encoder.prepare((tone(seconds), RATE)) for seconds in (0.2, 0.5, 1.0)]
    # Fifty tokens a second.
    assert encoder.encode(prepared).lengths.tolist() == [10, 25, 50]
    assert encoder.encode(prepared[:1]).values.shape[1] == 10


def test_patches_of_a_spectrogram_stand_behind_cls_and_distillation_token(tmp_path, reference):
    folder = tiny.ast(tmp_path)
    encoder = make(folder, layers=(-1,), tokens="cls+mean")
    item = encoder.prepare((tone(0.5), RATE))
    with torch.no_grad():
        state = reference(folder)(item["input_values"].double().unsqueeze(0)).last_hidden_state[0]
    found = encoder.encode([item]).values[0]
    torch.testing.assert_close(found.double(), torch.stack([state[0], state[2:].mean(0)]), rtol=1e-5, atol=1e-5)


def test_very_short_sounds_are_filled_up(tmp_path):
    encoder = make(tiny.wav2vec2(tmp_path))
    tokens = encoder.encode([encoder.prepare((tone(0.001), RATE)), encoder.prepare((tone(0.5), RATE))])
    assert torch.isfinite(tokens.values).all()


def test_max_length_is_in_seconds_and_part_of_the_fingerprint(tmp_path):
    folder = tiny.wav2vec2(tmp_path)
    short, default = make(folder, max_length=0.25), make(folder)
    assert (short.max_length, default.max_length) == (0.25, 30)
    assert short.length(short.prepare((tone(1), RATE))) == 4000
    assert short.fingerprint != default.fingerprint


def test_a_rate_other_than_the_models_is_resampled(tmp_path):
    encoder = make(tiny.wav2vec2(tmp_path))
    one, other = (encoder.encode([encoder.prepare((tone(0.5, rate), rate))]).values for rate in (RATE, 48_000))
    assert float(torch.cosine_similarity(one, other, dim=-1).min()) > 0.98


@pytest.mark.real
def test_yamnet_hears_what_it_should(shared):
    from safetensors.torch import load_file

    folder = shared / "models" / "yamnet"
    encoder = load_encoder(
        EncoderSpec(kind="audio", model="examples.yamnet:YAMNet", device="cpu", options={"folder": str(folder)})
    )
    classifier = load_file(folder / "frontend_and_classifier.safetensors")
    # By the class list of AudioSet: animals from 67 on, with dogs; rain and its kin at 282 to 285.
    for name, classes in (("dog_bark", range(67, 76)), ("rain", range(282, 286))):
        paths = sorted((shared / "data" / "esc10" / name).iterdir())[:3]
        tokens = encoder.encode([encoder.prepare(path) for path in paths])
        assert tokens.values.shape == (3, 9, 1024)
        logits = tokens.values @ classifier["classifier.weight"].T + classifier["classifier.bias"]
        logits[..., 494] = -torch.inf  # silence between the barks
        assert set(logits.sigmoid().mean(1).argmax(1).tolist()) <= set(classes)


@pytest.mark.real
def test_yamnet_sees_every_patch_alone(shared):
    spec = EncoderSpec(
        kind="audio", model="examples.yamnet:YAMNet", options={"folder": str(shared / "models" / "yamnet"), "hop": 96}
    )
    encoder = load_encoder(spec)
    prepared = [encoder.prepare((tone(seconds), RATE)) for seconds in (0.3, 2.5, 4.0)]
    assert [encoder.length(item) for item in prepared] == [1, 2, 4]
    together = encoder.encode(prepared)
    assert together.lengths.tolist() == [1, 2, 4]
    for found, item in zip(together.ragged(), prepared, strict=True):
        torch.testing.assert_close(found, encoder.encode([item]).ragged()[0], rtol=1e-4, atol=1e-4)
    other = spec.model_copy(update={"options": {**spec.options, "hop": 48}})
    assert load_encoder(other).fingerprint != encoder.fingerprint
