"""Tiny transformers models with random weights, saved as a user would have them, and items to encode.

Dropout, layer drop and time masking are high in every config: in eval mode they must not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lightcrl.encoders.files import quiet
from lightcrl.tokens import TokenBatch

VOCABULARY = "a the red blue green dog cat bird runs sits sleeps on under mat roof two three small old and"
TEXTS = (
    "a red dog runs",
    "the blue bird",
    "two small cat and three old dog sits on the green mat under a roof",
    "bird",
    "a cat sleeps under the old roof",
)
WIDE = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 48}
DROP = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "initializer_range": 0.3}
SOUND = {**WIDE, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
SOUND_DROP = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.9, "mask_time_prob": 0.9}


def pictures() -> list[Image.Image]:
    """Pictures of several shapes."""
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (64, 48), (30, 90), (32, 32), (100, 20)]
    return [
        Image.fromarray(rng.integers(0, 256, (h // 5 + 1, w // 5 + 1, 3), dtype=np.uint8)).resize((w, h))
        for w, h in sizes
    ]


def sounds(rate: int = 16_000) -> list[tuple[np.ndarray, int]]:
    """Tones of several lengths, two of them equal."""
    rng = np.random.default_rng(0)
    found = []
    for seconds, pitch in ((0.3, 220), (0.5, 440), (0.21, 330), (0.3, 550), (0.4, 700)):
        time = np.arange(int(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.02, len(time))
        found.append((tone.astype(np.float32), rate))
    return found


def vectors() -> list[Any]:
    """Vectors and tokens in several forms, two of them with as many tokens."""
    return [np.array([1.0, 2, 3]), [[1, 2, 4], [3, 1, 1]], "[2, 7, 1]", np.eye(3, dtype=np.float16), [0.5, 0, 1]]


ITEMS: Mapping[str, Callable[[], Sequence[Any]]] = {
    "text": lambda: TEXTS,
    "image": pictures,
    "audio": sounds,
    "vectors": vectors,
}


def save(folder: Path, config: Any, *processors: Any, seed: int = 0) -> Path:
    """Random weights of `config` and what prepares its items."""
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder)
        for processor in processors:
            processor.save_pretrained(folder)
    return folder


def tokenizer(first: str | None, last: str | None, **settings: Any) -> Any:
    """One id per word, between two special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", *dict.fromkeys(token for name, token in settings.items() if name.endswith("_token"))]
    made = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(names + VOCABULARY.split())}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [token for token in (first, last) if token]
    if around:
        made.post_processor = processors.TemplateProcessing(
            single=" ".join(token for token in (first, "$A", last) if token),
            special_tokens=[(token, names.index(token)) for token in around],
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **settings)


def bert_words() -> Any:
    return tokenizer("[CLS]", "[SEP]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def bert(folder: Path, seed: int = 0, blocks: int = 5) -> Path:
    from transformers import BertConfig

    size = {**WIDE, "num_hidden_layers": blocks}
    return save(folder, BertConfig(vocab_size=40, max_position_embeddings=24, **size, **DROP), bert_words(), seed=seed)


def fnet(folder: Path) -> Path:
    """It mixes all places without a mask: padding changes what it says."""
    from transformers import FNetConfig

    config = FNetConfig(
        vocab_size=40, max_position_embeddings=24, hidden_dropout_prob=0.5, initializer_range=0.3, **WIDE
    )
    return save(folder, config, bert_words())


def llama(folder: Path) -> Path:
    """A causal model without a padding token."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=40, max_position_embeddings=24, attention_dropout=0.5, initializer_range=0.3, **WIDE
    )
    return save(folder, config, tokenizer("<s>", None, bos_token="<s>", eos_token="</s>"))


def qwen3(folder: Path, side: str = "left", blocks: int = 5) -> Path:
    """A causal model as embedders have it: every text ends in a token of its own, padding stands where `side` says."""
    from transformers import Qwen3Config

    config = Qwen3Config(
        vocab_size=40, max_position_embeddings=24, num_key_value_heads=2,
        head_dim=8, attention_dropout=0.5, initializer_range=0.3,
        **{**WIDE, "num_hidden_layers": blocks},
    )  # fmt: skip
    words = tokenizer(None, "</s>", eos_token="</s>", pad_token="<pad>", padding_side=side)
    return save(folder, config, words)


def xlnet(folder: Path) -> Path:
    """A model without a limit of length, whose special tokens come last and have a segment of their own."""
    from tokenizers import processors
    from transformers import XLNetConfig

    names = ["input_ids", "token_type_ids", "attention_mask"]
    special_tokens = {"pad_token": "<pad>", "cls_token": "<cls>", "sep_token": "<sep>"}
    words = tokenizer(None, None, **special_tokens, padding_side="left", model_input_names=names)
    special = [(token, words.convert_tokens_to_ids(token)) for token in ("<sep>", "<cls>")]
    words.backend_tokenizer.post_processor = processors.TemplateProcessing("$A:0 <sep>:0 <cls>:2", None, special)
    config = XLNetConfig(vocab_size=40, d_model=32, n_layer=5, n_head=4, d_inner=48, dropout=0.5, initializer_range=0.3)
    return save(folder, config, words)


def siglip(folder: Path) -> Path:
    """Two towers whose texts are all filled up to one length, and the padding is seen."""
    from transformers import SiglipConfig, SiglipImageProcessorPil

    config = SiglipConfig(
        text_config={
            **WIDE,
            "vocab_size": 40,
            "max_position_embeddings": 20,
            "projection_size": 32,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
        vision_config={**WIDE, "image_size": 32, "patch_size": 8},
    )
    words = tokenizer(
        None, "</s>", eos_token="</s>", pad_token="<pad>", model_max_length=20, model_input_names=["input_ids"]
    )
    return save(folder, config, words, SiglipImageProcessorPil(size={"height": 32, "width": 32}))


def clip(folder: Path) -> Path:
    """Two towers in one folder."""
    from transformers import CLIPConfig, CLIPImageProcessorPil

    text = {**WIDE, "vocab_size": 40, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2}
    config = CLIPConfig(
        text_config={**text, "attention_dropout": 0.5},
        vision_config={**WIDE, "image_size": 32, "patch_size": 8, "attention_dropout": 0.5},
    )
    words = tokenizer("<s>", "</s>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return save(folder, config, words, CLIPImageProcessorPil(**size))


def t5(folder: Path) -> Path:
    """An encoder beside a decoder."""
    from transformers import T5Config

    config = T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4, dropout_rate=0.5)
    return save(folder, config, tokenizer(None, "</s>", eos_token="</s>", pad_token="<pad>"))


def vit(folder: Path, seed: int = 0, blocks: int = 5) -> Path:
    from transformers import ViTConfig, ViTImageProcessorPil

    config = ViTConfig(image_size=32, patch_size=8, **{**WIDE, "num_hidden_layers": blocks}, **DROP)
    return save(folder, config, ViTImageProcessorPil(size={"height": 32, "width": 32}), seed=seed)


def registers(folder: Path) -> Path:
    """A CLS token, four registers, then the patches."""
    from transformers import Dinov2WithRegistersConfig, ViTImageProcessorPil

    config = Dinov2WithRegistersConfig(image_size=32, patch_size=8, drop_path_rate=0.5, **WIDE, **DROP)
    return save(folder, config, ViTImageProcessorPil(size={"height": 32, "width": 32}))


def mae(folder: Path) -> Path:
    """It hides patches at random, in eval mode too."""
    from transformers import ViTImageProcessorPil, ViTMAEConfig

    config = ViTMAEConfig(image_size=32, patch_size=8, **WIDE, **DROP)
    return save(folder, config, ViTImageProcessorPil(size={"height": 32, "width": 32}))


def resnet(folder: Path) -> Path:
    from transformers import ResNetConfig, ViTImageProcessorPil

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], layer_type="basic")
    return save(folder, config, ViTImageProcessorPil(size={"height": 64, "width": 64}))


def mobilenet(folder: Path) -> Path:
    """The last of its blocks is not among its hidden states."""
    from transformers import MobileNetV2Config, MobileNetV2ImageProcessorPil

    config = MobileNetV2Config(depth_multiplier=0.1, image_size=64, initializer_range=0.25)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    return save(folder, config, MobileNetV2ImageProcessorPil(**size))


def wav2vec2(folder: Path, masked: bool = True) -> Path:
    """Waveforms; with a mask (layer norm) or, as in the first models, without (group norm)."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if masked else {"feat_extract_norm": "group"}
    return save(
        folder, Wav2Vec2Config(**SOUND, **SOUND_DROP, **norm), Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    )


def data2vec(folder: Path) -> Path:
    """It takes a mask, and yet padding reaches its tokens."""
    from transformers import Data2VecAudioConfig, Wav2Vec2FeatureExtractor

    config = Data2VecAudioConfig(**{**SOUND, "num_conv_pos_embeddings": 5}, **SOUND_DROP, conv_pos_kernel_size=9)
    return save(folder, config, Wav2Vec2FeatureExtractor(return_attention_mask=True))


def ast(folder: Path) -> Path:
    """Patches of a spectrogram, after a CLS and a distillation token."""
    from transformers import ASTConfig, ASTFeatureExtractor

    size = {"max_length": 64, "num_mel_bins": 32}
    return save(folder, ASTConfig(**WIDE, **DROP, **size), ASTFeatureExtractor(**size))


def whisper(folder: Path) -> Path:
    """Sounds filled up to one second; an encoder beside a decoder."""
    from transformers import WhisperConfig, WhisperFeatureExtractor

    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    ids = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    depth = {"encoder_layers": 4, "decoder_layers": 1, "d_model": 32, "max_source_positions": 50}
    return save(
        folder,
        WhisperConfig(**heads, **ids, **depth, dropout=0.5, encoder_layerdrop=0.9),
        WhisperFeatureExtractor(chunk_length=1),
    )


class Letters:
    """An encoder as a user may write it: how often a text has each letter."""

    def __init__(self, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> None:
        self.alphabet = alphabet

    def encode(self, items: Sequence[str]) -> np.ndarray:
        return np.array([[text.count(letter) for letter in self.alphabet] for text in items])


class LetterTokens(Letters):
    """The same, one token per word."""

    slots = 1
    fingerprint = "v1"

    def encode(self, items: Sequence[str]) -> TokenBatch:
        words = [np.stack([super(LetterTokens, self).encode([word])[0] for word in text.split()]) for text in items]
        return TokenBatch.from_ragged([torch.from_numpy(word).double() for word in words])


MODELS: Mapping[str, tuple[str, Callable[[Path], Path]]] = {
    "bert": ("text", bert),
    "fnet": ("text", fnet),
    "llama": ("text", llama),
    "qwen3": ("text", qwen3),
    "xlnet": ("text", xlnet),
    "clip-text": ("text", clip),
    "siglip-text": ("text", siglip),
    "t5": ("text", t5),
    "vit": ("image", vit),
    "registers": ("image", registers),
    "clip-image": ("image", clip),
    "siglip-image": ("image", siglip),
    "resnet": ("image", resnet),
    "mobilenet": ("image", mobilenet),
    "wav2vec2": ("audio", wav2vec2),
    "wav2vec2-unmasked": ("audio", lambda folder: wav2vec2(folder, masked=False)),
    "data2vec": ("audio", data2vec),
    "ast": ("audio", ast),
    "whisper": ("audio", whisper),
}
