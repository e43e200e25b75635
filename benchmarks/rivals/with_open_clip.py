"""open_clip: its training loop with locked towers; a timm ViT from converted weights, MiniLM as its Hugging Face tower.

python with_open_clip.py MODELS EPOCHS, in a folder with train.csv and dev.csv
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip_train.main import main
from PIL import Image
from safetensors.torch import load_file, save_file

models, epochs = sys.argv[1:3]


def to_timm(source: str, target: Path) -> None:
    """Write a ViT of transformers as timm's folder: the hub, where timm's own weights are, is out of reach."""
    weights = {name: value.float() for name, value in load_file(f"{source}/model.safetensors").items()}
    renamed = {}
    for name, value in weights.items():
        name = re.sub(r"^vit\.(embeddings\.|encoder\.)?", "", name)
        if ".attention.attention." in name:
            if ".query." in name:
                parts = [weights["vit.encoder." + name.replace("query", part)] for part in ("query", "key", "value")]
                value = torch.cat(parts)
                name = name.replace("attention.attention.query", "attn.qkv")
            else:
                continue
        for old, new in (
            ("patch_embeddings.projection", "patch_embed.proj"),
            ("position_embeddings", "pos_embed"),
            ("layer.", "blocks."),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("layernorm", "norm"),
            ("classifier", "head"),
        ):
            name = name.replace(old, new)
        renamed[name] = value
    # This ViT takes (x - 0.5) / 0.5, open_clip gives (x - mean) / std: its first layer makes up for it.
    mean, std = (torch.tensor(values) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    first = renamed["patch_embed.proj.weight"]
    renamed["patch_embed.proj.bias"] += torch.einsum("ochw,c->o", first, (mean - 0.5) / 0.5)
    renamed["patch_embed.proj.weight"] = first * (std / 0.5)[:, None, None]
    target.mkdir(exist_ok=True)
    save_file(renamed, target / "model.safetensors")
    settings = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}
    (target / "config.json").write_text(json.dumps(settings))


to_timm(f"{models}/vit-tiny-patch16-224", Path("vit"))
config = {
    "embed_dim": 256,
    "vision_cfg": {
        "timm_model_name": f"local-dir:{Path('vit').absolute()}",
        "timm_model_pretrained": True,
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": f"{models}/all-MiniLM-L6-v2",
        "hf_tokenizer_name": f"{models}/all-MiniLM-L6-v2",
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
    },
}
Path("vit-minilm.json").write_text(json.dumps(config))
open_clip.add_model_config("vit-minilm.json")
main(
    "--model vit-minilm --pretrained-image --lock-image --lock-text --lock-text-freeze-layer-norm "
    "--device cpu --precision amp_bf16 "
    "--train-data train.csv --dataset-type csv --csv-separator , --csv-img-key image --csv-caption-key caption "
    "--batch-size 64 --lr 5e-3 --wd 0.001 --warmup 10 --workers 0 "
    f"--epochs {epochs} --logs out --name run --save-most-recent --zeroshot-frequency 0".split()
)

checkpoint = "out/run/checkpoints/epoch_latest.pt"
model, _, prepare = open_clip.create_model_and_transforms("vit-minilm", pretrained=checkpoint)
tokens = open_clip.get_tokenizer("vit-minilm")
model.eval()
dev = pd.read_csv("dev.csv")
paths, captions = dev["image"].unique(), dev["caption"].tolist()
with torch.inference_mode():
    images = [
        model.encode_image(torch.stack([prepare(Image.open(path)) for path in paths[start : start + 64]]))
        for start in range(0, len(paths), 64)
    ]
    texts = [model.encode_text(tokens(captions[start : start + 64])) for start in range(0, len(captions), 64)]
np.save("image.npy", torch.nn.functional.normalize(torch.cat(images), dim=1))
np.save("text.npy", torch.nn.functional.normalize(torch.cat(texts), dim=1))
