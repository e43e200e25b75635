"""Checkpoints: folders with weights, their description and a model card, checked leaf by leaf on loading.

    model.safetensors   the method's weights and buffers
    tower-<modality>.safetensors   changed weights of a trained encoder
    head-<name>.safetensors        weights of a head
    former.safetensors  weights of ancestors that the model itself no longer has (`lightcrl.growth.history`)
    config.json         format version, method, encoders and their fingerprints, recipe, figures, a digest per tensor,
                        and the lineage of an extended model
    README.md           the model card
    modules.json, config_sentence_transformers.json   the names under which sentence-transformers finds the model

Nothing is unpickled. Hub upload and download are those of huggingface_hub (`push_to_hub`, `from_pretrained`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import save
from torch import Tensor

from lightcrl import __version__
from lightcrl.card import model_card
from lightcrl.encoders.base import Encoder, EncoderSpec, fingerprint
from lightcrl.encoders.tower import Tuned, TuningSpec, tuned_encoder
from lightcrl.errors import CheckpointError, HeadError
from lightcrl.files.local import clear_errors, recover_folder, whole_folder, write_json
from lightcrl.heads.base import Head, Space
from lightcrl.heads.state import FILE as HEAD
from lightcrl.heads.state import TrainedHead
from lightcrl.leaves import describe, read_tensors
from lightcrl.lineage import Line, identity
from lightcrl.methods import Method
from lightcrl.methods.spec import make_method
from lightcrl.methods.stems import Inlet
from lightcrl.tokens import TokenSpec

FORMAT = 5
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
TOWER = "tower-{}.safetensors"
MODULE = "lightcrl.bridges.sentence_transformers.EmbedderModule"
"""The class that sentence-transformers loads a checkpoint with, by the name in modules.json."""
ENCODERS = "encoders"
"""Folder of the encoders that a repository carries along."""
CARRIED = tuple(f"{ENCODERS}/*.{end}" for end in ("json", "txt", "model", "spm", "tiktoken", "safetensors"))
"""Their files."""
MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
FORMER = "former.safetensors"


class Checkpoint(
    ModelHubMixin,
    library_name="lightcrl",
    tags=["lightcrl", "contrastive-learning", "cross-modal-retrieval"],
    paper_url="https://arxiv.org/abs/2403.04650",
    license="apache-2.0",
):
    """A method with the information to apply it to raw items.

    Attributes:
        method: the network.
        name: the method's name in `METHODS`.
        loss: name of the loss in training.
        encoders: spec of the encoder by modality.
        fingerprints: fingerprint of the encoder by modality.
        recipe: recipe of the training, as a table.
        figures: measured figures: `metrics`, `interval` and the like.
        towers: trained part of the encoder by modality; frozen encoders have no entry.
        lineage: steps of growth, first step first (`lightcrl.lineage`); empty for a model that was trained whole.
        heads: trained heads by name; they are no part of the digest, since no embedding depends on them.
        data: `training_data` of the groups that it was trained on; empty for models of version 0.1.
        former: tensors that steps have replaced or removed, `<number of the step>/<leaf>`.
    """

    def __init__(
        self,
        method: Method,
        *,
        name: str,
        loss: str,
        encoders: Mapping[str, EncoderSpec],
        fingerprints: Mapping[str, str],
        recipe: Mapping[str, Any] | None = None,
        figures: Mapping[str, Any] | None = None,
        towers: Mapping[str, Tuned] | None = None,
        lineage: Sequence[Mapping[str, Any]] = (),
        heads: Mapping[str, TrainedHead] | None = None,
        data: Mapping[str, Any] | None = None,
        former: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.method = method
        self.name = name
        self.loss = loss
        self.encoders = dict(encoders)
        self.fingerprints = dict(fingerprints)
        self.recipe = dict(recipe or {})
        self.figures = dict(figures or {})
        self.towers = dict(towers or {})
        self.lineage = [dict(step) for step in lineage]
        self.heads = dict(heads or {})
        self.data = dict(data or {})
        self.former = dict(former or {})

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        config: dict[str, Any] = {
            "format": self._format,
            "lightcrl": __version__,
            "method": self.method_config(),
            "modalities": {modality: self.modality_config(modality) for modality in self.method.modalities},
            "recipe": self.recipe,
            "figures": self.figures,
            "tensors": {leaf: describe(tensor) for leaf, tensor in self.method.state_dict().items()},
        }
        if self.towers:
            config["towers"] = {
                modality: {
                    "tuning": tuned.spec.model_dump(mode="json"),
                    "tensors": {leaf: describe(tensor) for leaf, tensor in tuned.tensors.items()},
                }
                for modality, tuned in self.towers.items()
            }
        if self.lineage:
            config["lineage"] = self.lineage
        if self.heads:
            config["heads"] = {name: head.entry() for name, head in self.heads.items()}
        if self.data:
            config["data"] = self.data
        if self.former:
            config["former"] = {leaf: describe(tensor) for leaf, tensor in self.former.items()}
        return {**config, "digest": _digest(config)}

    @property
    def _format(self) -> int:
        """The least format that can hold this checkpoint, so that older versions can read plain ones."""
        if any(isinstance(part, Inlet) and part.deviation.shape[1] > 1 for part in self.method.modules()):
            return FORMAT
        if self.method.hubs is not None:
            return 4
        replaced = any("before" in step for step in self.lineage)
        return 3 if replaced else 2 if self.towers else 1

    @property
    def digest(self) -> str:
        """32 hex digits of all that decides the embeddings, and of how it grew."""
        return str(self.config()["digest"])

    @property
    def line(self) -> Line:
        """The checkpoint's digest and its ancestors'."""
        return Line(self.digest, self.lineage)

    def modality_config(self, modality: str) -> dict[str, Any]:
        """The entry of a modality in config.json."""
        spec = self.method.modalities[modality]
        return {
            "dim": spec.dim,
            "slots": spec.slots,
            "sequence": spec.sequence,
            "fingerprint": self.fingerprints[modality],
            "encoder": self.encoders[modality].model_dump(mode="json", exclude_defaults=True),
        }

    def method_config(self) -> dict[str, Any]:
        """The method's entry in config.json, sufficient to make the method with fresh weights."""
        return {"name": self.name, "options": self.method.options.model_dump(mode="json"), "loss": self.loss}

    def parts(self) -> dict[str, int]:
        """Return the number of trained parameters by part: the method's (`Method.parts`), and those of each tower."""
        towers = {name: sum(map(Tensor.numel, tuned.tensors.values())) for name, tuned in self.towers.items()}
        return self.method.parts() | {f"tower {name}": count for name, count in towers.items()}

    @property
    def space(self) -> Space:
        """The shape of the space, for heads."""
        return Space(self.method.modalities, self.method.dim)

    def head(self, name: str) -> Head:
        """Return a trained head in eval mode, checked leaf by leaf.

        Raises:
            HeadError: the model has no such head, or it was trained on another space.
            CheckpointError: a tensor of the head is wrong.
        """
        if name not in self.heads:
            raise HeadError(
                f"no head {name!r} in this model; it has {', '.join(self.heads) or 'none'}. Train one: lightcrl head "
                "MODEL RECIPE.toml."
            )
        saved = self.heads[name]
        return saved.load(name, self.space, (self.digest, *self._ancestors(saved.modalities)))

    def _ancestors(self, modalities: Sequence[str]) -> list[str]:
        """Return the digests of the models that this one grew from without a change of these modalities."""
        digests = []
        for step in reversed(self.lineage):
            if {*step.get("replaced", ()), *step.get("removed", ())} & set(modalities):
                break
            digests.append(str(step["from"]))
        return digests

    def as_trained(self, encoders: Mapping[str, Encoder]) -> dict[str, Encoder]:
        """Return the encoders with their trained weights.

        Raises:
            CheckpointError: an encoder differs from the trained one.
        """
        return {
            name: tuned_encoder(encoder, tuned) if (tuned := self.towers.get(name)) else encoder
            for name, encoder in encoders.items()
        }

    def save(self, folder: Path) -> None:
        """Write the checkpoint so that `folder` is always a complete checkpoint, the previous or this one."""
        with whole_folder(folder) as fresh:
            self._save_pretrained(fresh)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_layout(save_directory)
        self.write(save_directory)
        with clear_errors(save_directory):
            (save_directory / CARD).write_text(model_card(self), encoding="utf-8")

    def write(self, save_directory: Path) -> None:
        """Write the weights and config.json alone, the latter last."""
        state = {leaf: tensor.detach().cpu().contiguous() for leaf, tensor in self.method.state_dict().items()}
        with clear_errors(save_directory):
            (save_directory / WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))
            for modality, tuned in self.towers.items():
                place = save_directory / TOWER.format(modality)
                place.write_bytes(save(tuned.tensors, metadata={"format": "pt"}))
            for name, head in self.heads.items():
                (save_directory / HEAD.format(name)).write_bytes(head.bytes())
            if self.former:
                (save_directory / FORMER).write_bytes(save(self.former, metadata={"format": "pt"}))
        write_json(save_directory / CONFIG, self.config())

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Checkpoint:
        if Path(model_id).is_dir():
            return load_folder(Path(model_id))
        folder = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=[CONFIG, WEIGHTS, CARD, TOWER.format("*"), HEAD.format("*"), FORMER, *CARRIED],
        )
        return load_folder(Path(folder))


def load_checkpoint(place: Path | str, revision: str | None = None) -> Checkpoint:
    """Return the checkpoint in a folder, the best one of a run's folder, or one on the hub.

    Args:
        place: folder or hub id; `owner/name@revision` has a revision too.
        revision: branch, tag or commit of a hub id.

    Raises:
        CheckpointError: there is no checkpoint, or it is torn, tampered with or of a newer format.
    """
    folder = Path(place)
    if not folder.is_dir() and str(place).count("/") == 1 and not str(place).startswith((".", "/", "~")):
        name, _, at = str(place).partition("@")
        try:
            return Checkpoint.from_pretrained(name, revision=revision or at or None)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            raise CheckpointError(
                f"no checkpoint {str(place)!r}: no such folder, and the hub gave {type(error).__name__}. "
                "Expected a run's folder or a hub id."
            ) from error
    for candidate in (folder, folder / "best"):
        recover_folder(candidate)
        if (candidate / CONFIG).is_file():
            return load_folder(candidate)
    raise CheckpointError(f"no checkpoint in {folder}: expected {CONFIG} there or in {folder / 'best'}.")


def load_models(place: Path | str) -> dict[str, Checkpoint]:
    """Return every finished model of a run's folder by label, its own first; for any other place its only checkpoint.

    A label is the method's name, with `-seedN` if the run has trained it with several seeds.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    own = load_checkpoint(place)
    seed = own.recipe.get("evaluation", {}).get("seeds", [0])[0]
    models = {f"{own.name}-seed{seed}": own}
    for folder in sorted((Path(place) / "others").glob("*-seed*")):
        if (folder / "best" / CONFIG).is_file():
            models[folder.name] = load_checkpoint(folder)
    seeds = Counter(model.name for model in models.values())
    return {model.name if seeds[model.name] == 1 else label: model for label, model in models.items()}


def load_folder(folder: Path) -> Checkpoint:
    """Read a checkpoint's folder and check every leaf.

    Raises:
        CheckpointError: a leaf is wrong; the message names it, its value and the expected value.
    """
    config = _read_config(folder)
    tensors = read_tensors(folder / WEIGHTS, config["tensors"])
    towers = {
        modality: Tuned(TuningSpec(**entry["tuning"]), read_tensors(folder / TOWER.format(modality), entry["tensors"]))
        for modality, entry in config.get("towers", {}).items()
    }
    modalities = {
        name: TokenSpec(entry["dim"], entry["slots"], entry.get("sequence", False))
        for name, entry in config["modalities"].items()
    }
    method = make_method(config["method"]["name"], modalities, config["method"]["options"], config["method"]["loss"])
    method.match(tensors)
    expected = {leaf: tensor.shape for leaf, tensor in method.state_dict().items()}
    if expected != {leaf: tensor.shape for leaf, tensor in tensors.items()}:
        odd = sorted(set(expected) ^ set(tensors)) or [
            leaf for leaf in expected if expected[leaf] != tensors[leaf].shape
        ]
        raise CheckpointError(f"{folder}: {odd[0]} does not fit the method {config['method']['name']!r} of {CONFIG}.")
    method.load_state_dict(tensors)
    return Checkpoint(
        method.eval(),
        name=config["method"]["name"],
        loss=config["method"]["loss"],
        encoders={
            name: _found(EncoderSpec(**entry["encoder"]), folder) for name, entry in config["modalities"].items()
        },
        fingerprints={name: entry["fingerprint"] for name, entry in config["modalities"].items()},
        recipe=config["recipe"],
        figures=config["figures"],
        towers=towers,
        lineage=config.get("lineage", ()),
        heads={name: TrainedHead.read(name, entry, folder) for name, entry in config.get("heads", {}).items()},
        data=config.get("data"),
        former=read_tensors(folder / FORMER, config["former"]) if "former" in config else None,
    )


def _found(spec: EncoderSpec, folder: Path) -> EncoderSpec:
    """Return the spec with the place of an encoder that the checkpoint carries along."""
    place = folder / spec.model
    carried = spec.model.startswith(f"./{ENCODERS}/") and place.is_dir()
    return spec.model_copy(update={"model": str(place.resolve())}) if carried else spec


def write_layout(folder: Path, place: str = "") -> None:
    """Write the two files by which `SentenceTransformer(folder)` finds the checkpoint in `folder / place`."""
    write_json(folder / MODULES, [{"idx": 0, "name": "0", "path": place, "type": MODULE}])
    settings = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    write_json(folder / SETTINGS, {**settings, "prompts": {}, "default_prompt_name": None})


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        version = config["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is torn or no LightCRL checkpoint ({error}).") from None
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG}: format is {version}, this version reads up to {FORMAT}. Install a newer lightcrl."
        )
    expected = config.get("digest")
    if (digest := _digest(config)) != expected:
        raise CheckpointError(f"{folder / CONFIG} has digest {digest}, expected {expected}: it was changed by hand.")
    return config


def _digest(config: Mapping[str, Any]) -> str:
    """Return a digest of all settings that determine embeddings; paths of encoders and figures may be edited."""
    modalities = {
        name: {key: value for key, value in entry.items() if key != "encoder"}
        for name, entry in config.get("modalities", {}).items()
    }
    more = [config["towers"]] if "towers" in config else []
    more += [identity(config["lineage"])] if "lineage" in config else []
    return fingerprint([config.get("format"), config.get("method"), modalities, config.get("tensors"), *more])
