"""LightCRL: an index of a folder of pictures and queries, by a trained model.

python with_lightcrl_index.py MODEL, in a folder with dev.csv and the pictures in photos/
"""

import json
import sys
import time
from pathlib import Path

import pandas as pd

from lightcrl.index import Index

index = Index.create("photos.index", sys.argv[1])
index.add("photos/")

queries = pd.read_csv("dev.csv").groupby("image", sort=False)["caption"].first()
index.search("warm", k=1)
start = time.perf_counter()
answers = [index.search(caption, modality="image", k=10) for caption in queries]
seconds = time.perf_counter() - start
first = [Path(str(hits[0].path)).name for hits in answers]
right = sum(name == Path(path).name for name, path in zip(first, queries.index, strict=True))
figures = {"text_to_image": right / len(first), "query": seconds / len(first)}
Path("queries.json").write_text(json.dumps(figures))
