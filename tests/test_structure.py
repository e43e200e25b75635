"""The shape of the project: layers respected, public names listed, imports light, the wheel complete."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

import lightcrl

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "lightcrl"

# From the bottom up; a module may import from its own layer and from those below it. Longer names win.
LAYERS = (
    ("lightcrl", "errors"),
    ("registry", "files", "events", "specs", "tokens", "leaves", "processes", "machine", "sheets", "lineage"),
    ("encoders", "data", "losses", "metrics", "methods.base", "methods.dropout", "methods.hubs", "methods.stems"),
    ("methods",),
    ("features", "heads", "index.search", "index.vectors"),
    ("card", "checkpoint", "training", "tasks.spec"),
    ("embedder", "tasks", "recipe", "runs"),
    ("pipeline", "export", "matcher", "captioner", "imaginer", "index", "growth", "bridges"),
    ("studies", "report", "serve"),
    ("demo", "arguments"),
    ("commands", "cli", "__main__"),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def height(module: str) -> int:
    """The layer of `lightcrl.a.b`, by the longest name that is listed."""
    name = module.removeprefix("lightcrl").removeprefix(".") or "lightcrl"
    while name not in HEIGHT:
        assert "." in name, f"{module} has no layer; give it one in {Path(__file__).name} and docs/architecture.md"
        name = name.rpartition(".")[0]
    return HEIGHT[name]


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it; names for type checkers alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test)
        for node in ast.walk(test)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lightcrl":
            module = node.module or ""
            below = {f"{module}.{alias.name}" for alias in node.names}
            files = {name for name in below if (SOURCE.parent / (name.replace(".", "/") + ".py")).exists()}
            found |= files | ({module} if len(files) < len(below) else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "lightcrl"}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_imports_only_from_its_layer_and_below(path):
    name = ".".join(("lightcrl", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    above = [module for module in imported(path) if height(module) > height(name)]
    assert not above


def rooms(module: str) -> str:
    """The folder of a module below the package, or the module itself where it lies at the root."""
    parts = module.split(".")[1:]
    return parts[0] if parts else "lightcrl"


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of places that import each other, by SciPy's strongly connected components."""
    names = sorted(edges)
    place = {name: number for number, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=bool)
    for name, others in edges.items():
        for other in others & place.keys():
            matrix[place[name], place[other]] = name != other
    count, labels = connected_components(csr_matrix(matrix), connection="strong")
    groups = [[name for name in names if labels[place[name]] == label] for label in range(count)]
    return [group for group in groups if len(group) > 1]


def module_name(path: Path) -> str:
    return ".".join(("lightcrl", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def test_at_most_eleven_layers():
    assert len(LAYERS) <= 11


def test_no_files_and_no_folders_import_each_other_in_circles():
    files = {module_name(path): imported(path) for path in FILES}
    folders: dict[str, set[str]] = {}
    for name, others in files.items():
        folders.setdefault(rooms(name), set()).update(rooms(other) for other in others)
    # The package's own table of public names loads them lazily.
    folders.pop("lightcrl"), files.pop("lightcrl")
    assert circles(folders) == []
    assert circles(files) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_public_names_are_these_and_all_can_be_had():
    assert sorted(lightcrl.__all__) == [
        "Captioner",
        "Checkpoint",
        "Embedder",
        "Encoder",
        "FeatureStore",
        "Features",
        "LightCRLError",
        "Recipe",
        "TokenBatch",
        "__version__",
        "clean",
        "extend",
        "load",
        "load_checkpoint",
        "load_recipe",
        "make_recipe",
        "run",
    ]
    assert all(getattr(lightcrl, name) is not None for name in lightcrl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lightcrl.nothing


def test_importing_and_asking_for_help_load_nothing_heavy():
    script = (
        "import sys, lightcrl\n"
        "from typer.testing import CliRunner\n"
        "from lightcrl.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pydantic', 'datasets') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_version_is_the_same_everywhere():
    text = (PROJECT / "pyproject.toml").read_text()
    assert f'version = "{lightcrl.__version__}"' in text
    assert f"## [{lightcrl.__version__}]" in (PROJECT / "CHANGELOG.md").read_text()
    assert f"version: {lightcrl.__version__}" in (PROJECT / "CITATION.cff").read_text()


def test_the_wheel_works_where_the_sources_are_not(tmp_path):
    """Built, unpacked elsewhere, imported with the dependencies but without the checkout."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(PROJECT)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("lightcrl-*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True, timeout=120)
    script = (
        "import sys, lightcrl, pathlib\n"
        f"assert pathlib.Path(lightcrl.__file__).is_relative_to({str(target)!r}), lightcrl.__file__\n"
        "assert (pathlib.Path(lightcrl.__file__).parent / 'py.typed').exists()\n"
        "for name in lightcrl.__all__: getattr(lightcrl, name)\n"
        "from lightcrl.registry import import_object\n"
        "from lightcrl.methods import METHODS\n"
        "from lightcrl.data import SOURCES\n"
        "for table in (METHODS, SOURCES):\n"
        "    for name in table: table.load(name)\n"
        "print(lightcrl.__version__)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(target)}
    )
    assert found.stdout.strip() == lightcrl.__version__, found.stderr
    templates = {path.name for path in SOURCE.rglob("*.j2")}
    assert {path.name for path in target.rglob("*.j2")} == templates
    page = SOURCE / "serve" / "page"
    assert {path.name for path in (target / "lightcrl" / "serve" / "page").iterdir()} == {
        path.name for path in page.iterdir()
    }
