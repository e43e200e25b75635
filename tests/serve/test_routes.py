"""What every route answers, on a small index."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lightcrl.serve.app import make_app
from served import data_url, png, served_with, wait_until_ready, wav
from shelves import make_embedder


def get(served, path, code=200, **params):
    answer = served.client.get(path, params=params)
    assert answer.status_code == code, answer.text
    return answer.json()


def search(served, code=200, **asked):
    answer = served.client.post("/search", json=asked)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_a_server_is_healthy_and_ready(shared):
    assert get(shared, "/healthz") == {"status": "ok"}
    assert get(shared, "/readyz") == {"status": "ok"}


def test_info_tells_items_modalities_and_columns(shared):
    told = get(shared, "/info")
    assert told["items"] == 8
    assert told["modalities"] == {"text": "text", "image": "image", "audio": "audio"}
    assert told["counts"] == {"text": 4, "image": 3, "audio": 1}
    assert told["columns"] == {
        "year": {"type": "number", "values": [2018, 2021]},
        "by": {"type": "text", "values": ["ada"]},
    }
    assert (told["writable"], told["engine"]) == (False, "exact")


def test_a_text_is_found_by_itself_with_what_the_library_says(shared):
    told = search(shared, text="two dogs", k=3, modality="text")
    assert [hit["id"] for hit in told["hits"]] == [
        hit.id for hit in shared.index.search("two dogs", k=3, modality="text")
    ]
    first = told["hits"][0]
    assert first["score"] == pytest.approx(1.0, abs=2e-3)
    assert (first["id"], first["text"], first["kind"], first["metadata"]) == ("t0", "two dogs", "text", {"year": 2018})
    assert first["content"] == "/items/t0/content"
    assert told["nothing"] is False
    assert 0 < told["seconds"] < 60


def test_composed_queries_are_those_of_the_library(shared):
    from lightcrl.index import Part

    told = search(
        shared,
        text=[{"value": "two dogs", "weight": 2}, "a red car"],
        image={"data": data_url((shared.folder / "media" / "1.png").read_bytes())},
        audio=data_url((shared.folder / "media" / "tone.wav").read_bytes(), "audio/wav"),
        like="t3",
        minus={"text": "a boat", "like": ["t2"]},
        filter="year >= 2018",
        k=5,
    )
    wanted = shared.index.search(
        [Part("two dogs", 2.0), "a red car"],
        image=shared.folder / "media" / "1.png",
        audio=shared.folder / "media" / "tone.wav",
        like="t3",
        minus=[Part("a boat", kind="text"), Part("t2", kind="like")],
        where="year >= 2018",
        k=5,
    )
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in wanted]
    assert [hit["score"] for hit in told["hits"]] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
    assert {hit["id"] for hit in told["hits"]}.isdisjoint({"t2", "t3"})


def test_hits_tell_the_name_of_a_file_and_not_its_folder(shared):
    hit = search(shared, like="dir/0.png", modality="image", k=1)["hits"][0]
    assert "/" not in hit["path"]
    assert str(shared.folder) not in str(hit)
    assert hit["content"] == "/items/" + hit["id"].replace("/", "%2F") + "/content"


def test_items_come_in_pages_by_filter_and_modality(shared):
    told = get(shared, "/items", offset=1, limit=2)
    assert ([item["id"] for item in told["items"]], told["total"]) == (["t1", "t2"], 8)
    told = get(shared, "/items", filter="year >= 2020", modality="text")
    assert ([item["id"] for item in told["items"]], told["total"]) == (["t2", "t3"], 2)
    assert get(shared, "/items", offset=100) == {"items": [], "total": 8}
    assert get(shared, "/items/dir%2F0.png")["metadata"] == {"year": 2020, "by": "ada"}


@pytest.mark.parametrize("chosen", [{}, {"modality": "text"}, {"modality": "image"}], ids=str)
def test_pages_are_parts_of_the_whole_list(shared, chosen):
    whole = get(shared, "/items", limit=100, **chosen)["items"]
    assert [item["id"] for item in whole] == [
        item["id"] for item in get(shared, "/items", filter="1 = 1", limit=100, **chosen)["items"]
    ]
    for offset in range(len(whole) + 2):
        page = get(shared, "/items", offset=offset, limit=3, **chosen)
        assert page == {"items": whole[offset : offset + 3], "total": len(whole)}


def test_thumbnails_have_the_size_asked_for(shared):
    answer = shared.client.get("/items/dir%2F0.png/content?size=24")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (24, 24)
    assert shared.client.get("/items/t0/content").text == "two dogs"


def test_sounds_come_in_ranges(shared):
    whole = shared.client.get("/items/tone.wav/content")
    assert whole.content == (shared.folder / "media" / "tone.wav").read_bytes()
    assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("audio/wav", "bytes")
    part = shared.client.get("/items/tone.wav/content", headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, whole.content[4:10])


def test_embeddings_have_openai_s_shape(shared):
    answer = shared.client.post("/v1/embeddings", json={"model": "m", "input": ["two dogs", data_url(png())]})
    told = answer.json()
    assert (told["object"], told["model"], told["usage"]) == ("list", "m", {"prompt_tokens": 0, "total_tokens": 0})
    wanted = [
        shared.index.embedder.encode(["two dogs"], "text")[0],
        shared.index.embedder.encode([png()], "image")[0],
    ]
    np.testing.assert_allclose([one["embedding"] for one in told["data"]], wanted, atol=1e-6)
    assert [one["index"] for one in told["data"]] == [0, 1]
    asked = {"input": "two dogs", "encoding_format": "base64", "user": "u"}
    coded = shared.client.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), wanted[0], atol=1e-6)


def test_the_map_is_the_plane_of_the_largest_spread(shared):
    told = get(shared, "/map")
    points = np.array(told["points"])
    vectors = shared.index.vectors(told["ids"]).astype(np.float64)
    spread = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), spread[:2], atol=2e-3)
    assert [told["modalities"][number] for number in told["modality"]] == ["text"] * 4 + ["image"] * 3 + ["audio"]
    assert told["columns"]["year"][:5] == [2018, 2019, 2020, 2021, 2020]
    assert len(get(shared, "/map", limit=3)["ids"]) == 3


def test_duplicates_and_outliers_are_the_library_s(shared):
    from lightcrl.index import find_outliers

    told = get(shared, "/duplicates", threshold=0.01, modality="text")["duplicates"]
    assert [one["modality"] for one in told] == ["text"]
    told = get(shared, "/outliers", n=2)["outliers"]
    assert [one["id"] for one in told] == [one.id for one in find_outliers(shared.index, most=2)]


def test_metrics_count_by_route(shared):
    get(shared, "/items/t0")
    text = shared.client.get("/metrics").text
    assert 'lightcrl_requests_total{method="GET",route="/items/{item:path}",status="200"}' in text
    assert "lightcrl_items 8.0" in text
    assert "t0" not in text


def test_the_openapi_schema_lists_the_contract(shared):
    paths = get(shared, "/openapi.json")["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == {
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /info",
        "POST /search",
        "POST /v1/embeddings",
        "POST /captions",
        "GET /items",
        "POST /items",
        "DELETE /items",
        "GET /items/{item}",
        "DELETE /items/{item}",
        "GET /items/{item}/content",
        "GET /map",
        "GET /duplicates",
        "GET /outliers",
    }


def test_items_are_added_replaced_found_and_removed(serving):
    served = serving(writable=True)
    asked = {"items": [{"id": "new", "text": "a purple owl", "metadata": {"year": 2030}}, {"data": data_url(png(9))}]}
    told = served.client.post("/items", json=asked).json()
    assert (told["added"], told["replaced"], told["rejected"]) == (2, 0, [])
    assert search(served, text="a purple owl", k=1)["hits"][0]["id"] == "new"
    assert served.client.get(f"/items/{told['ids'][1]}/content").status_code == 200
    assert served.client.post("/items", json={"items": [{"id": "new", "text": "an owl"}]}).json()["replaced"] == 1
    assert len(list((served.index.folder / "uploads").iterdir())) == 1
    for name in ("new", told["ids"][1]):
        assert served.client.delete(f"/items/{name}").json() == {"removed": 1}
        assert served.client.get(f"/items/{name}").status_code == 404
    assert list((served.index.folder / "uploads").iterdir()) == []
    assert served.client.delete("/items", params={"filter": "year = 2018"}).json() == {"removed": 1}
    assert (served.folder / "media" / "0.png").exists()
    assert get(served, "/info")["items"] == 7


def test_files_of_a_form_are_added_under_their_names(serving):
    served = serving(writable=True)
    files = [
        ("files", ("../../up.png", png(4), "image/png")),
        ("files", ("beep.wav", wav(), "audio/wav")),
        ("files", ("notes.pdf", b"%PDF", "application/pdf")),
        ("files", ("broken.jpg", png(5, kind="JPEG")[:200], "image/jpeg")),
    ]
    told = served.client.post("/items", files=files, data={"metadata": '{"year": 2031}'}).json()
    assert (told["added"], told["ids"]) == (2, ["up.png", "beep.wav"])
    assert [one["source"] for one in told["rejected"]] == ["notes.pdf", "broken.jpg"]
    assert get(served, "/items", filter="year = 2031")["total"] == 2
    assert all(path.parent.name == "uploads" for path in served.folder.rglob("*.wav") if path.name != "tone.wav")
    # Another picture of the same name does not take its place.
    other = served.client.post("/items", files=[("files", ("up.png", png(6), "image/png"))]).json()
    assert other["added"] == 1
    assert other["ids"][0].startswith("up-")
    again = served.client.post("/items", files=[("files", ("up.png", png(4), "image/png"))]).json()
    assert (again["added"], again["replaced"], again["ids"]) == (0, 0, ["up.png"])


def test_the_page_is_served_with_its_files_and_a_server_without_one_says_so(shared, tmp_path, embedder, monkeypatch):
    from lightcrl.serve import app

    monkeypatch.setattr(app, "PAGE", tmp_path / "nowhere")
    answer = shared.client.get("/")
    assert (answer.status_code, answer.text) == (404, "This server has no page; see /docs for what it answers.")
    monkeypatch.setattr(app, "PAGE", tmp_path / "page")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<p>here")
    (tmp_path / "page" / "app.js").write_text("1")
    with served_with(tmp_path / "world", embedder) as served:
        answer = served.client.get("/")
        assert answer.text == "<p>here"
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert served.client.get("/page/app.js").headers["content-type"].startswith("text/javascript")


def test_exported_graphs_encode_in_the_model_s_place(tmp_path):
    from lightcrl.export import ExportedEmbedder, export_onnx
    from lightcrl.index import Index
    from lightcrl.serve.service import Service, Settings

    model = make_embedder(kinds=("image",))
    index = Index.create(tmp_path / "index", model)
    picture = png(3, (32, 32))
    index.add([index.entry(png(n, (32, 32)), "image", f"p{n}") for n in range(5)])
    export_onnx(model, tmp_path / "onnx")
    exported = ExportedEmbedder(tmp_path / "onnx", threads=1)
    service = Service(index, Settings(encoder=lambda: exported))
    with TestClient(make_app(service)) as client:
        wait_until_ready(client.get)
        hits = client.post("/search", json={"image": data_url(picture), "k": 5}).json()["hits"]
        assert hits[0]["id"] == "p3"
        assert hits[0]["score"] == pytest.approx(1.0, abs=2e-3)
        assert service._encoder is exported
