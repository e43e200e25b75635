"""Folders in the layout of the library sentence-transformers: their settings, in old and new forms.

modules.json                          the modules in order: Transformer, Pooling, Dense, Normalize
sentence_bert_config.json             beside the transformer: max_seq_length, do_lower_case
1_Pooling/config.json                 pooling_mode as text, or a flag for each mode
2_Dense/config.json, model.safetensors
config_sentence_transformers.json     prompts, truncate_dim
router_config.json                    modules by route (`encoders.routes`), in place of the Transformer

The library itself is not needed; for modules other than these, `encoders.library` asks it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lightcrl.encoders.base import EncoderSpec, Kind
from lightcrl.encoders.files import MODULES, TRANSFORMERS, folder_digest, module_folders
from lightcrl.encoders.routes import ROUTERS, TASKS, Modules, read_router
from lightcrl.encoders.trained import POOLINGS, Unit, projects
from lightcrl.errors import EncoderError

# The flags before `pooling_mode`, in the order in which their vectors are concatenated.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Alternative names of a prompt's role in models without that role.
ROLES: Mapping[str, Sequence[str]] = {"document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class SentenceModel:
    """The settings in a model's folder.

    Attributes:
        folder: folder of the transformer.
        max_length: greatest number of tokens of a text; None for the model's own limit.
        lower_case: true if texts are lower-cased first.
        prompts: texts to put before an item's, by name.
        default_prompt: name of the prompt that is used by default.
        poolings: names in `POOLINGS`; none if the model pools by itself, as CLIP does.
        include_prompt: true if a prompt's tokens are pooled too.
        modules: kind and folder of the modules after the pooling.
        dim: number of leading components kept of a vector; None for all.
        unread: reason why this version cannot compute the model's vector; empty if it can.
        hidden: true if the folder has a transformers model, whose hidden states can be read in any case.
    """

    folder: Path
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    poolings: tuple[str, ...] = ()
    include_prompt: bool = True
    modules: tuple[tuple[str, Path], ...] = ()
    dim: int | None = None
    unread: str = ""
    hidden: bool = True

    @property
    def plain(self) -> bool:
        """True if the vector is the mean of the last layer up to its length, which `tokens = "auto"` has anyway."""
        modules = {kind for kind, _ in self.modules}
        settled = self.include_prompt and self.dim is None and not self.lower_case and not self.unread
        return settled and self.poolings == ("mean",) and modules <= {"Normalize", "Dropout"}

    def prompt(self, name: str | None) -> str:
        """Return the text of a prompt: that called `name`, the default one for None, none for `""`.

        Raises:
            EncoderError: there is no such prompt.
        """
        if name is None:
            return self.prompts.get(self.default_prompt or "", "")
        names = [other for other in ROLES.get(name, (name,)) if other in self.prompts]
        # Models with a prompt only for queries need not define one for documents.
        if names or not name or (name == "document" and "query" in self.prompts):
            return self.prompts[names[0]] if names else ""
        there = ", ".join(self.prompts) or "none"
        raise EncoderError(
            f"prompt = {name!r}: {self.folder.name!r} has the prompts: {there}. Name one, or leave it out."
        )

    def describe(self) -> dict[str, Any]:
        """Return all settings that determine a model's vector, as JSON values."""
        return {
            "poolings": list(self.poolings),
            "include_prompt": self.include_prompt,
            "modules": [[kind, folder_digest(folder)] for kind, folder in self.modules],
            "dim": self.dim,
            "lower_case": self.lower_case,
        }

    def load_modules(self) -> list[nn.Module]:
        """Return the modules after the pooling, with their weights, in float32.

        Raises:
            EncoderError: weights are missing or have other shapes.
        """
        return [module for kind, folder in self.modules for module in _load(kind, folder)]


def read_sentence_model(root: Path, items: Kind = "text", prompt: str | None = None) -> SentenceModel | None:
    """Read the folder `root`; return None if it is not in this layout.

    Args:
        root: folder of the model.
        items: kind of the items, by which a router chooses its modules.
        prompt: the recipe's prompt; `"query"` and `"document"` are tasks of a router too.

    Raises:
        EncoderError: one of its files is invalid, or its router has no route for the items.
    """
    if not (root / MODULES).is_file():
        return None
    (kind, folder), *others = _modules(root, items, prompt)
    config = _json(root / "config_sentence_transformers.json")
    names = ("sentence_bert_config.json", *sorted(path.name for path in folder.glob("sentence_*_config.json")))
    settings = next((content for name in names if (content := _json(folder / name))), {})
    model = SentenceModel(
        folder,
        settings.get("max_seq_length"),
        bool(settings.get("do_lower_case", False)),
        {name: text for name, text in (config.get("prompts") or {}).items() if text is not None},
        config.get("default_prompt_name"),
        dim=config.get("truncate_dim"),
        hidden=(folder / "config.json").is_file(),
    )
    try:
        return _with_vector(model, kind, settings, others)
    except EncoderError as error:
        return SentenceModel(**{**vars(model), "unread": str(error)})


def check_vector(spec: EncoderSpec, sentence: SentenceModel, config: Any) -> None:
    """Refuse a model without its trained vector if the recipe's tokens are `"auto"` or contain `trained`.

    Args:
        spec: settings of the encoder.
        sentence: settings of its folder.
        config: the transformer's own configuration.

    Raises:
        EncoderError: the vector is wanted and cannot be computed.
    """
    if spec.weights != "pretrained" or not (spec.pools == "auto" or "trained" in spec.tokens):
        return
    reason = sentence.unread
    if not reason and not sentence.poolings and not projects(config, spec.kind):
        reason = f"a {config.model_type} model has no vector of its own"
    if reason:
        raise EncoderError(
            f"the vector that {spec.model!r} was trained to give cannot be made: {reason}. To use its hidden "
            "states alone, name pools of them, such as tokens = 'mean+max'."
        )


def _modules(root: Path, items: Kind, prompt: str | None) -> Modules:
    """Return kind and folder of the modules that an item passes through."""
    listed: Modules = []
    for kind, folder in module_folders(root):
        task = prompt if prompt in TASKS else None
        listed += read_router(folder).choose(items, task) if kind in ROUTERS else [(kind, folder)]
    return listed


def _with_vector(
    model: SentenceModel, kind: str, settings: Mapping[str, Any], others: Sequence[tuple[str, Path]]
) -> SentenceModel:
    """Return the model with the settings of its vector."""
    if kind not in TRANSFORMERS or "message" in settings.get("modality_config", {}):
        raise EncoderError(f"{kind} {'with a chat template ' if kind == 'Transformer' else ''}is not read")
    poolings: tuple[str, ...] = ()
    include_prompt = True
    if kind == "Transformer" and settings.get("module_output_name", "token_embeddings") == "token_embeddings":
        if not others or others[0][0] != "Pooling":
            raise EncoderError(f"expected a Pooling after the Transformer, found {[other for other, _ in others]}")
        config = _json(others[0][1] / "config.json")
        poolings, include_prompt = _poolings(config), bool(config.get("include_prompt", True))
        others = others[1:]
    for other, folder in others:
        if other not in ("Dense", "Normalize", "LayerNorm", "Dropout"):
            raise EncoderError(f"the module {other} is not read")
        if {_json(folder / "config.json").get(f"module_{end}_name") for end in ("input", "output")} - {
            None,
            "sentence_embedding",
        }:
            raise EncoderError(f"the module {folder.name} does not work on the pooled vector")
    changed = {"poolings": poolings, "include_prompt": include_prompt, "modules": tuple(others)}
    return SentenceModel(**{**vars(model), **changed})


def _poolings(config: Mapping[str, Any]) -> tuple[str, ...]:
    modes = config.get("pooling_mode") or [mode for flag, mode in FLAGS.items() if config.get(flag)] or "mean"
    poolings = (modes,) if isinstance(modes, str) else tuple(modes)
    if odd := [mode for mode in poolings if mode not in POOLINGS]:
        raise EncoderError(f"the pooling mode {odd[0]!r} is not read; expected {', '.join(POOLINGS)}")
    return poolings


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if there is no file."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EncoderError(f"{path} is not JSON ({error}). Fetch the model once more.") from None
    return value


class Dense(nn.Module):
    """A linear map [B, in] to [B, out] with an activation, and with a residual connection if the folder has one."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        wide, narrow = config["in_features"], config["out_features"]
        self.linear = nn.Linear(wide, narrow, bias=config.get("bias", True))
        self.activation = _activation(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        self.shortcut: bool = config.get("use_residual", False)
        if self.shortcut and wide != narrow:
            self.residual = nn.Linear(wide, narrow, bias=False)

    def forward(self, vectors: Any) -> Any:
        """Return the mapped vectors."""
        mapped = self.activation(self.linear(vectors))
        if not self.shortcut:
            return mapped
        return mapped + (self.residual(vectors) if hasattr(self, "residual") else vectors)


def _activation(name: str) -> nn.Module:
    kind = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise EncoderError(f"the activation {name!r} is not read; expected one of torch.nn.")
    made: nn.Module = kind()
    return made


def _load(kind: str, folder: Path) -> list[nn.Module]:
    if kind == "Normalize":
        return [Unit()]
    if kind == "Dropout":
        return []  # in eval mode, nothing
    config = _json(folder / "config.json")
    if kind == "Dense":
        return [_with_weights(Dense(config), folder)]
    norm = nn.ModuleDict({"norm": nn.LayerNorm(config["dimension"])})
    _with_weights(norm, folder)
    return [norm["norm"]]


def _with_weights(module: nn.Module, folder: Path) -> nn.Module:
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except FileNotFoundError:
        raise EncoderError(
            f"{folder} has no model.safetensors. Pickled weights (*.bin) are never loaded, since they can run code: "
            "load the model once where you trust it, and save it again."
        ) from None
    except RuntimeError as error:
        raise EncoderError(f"{path} does not fit {folder / 'config.json'}: {error}") from None
    return module
