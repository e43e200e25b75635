"""A missing extra gives one line with its pip command, and the command line starts without any."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from lightcrl.errors import MissingExtraError

PROJECT = Path(__file__).parents[1]
# What users install for a feature; the others are for developers.
FOR_DEVELOPERS = {"bench", "demo", "dev", "docs"}
# By extra: the packages to hide, and the modules that must be read anew without them.
PACKAGES = {
    "hub": ("datasets",),
    "audio": ("soundfile",),
    "report": ("matplotlib", "jinja2"),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "lora": ("peft",),
    "captions": ("sacrebleu",),
    "generate": ("diffusers",),
    "mlflow": ("mlflow",),
    "mteb": ("mteb",),
    "ray": ("ray",),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "search": ("lancedb",),
    "sentence-transformers": ("sentence_transformers",),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
}
READ_ANEW = ("torch.utils.tensorboard", "lightcrl.bridges", "lightcrl.report.figures", "lightcrl.report.page")


def hide(monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...]) -> None:
    """Make importing these packages fail, as if they were not installed."""
    from fsspec.registry import _registry

    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            monkeypatch.setitem(sys.modules, name, None)
        elif name.startswith(READ_ANEW):
            monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    for scheme in ("s3", "s3a", "gs", "gcs"):
        monkeypatch.delitem(_registry, scheme, raising=False)


def read_sound(folder: Path) -> None:
    from lightcrl.encoders.audio import _from_file

    (folder / "a.wav").write_bytes(b"RIFF")
    _from_file(folder / "a.wav", 1.0)


def read_hub(folder: Path) -> None:
    from lightcrl.data.hub import open_hub

    open_hub("owner/name")


def render_page(folder: Path) -> None:
    from lightcrl.report.run_page import render

    render()


def export_graph(folder: Path) -> None:
    from lightcrl.export import export_onnx

    export_onnx(None, folder)


def adapt(folder: Path) -> None:
    from lightcrl.encoders.tower import add_adapters

    add_adapters(nn.Linear(2, 2), {"weight"}, 2)


def count_bleu(folder: Path) -> None:
    from lightcrl.metrics.captions import bleu_counts

    bleu_counts([], [])


def encode_on_ray(folder: Path) -> None:
    from lightcrl.features.engines import ray

    list(ray.run(None, None, iter(()), lambda done: None, None))


def open_store(uri: str) -> Callable[[Path], None]:
    def open_(folder: Path) -> None:
        from lightcrl.files.remote import folder_at

        folder_at(uri).sizes()

    return open_


def make_lance(folder: Path) -> None:
    from lightcrl.index import ENGINES

    ENGINES.load("lancedb")(folder, 4, "float16", {})


def serve_index(folder: Path) -> None:
    from lightcrl.commands.serve import serve

    serve(folder)


def draw_by_a_pipeline(folder: Path) -> None:
    from lightcrl.bridges.diffusers import load_pipeline

    load_pipeline("a")


def measure_with_mteb(folder: Path) -> None:
    import lightcrl.bridges.mteb  # noqa: F401


def load_by_sentence_transformers(folder: Path) -> None:
    import lightcrl.bridges.sentence_transformers  # noqa: F401


def track_with(name: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        from lightcrl.training.trackers import check_trackers

        check_trackers([name])

    return check


USES = [
    ("hub", read_hub),
    ("audio", read_sound),
    ("report", render_page),
    ("onnx", export_graph),
    ("lora", adapt),
    ("captions", count_bleu),
    ("generate", draw_by_a_pipeline),
    ("mteb", measure_with_mteb),
    ("sentence-transformers", load_by_sentence_transformers),
    ("ray", encode_on_ray),
    ("s3", open_store("s3://bucket/features")),
    ("gcs", open_store("gs://bucket/features")),
    ("search", make_lance),
    ("serve", serve_index),
    *((name, track_with(name)) for name in ("tensorboard", "trackio", "wandb", "mlflow")),
]


@pytest.mark.parametrize(("extra", "use"), USES)
def test_a_missing_extra_is_one_line_with_its_pip_command(extra, use, monkeypatch, tmp_path):
    hide(monkeypatch, PACKAGES[extra])
    with pytest.raises(MissingExtraError) as error:
        use(tmp_path)
    message = str(error.value)
    assert message.endswith(f"needs packages that are not installed. Run: pip install 'lightcrl[{extra}]'")
    assert "\n" not in message


def test_training_goes_on_without_tensorboard(monkeypatch):
    from lightcrl.training.spec import TrainingSpec

    assert TrainingSpec().tracked_by == ("tensorboard",)
    hide(monkeypatch, PACKAGES["tensorboard"])
    assert TrainingSpec().tracked_by == ()
    assert TrainingSpec(trackers=("tensorboard",)).tracked_by == ("tensorboard",)


def test_every_extra_of_the_project_is_tried():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() - FOR_DEVELOPERS == PACKAGES.keys()
    assert {extra for extra, _ in USES} == PACKAGES.keys()


def test_help_needs_no_extra_and_no_torch():
    hidden = [name for packages in PACKAGES.values() for name in packages]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); sys.argv = ['lightcrl', '--help']\n"
        "from lightcrl.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
