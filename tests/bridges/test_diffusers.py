"""Hand-over to an unCLIP pipeline of diffusers, tiny and with random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from imagining import PRIOR, add_head
from lightcrl.bridges.diffusers import imagine, load_pipeline
from lightcrl.errors import BridgeError
from lightcrl.imaginer import TextPrior
from shelves import make_embedder

HIDDEN, SIZE = 16, 16


@pytest.fixture(scope="module")
def prior() -> TextPrior:
    """A prior that makes the last slot of the image encoder."""
    embedder = make_embedder(kinds=("text", "image"))
    add_head(embedder, "prior", "prior", PRIOR | {"slot": 17})
    return TextPrior(embedder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prior) -> str:
    """`StableUnCLIPImg2ImgPipeline` on disk, whose image encoder has features as wide as that slot."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    width = prior.head.width
    layers = {"hidden_size": HIDDEN, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    place = tmp_path_factory.mktemp("words")
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    Tokenizer(models.BPE(words, [])).save(str(place / "tokenizer.json"))
    (place / "vocab.json").write_text(json.dumps(words))
    (place / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = CLIPTextConfig(vocab_size=3, max_position_embeddings=8, **special, **layers)
    vision = CLIPVisionConfig(image_size=8, patch_size=4, projection_dim=width, **layers)
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2, cross_attention_dim=HIDDEN, attention_head_dim=2, layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 8), class_embed_type="projection", projection_class_embeddings_input_dim=2 * width,
    )  # fmt: skip
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4, "sample_size": SIZE}
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(crop_size=8, size=8), unet=unet,
        image_encoder=CLIPVisionModelWithProjection(vision),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=width), image_noising_scheduler=DDPMScheduler(),
        tokenizer=CLIPTokenizer.from_pretrained(place, model_max_length=8), text_encoder=CLIPTextModel(text),
        scheduler=DDIMScheduler(steps_offset=1), vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
        ),
    )  # fmt: skip
    saved = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(saved)
    return str(saved)


def test_a_pipeline_draws_the_features_that_the_prior_makes(prior, folder):
    pipeline = load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "output_type": "np"}
    drawn = np.stack(imagine(prior, pipeline, ["three blue stars", "a ring"], samples=2, seed=3, **settings))
    assert drawn.shape == (2, 2, SIZE, SIZE, 3)
    features = torch.from_numpy(prior.vectors(["a ring"], seed=3))
    given = {"image_embeds": features, "prompt": "", "num_images_per_prompt": 2}
    expected = pipeline(**given, generator=torch.Generator().manual_seed(3), **settings).images
    np.testing.assert_allclose(drawn[1], expected, atol=1e-5)
    assert np.abs(drawn[1] - drawn[0]).max() > 1e-4  # another prompt with the same noise
    assert np.abs(drawn[1, 0] - drawn[1, 1]).max() > 1e-2


class Variation:
    """The call of `UnCLIPImageVariationPipeline`, which diffusers keeps but no longer changes."""

    def __call__(self, image=None, num_images_per_prompt=1, generator=None, image_embeddings=None):
        self.given = image_embeddings
        return type("Output", (), {"images": [None] * len(image_embeddings)})


def test_features_are_handed_over_under_the_older_name(prior):
    pipeline = Variation()
    assert imagine(prior, pipeline, ["a ring"], samples=3) == [[None] * 3]
    np.testing.assert_array_equal(pipeline.given.numpy(), np.repeat(prior.vectors(["a ring"]), 3, 0))


def test_what_does_not_fit_is_refused_with_the_reason(prior, tmp_path):
    with pytest.raises(BridgeError, match="takes no image features; expected an unCLIP pipeline"):
        imagine(prior, lambda prompt: None, ["a ring"])
    other = Variation()
    other.image_encoder = type("Encoder", (), {"config": type("Config", (), {"projection_dim": 5})})
    with pytest.raises(BridgeError, match=rf"vectors of {prior.head.width} numbers, and Variation reads 5"):
        imagine(prior, other, ["a ring"])
    with pytest.raises(BridgeError, match="no pipeline in"):
        load_pipeline(str(tmp_path))
