"""The files of a transformers model: their location, and a digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightcrl.encoders.base import fingerprint
from lightcrl.encoders.routes import ROUTERS, Modules, kind_of_module, read_router
from lightcrl.errors import EncoderError, EncoderNotFoundError

# Files that determine a model's output, all at the top of its folder. Pickled weights are never among them.
SETTINGS = ("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken")
FILES = (*SETTINGS, "*.safetensors")
CODE = ("*.py",)
# The list of modules and their folders, in the layout of sentence-transformers.
MODULES = "modules.json"
# Modules whose folder is that of a transformers model.
TRANSFORMERS = ("Transformer", "CLIPModel")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and load reports of transformers, and restore its settings afterwards."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda _, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)


def find_folder(model: str, revision: str | None = None, *, code: bool = False, weights: bool = True) -> Path:
    """Return the folder of a model: a local one, or the hub's, downloaded if it is not yet in the cache.

    Without `weights` a config suffices. In the layout of sentence-transformers, the first of its `module_folders` has
    the model.

    Raises:
        EncoderNotFoundError: the model was not found; the message lists the places and reasons.
        EncoderError: the folder has no model.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        return _checked(folder, weights)
    tried = [f"local folder {folder.absolute()}: not there"]
    if not model.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download

        patterns = [*(FILES if weights else SETTINGS), *(CODE if code else ())]
        # Only the plain weights at the top: no variants, no parts of pipelines.
        others = ["*/*.safetensors", "*.*.safetensors", "consolidated*"]
        try:
            cached = snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=others)
            # A router's own folder tells of the folders in it.
            asked: set[str] = set()
            while new := {path.relative_to(cached).as_posix() for path in _inner_folders(Path(cached))} - asked:
                parts = [f"{name}/{end}" for name in new for end in patterns]
                snapshot_download(model, revision=revision, allow_patterns=parts)
                asked |= new
        except Exception as error:  # The hub's client has a dozen kinds of failure; all end in the same advice.
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            tried.append(f"hub id {model!r}{f' at {revision!r}' if revision else ''}: {reason.strip()}")
        else:
            return _checked(Path(cached), weights)
    raise EncoderNotFoundError(
        f"cannot find the encoder {model!r}. Tried:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + "Give a folder that holds config.json, *.safetensors and the tokenizer or preprocessor files. Where there is "
        "a network, this makes one: hf download <hub id> --local-dir <folder>"
    )


def _checked(folder: Path, weights: bool) -> Path:
    """Return `folder` if it has a model."""
    for model in _model_folders(folder):
        if not (model / "config.json").is_file():
            raise EncoderError(f"{model} is no model: expected a folder with a config.json in it.")
        if weights and not any(model.glob("*.safetensors")):
            raise EncoderError(
                f"{model} has no weights in *.safetensors. Pickled ones (*.bin, *.pt) are never loaded, since they can "
                "run code: load them once where you trust them, and save_pretrained(folder)."
            )
    return folder


def _model_folders(root: Path) -> list[Path]:
    """Return the folders of transformers models: the root, or those of modules, of routes too."""
    if not (root / MODULES).is_file():
        return [root]
    return [folder for kind, folder in _all_modules(root) if kind in TRANSFORMERS]


def module_folders(root: Path) -> list[tuple[str, Path]]:
    """Return kind and folder of each module in `modules.json`, in order; foreign kinds have their full name.

    Raises:
        EncoderError: the file is not such a list, or names a folder elsewhere.
    """
    try:
        entries = sorted(json.loads((root / MODULES).read_text(encoding="utf-8")), key=lambda entry: entry["idx"])
        modules = [(str(entry["type"]), root / entry["path"]) for entry in entries]
    except (ValueError, TypeError, KeyError) as error:
        raise EncoderError(f"{root / MODULES} is no list of modules with idx, path and type ({error!r}).") from None
    if not modules or any(folder.parent != root and folder != root for _, folder in modules):
        raise EncoderError(f"{root / MODULES} names no modules, or one outside of {root}; expected folders in it.")
    return [(kind_of_module(name), folder) for name, folder in modules]


def _all_modules(root: Path) -> Modules:
    """Return kind and folder of each module and of the modules of all routes."""
    listed: Modules = []
    for kind, folder in module_folders(root):
        routes = read_router(folder).routes.values() if kind in ROUTERS else ()
        listed += [(kind, folder), *(module for modules in routes for module in modules)]
    return listed


def _inner_folders(root: Path) -> list[Path]:
    """Return the folders of modules below the top."""
    return [folder for _, folder in _all_modules(root) if folder != root] if (root / MODULES).is_file() else []


def folder_digest(folder: Path, patterns: Iterable[str] = FILES) -> str:
    """Return 32 hex digits of the names and contents of the matching files, independent of the folder's location."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return fingerprint({path.name: content_digest(path) for path in paths})


def content_digest(path: Path, whole: int = 256 << 20, chunks: int = 64, size: int = 1 << 20) -> str:
    """Return 32 hex digits of a file: all of it up to `whole` bytes, otherwise its length and evenly spaced chunks."""
    state = hashlib.blake2b(digest_size=16)
    length = path.stat().st_size
    with path.open("rb") as stream:
        if length <= whole:
            while block := stream.read(size):
                state.update(block)
        else:
            state.update(length.to_bytes(8, "little"))
            for chunk in range(chunks):
                stream.seek((length - size) * chunk // (chunks - 1))
                state.update(stream.read(size))
    return state.hexdigest()
