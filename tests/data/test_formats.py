"""The field's own files, as their makers publish them, told apart by content alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from PIL import Image

from lightcrl.data import Dataset, DataSpec, load_dataset
from lightcrl.data.delimited import find_delimiter
from lightcrl.data.documents import DOCUMENTS
from lightcrl.data.pairs import read_pairs
from lightcrl.errors import DataError

KINDS = {"image": "image", "text": "text"}
NAMES = ("1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg", "10002456.jpg")
CAPTIONS = ("A child in a pink dress .", "A girl, going into a wooden building .", "Zwei Hunde spielen, draußen |")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "pictures" / "val2014").mkdir(parents=True, exist_ok=True)
        for place in (tmp_path / "pictures" / name, tmp_path / "pictures" / "val2014" / name):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(place)
    return tmp_path


def load(folder: Path, name: str, content: str | bytes, **given: object) -> Dataset:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    spec = {"path": str(path), "root": str(folder / "pictures"), "dev_fraction": 0.0, "max_rejected": 1.0, **given}
    return load_dataset(DataSpec(**spec), KINDS)


def texts(data: Dataset) -> dict[str, list[str]]:
    """By group, its texts."""
    found: dict[str, list[str]] = {name: [] for name in data.groups}
    for item, group in data.links["text"]:
        found[data.groups[group]].append(data.items["text"][item].raw)
    return {name: sorted(group) for name, group in found.items()}


def test_coco_captions(folder):
    images = [
        {"license": 1, "file_name": name, "height": 4, "width": 4, "id": 90 + number}
        for number, name in enumerate(NAMES[:2])
    ]
    notes = [{"image_id": 90 + n % 2, "id": n, "caption": f"{CAPTIONS[n % 3]} {n}\n"} for n in range(10)]
    notes.append({"image_id": 7, "id": 99, "caption": "of no image"})
    document = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": notes}
    for name, content in (
        ("captions_val2014.json", json.dumps(document)),
        ("pretty.json", json.dumps(document, indent=1)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(document).encode()),
        ("packed.json.gz", gzip.compress(json.dumps(document).encode())),
    ):
        data = load(folder, name, content)
        assert {group: len(found) for group, found in texts(data).items()} == {NAMES[0]: 5, NAMES[1]: 5}
        assert texts(data)[NAMES[0]][0] == "A child in a pink dress . 0"
        assert [one.detail for one in data.rejected] == ["1 captions of image 7, which is not among the images"]


def karpathy() -> dict[str, object]:
    splits = ("train", "val", "restval")
    return {
        "dataset": "coco",
        "images": [
            {
                "filepath": "val2014",
                "filename": name,
                "sentids": [0, 1],
                "imgid": number,
                "split": splits[number],
                "sentences": [
                    {"tokens": ["a"], "raw": text, "sentid": number} for text in (CAPTIONS[number], "A dog.")
                ],
            }
            for number, name in enumerate(NAMES)
        ],
    }


def test_karpathys_splits(folder):
    data = load(folder, "dataset_coco.json", json.dumps(karpathy()))
    assert dict(zip(data.groups, data.splits, strict=True)) == {
        f"val2014/{NAMES[0]}": "train",
        f"val2014/{NAMES[1]}": "dev",
        f"val2014/{NAMES[2]}": "train",
    }
    assert texts(data)[f"val2014/{NAMES[1]}"] == sorted(["A dog.", CAPTIONS[1]])


def test_the_split_that_the_recipe_gives_counts_more(folder):
    (folder / "dataset.json").write_text(json.dumps(karpathy()))
    spec = DataSpec(train=str(folder / "dataset.json"), root=str(folder / "pictures"))
    assert set(load_dataset(spec, KINDS).splits) == {"train"}


def test_flickr8ks_token_file(folder):
    lines = [f"{name}#{n}\t{CAPTIONS[n]}" for name in NAMES[:2] for n in range(3)]
    for name, end in (("Flickr8k.token.txt", "\n"), ("Flickr8k.lemma.token", "\r\n")):
        data = load(folder, name, end.join([*lines, "", "broken line"]))
        assert texts(data) == {name: sorted(CAPTIONS) for name in NAMES[:2]}
        assert [(one.source, one.reason) for one in data.rejected] == [(f"{(folder / name).name}:8", "broken line")]


@pytest.mark.parametrize("header", ["image_name| comment_number| comment", "image| comment_number| comment"])
def test_flickr30ks_results(folder, header):
    rows = [f"{name}| {n}| {CAPTIONS[n].rstrip('|').strip()}" for name in NAMES for n in range(3)]
    data = load(folder, "results.csv", "\n".join([header, *rows]) + "\n")
    assert set(texts(data)) == set(NAMES)
    assert "A girl, going into a wooden building ." in texts(data)[NAMES[0]]
    assert not data.rejected


def test_an_array_of_records(folder):
    records = [{"image": NAMES[0], "text": [CAPTIONS[0], CAPTIONS[1]]}, {"image": NAMES[1], "text": CAPTIONS[2]}, 7]
    for name, indent in (("records.json", None), ("pretty.json", 2), ("named_wrongly.jsonl", 2)):
        data = load(folder, name, json.dumps(records, indent=indent, ensure_ascii=False))
        assert texts(data) == {NAMES[0]: sorted(CAPTIONS[:2]), NAMES[1]: [CAPTIONS[2]]}
        assert [one.reason for one in data.rejected] == ["broken record"]


def test_json_lines_may_have_the_ending_json(folder):
    lines = [json.dumps({"image": name, "text": CAPTIONS[0]}) for name in NAMES]
    assert set(texts(load(folder, "lines.json", "\n".join(lines)))) == set(NAMES)


@pytest.mark.parametrize("content", ['{"a": 1, "b": [2]}', "{", '{\n "a": 1\n}'])
def test_another_document_is_refused_with_what_it_holds(folder, content):
    with pytest.raises(DataError, match=r"expected COCO captions, Karpathy's splits|is not JSON"):
        load(folder, "other.json", content)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt"])
def test_what_stands_between_cells_is_found(folder, delimiter, ending):
    quoted = '"A girl, or ""two""; going | in\tnow"'
    lines = ["image{}text", NAMES[0] + '{}"A child"', NAMES[1] + "{}" + quoted, NAMES[2] + "{}plain"]
    content = "\ufeff" + "\r\n".join(line.replace("{}", delimiter) for line in lines)
    data = load(folder, f"table{ending}", content)
    assert texts(data)[NAMES[1]] == ['A girl, or "two"; going | in\tnow']
    assert len(data.groups) == 3


def test_delimiters_within_texts_do_not_decide():
    assert find_delimiter(["a,b", "1;2,3;4", "5;6,7"]) == ","
    assert find_delimiter(["image;text", "1.jpg;a, b, c", "2.jpg;d, e, f"]) == ";"
    assert find_delimiter(["text"]) == ","
    assert find_delimiter(["text"], "\t") == "\t"


def test_another_encoding_is_named(folder):
    content = f"image,text\n{NAMES[0]},Zwei Hunde draußen\n".encode("latin-1")
    data = load(folder, "latin.csv", content)
    (aside,) = data.rejected
    assert aside.reason == "text that is not Unicode"
    assert "data.encoding" in aside.detail
    assert texts(load(folder, "latin.csv", content, encoding="latin-1")) == {NAMES[0]: ["Zwei Hunde draußen"]}
    lines = json.dumps({"image": NAMES[0], "text": "draußen"}, ensure_ascii=False).encode("latin-1")
    broken = load(folder, "latin.jsonl", lines + b'\n{"image": "x", "text": "y"}').rejected[0]
    assert "data.encoding" in broken.detail
    assert texts(load(folder, "latin.jsonl", lines, encoding="cp1252")) == {NAMES[0]: ["draußen"]}
    with pytest.raises(DataError, match=r"data\.encoding is 'klingon'"):
        load(folder, "latin.csv", content, encoding="klingon")


def test_a_cell_with_a_list_holds_several_texts(folder):
    cells = ['["A dog.", "Two dogs."]', "[music] a man sings", "['A dog.', 'Two dogs.']"]
    rows = [f'{name},"' + cell.replace('"', '""') + '"' for name, cell in zip(NAMES, cells, strict=True)]
    data = load(folder, "lists.csv", "\n".join(["image,text", *rows]))
    assert texts(data) == {NAMES[0]: ["A dog.", "Two dogs."], NAMES[1]: ["[music] a man sings"], NAMES[2]: []}
    ((source, reason, detail),) = [(one.source, one.reason, one.detail) for one in data.rejected]
    assert (source, reason) == ("lists.csv:4", "broken list")
    assert "column 'text'" in detail


def test_pairs_of_texts_are_read_the_same_way(tmp_path):
    rows = [{"text1": f"a {n}", "text2": f"b {n}", "score": n / 5} for n in range(5)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    (tmp_path / "pairs.csv").write_text("text1;text2;score\n" + "".join(f"a {n};b {n};{n / 5}\n" for n in range(5)))
    for name in ("pairs.json", "pairs.csv"):
        pairs, _ = read_pairs(str(tmp_path / name))
        assert (pairs.left, pairs.truth.tolist()) == (tuple(f"a {n}" for n in range(5)), [0, 0.2, 0.4, 0.6, 0.8])


def test_every_document_is_told_from_the_others():
    examples = {"coco": {"images": [], "annotations": []}, "karpathy": karpathy(), "records": []}
    assert examples.keys() == DOCUMENTS.keys()
    for name, example in examples.items():
        assert [other for other, format in DOCUMENTS.items() if format.fits(example)] == [name]
