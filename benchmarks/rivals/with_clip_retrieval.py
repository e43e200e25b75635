"""clip-retrieval: embeddings, index and queries of a folder of pictures, by a model that open_clip has trained.

python with_clip_retrieval.py CONFIG CHECKPOINT, in a folder with dev.csv and the pictures in photos/

The commands have no option for a model's configuration, so their functions are called. `clip-retrieval filter` is
left out: it loads OpenAI's ViT-B/32 whatever the index was built with. Queries go to the service of
`clip-retrieval back`, without HTTP.
"""

import json
import sys
import time
from pathlib import Path

import open_clip
import pandas as pd
from clip_retrieval.clip_back import ClipOptions, KnnService, load_clip_indices
from clip_retrieval.clip_index import clip_index
from clip_retrieval.clip_inference.main import main as clip_inference

QUERIES = 200
"""Greatest number of queries: on a busy machine one takes up to half a second."""

if __name__ == "__main__":
    config, checkpoint = sys.argv[1:]
    open_clip.add_model_config(config)
    model = f"open_clip:vit-minilm/{checkpoint}"
    clip_inference("photos", "embeddings", enable_text=False, clip_model=model, batch_size=64, num_prepro_workers=1)
    clip_index("embeddings", "index")

    Path("indices.json").write_text(json.dumps({"photos": "index"}))
    options = ClipOptions("", model, False, False, ["image_path"], False, False, False, False, False, False, False)
    service = KnnService(clip_resources=load_clip_indices("indices.json", options))
    queries = pd.read_csv("dev.csv").groupby("image", sort=False)["caption"].first()[:QUERIES]
    start = time.perf_counter()
    answers = [service.query(caption, num_images=1, num_result_ids=10, deduplicate=False) for caption in queries]
    seconds = time.perf_counter() - start
    first = [Path(hits[0]["image_path"]).name for hits in answers]
    right = sum(name == Path(path).name for name, path in zip(first, queries.index, strict=True))
    figures = {"text_to_image": right / len(first), "query": seconds / len(first)}
    Path("queries.json").write_text(json.dumps(figures))
