"""Models on the Hugging Face hub: a repository that `lightcrl.load("owner/name")` loads anywhere.

Encoders are named by hub id and commit. An encoder that lies in a local folder would be missing everywhere else: it is
refused, or carried along in `encoders/<modality>/` of the repository (`with_encoders`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from lightcrl.card import CardFacts, hub_id, model_card
from lightcrl.checkpoint import CARD, CONFIG, ENCODERS, Checkpoint, load_checkpoint, write_layout
from lightcrl.embedder import Embedder, relocated
from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.files import FILES, find_folder
from lightcrl.errors import HubError, LightCRLError, first_line
from lightcrl.files.local import write_text

SNAPSHOTS = "snapshots"
"""Folder in the hub's cache whose folders are commits."""
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Carried:
    """An encoder in the repository.

    Attributes:
        folder: its folder there.
        licence: its licence, from its model card or its licence file; `"unknown"` without either.
        size: size of its files in bytes.
    """

    folder: str
    licence: str
    size: int


@dataclass(frozen=True)
class Pushed:
    """A model on the hub.

    Attributes:
        repository: `owner/name`.
        url: address of the commit.
        carried: encoders carried along, by modality.
        named: hub id and commit of the other encoders that come from the hub, by modality.
    """

    repository: str
    url: str
    carried: Mapping[str, Carried]
    named: Mapping[str, str]


def push(
    place: Path | str,
    repository: str,
    *,
    with_encoders: bool = False,
    encoders: Mapping[str, str] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Push a model of LightCRL",
    token: str | None = None,
) -> Pushed:
    """Push the model in a folder to the hub, with its card.

    Args:
        place: folder of a run or of a checkpoint.
        repository: `owner/name`; made if it is not there.
        with_encoders: true to carry encoders in local folders along.
        encoders: hub id by modality of encoders that the model knows by a local folder; the fingerprints are compared.
        private: true for a private repository, if it is made.
        revision: branch; made if it is not there.
        message: first line of the commit's message.
        token: key of the hub; by default that of `hf auth login`.

    Raises:
        HubError: an encoder lies in a local folder, or the hub refuses or cannot be reached.
        EncoderError: an encoder differs from the one in training.
    """
    checkpoint = relocated(load_checkpoint(place), encoders)
    for modality in encoders or {}:
        Embedder(checkpoint, device="cpu").encoder(modality)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        moved, carried = _portable(checkpoint, folder, with_encoders)
        notes = {modality: (each.folder, each.licence) for modality, each in carried.items()}
        results, split = _results(Path(place))
        moved.write(folder)
        write_layout(folder)
        write_text(folder / CARD, model_card(moved, CardFacts(repository, results, split, notes)))
        url = _upload(folder, repository, private, revision, message, token)
    named = {
        modality: f"{name}@{spec.revision}" if spec.revision else name
        for modality, spec in moved.encoders.items()
        if (name := hub_id(spec)) is not None
    }
    return Pushed(repository, url, carried, named)


def licence_of(folder: Path) -> str:
    """Return the licence of an encoder's folder: the card's `license`, or the first line of its licence file."""
    if (folder / CARD).is_file():
        licence = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.get("license")
        if licence:
            return str(licence)
    for name in LICENCES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in lines if line.strip()), UNKNOWN)
    return UNKNOWN


def _portable(checkpoint: Checkpoint, folder: Path, with_encoders: bool) -> tuple[Checkpoint, dict[str, Carried]]:
    """Return a checkpoint whose encoders are found anywhere, and the encoders copied below `folder`."""
    carried: dict[str, Carried] = {}
    specs: dict[str, EncoderSpec] = {}
    for modality, spec in checkpoint.encoders.items():
        if hub_id(spec) is not None:
            specs[modality] = _at_commit(spec)
        elif not spec.local:
            specs[modality] = spec  # built-in, or a class
        elif with_encoders:
            source = find_folder(spec.model, code=spec.trust_remote_code, weights=spec.weights == "pretrained")
            carried[modality] = _carry(source, folder, modality)
            specs[modality] = spec.model_copy(update={"model": f"./{carried[modality].folder}", "revision": None})
        else:
            raise HubError(
                f"the encoder of {modality!r} lies in {spec.model}, which nobody else has. Carry it along with "
                f"--with-encoders (its licence: {licence_of(Path(spec.model).expanduser())}), or name the same encoder "
                f"on the hub with --encoder {modality}=OWNER/NAME."
            )
    moved = copy(checkpoint)
    moved.encoders, moved.recipe = specs, _without_paths(checkpoint.recipe)
    return moved, carried


def write_with_carried(checkpoint: Checkpoint, folder: Path) -> None:
    """Write weights and config.json to `folder`, with the encoders that came along with the checkpoint."""
    moved = copy(checkpoint)
    moved.encoders = {
        modality: spec.model_copy(update={"model": f"./{_carry(Path(spec.model), folder, modality).folder}"})
        if _came_along(spec)
        else spec
        for modality, spec in checkpoint.encoders.items()
    }
    moved.write(folder)


def _came_along(spec: EncoderSpec) -> bool:
    place = Path(spec.model)
    return place.parent.name == ENCODERS and (place.parent.parent / CONFIG).is_file()


def _at_commit(spec: EncoderSpec) -> EncoderSpec:
    """Return the spec with the commit that lies in the cache, so that the encoder's owner cannot change it."""
    try:
        folder = find_folder(spec.model, spec.revision, weights=False)
    except LightCRLError:  # not reachable now: as in training
        return spec
    return spec.model_copy(update={"revision": folder.name}) if folder.parent.name == SNAPSHOTS else spec


def _carry(source: Path, folder: Path, modality: str) -> Carried:
    """Copy the files of an encoder that determine its output, and its licence."""
    place = f"{ENCODERS}/{modality}"
    paths = {path for pattern in (*FILES, *LICENCES) for path in source.rglob(pattern) if path.is_file()}
    for path in paths:
        target = folder / place / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return Carried(place, licence_of(source), sum(path.stat().st_size for path in paths))


def _without_paths(value: Any) -> Any:
    """Return a recipe's table with the names of files in place of their absolute paths, which are private."""
    if isinstance(value, Mapping):
        return {key: _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(entry) for entry in value]
    private = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(value).name if private else value


def _results(place: Path) -> tuple[dict[str, Any], str]:
    """Return the figures of a run's own model by task, and the split of its retrieval; nothing for another folder."""
    path = place / "metrics.json"
    if not path.is_file():
        return {}, "dev"
    table = json.loads(path.read_text(encoding="utf-8"))
    own = table["models"][0]
    results = {label: entry for label, entry in own.items() if isinstance(entry, Mapping) and "metrics" in entry}
    return results, table["split"]


def _upload(
    folder: Path, repository: str, private: bool | None, revision: str | None, message: str, token: str | None
) -> str:
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, revision=revision)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, ValueError) as error:
        raise HubError(
            f"the hub did not take {repository!r}: {first_line(error)} Expected OWNER/NAME, a network (and no "
            "HF_HUB_OFFLINE), and a key that may write there: hf auth login."
        ) from error
    return str(done.commit_url)
