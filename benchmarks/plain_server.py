"""The server that one writes in an hour: FastAPI and faiss, each request by itself. `benchmarks/server.py` starts it.

    python benchmarks/plain_server.py INDEX --port 8001

It takes the model and the vectors of an index, and has neither a catalog nor batches nor limits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import faiss
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from lightcrl.index import Index

BLOCK = 65_536


class Query(BaseModel):
    text: str
    k: int = 24


def make_app(folder: Path) -> FastAPI:
    index = Index.open(folder)
    file = next((folder / "exact").glob("vectors-*.bin"))
    vectors = np.memmap(file, np.float16, "r").reshape(-1, index.dim)
    flat = faiss.IndexScalarQuantizer(index.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat.train(np.asarray(vectors[:1], np.float32))
    for start in range(0, len(vectors), BLOCK):
        flat.add(np.asarray(vectors[start : start + BLOCK], np.float32))
    embedder = index.embedder
    embedder.encode(["a first text"], "text")
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/search")
    def search(query: Query) -> dict[str, list[dict[str, float | str]]]:
        scores, rows = flat.search(embedder.encode([query.text], "text"), query.k)
        hits = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return {"hits": [{"id": str(row), "score": score} for row, score in hits]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(make_app(given.index), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
