"""A plan as files: the commented recipe, and tables that no source could read otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightcrl.errors import RecipeError
from lightcrl.files.local import make_folder, write_text
from lightcrl.studies.survey.plan import Plan
from lightcrl.studies.survey.tables import Survey

PATHS = ("path", "train", "dev", "test", "root", "data", "calibration")
"""Keys with paths, which are written relative to the recipe if they lie below or beside it."""
ORDER = ("source", "path", "train", "dev", "test", "root", "columns", "key")
"""Order of the keys of `[data]`."""
MEANINGS: Mapping[str, str] = {
    "data.source": "how the data is read: docs/recipes.md",
    "data.path": "splits are the data's own, or drawn",
    "data.root": "folder that paths in the table start at",
    "data.columns": "modality = column",
    "data.split_column": "column with train, dev (val) or test",
    "data.options": "settings of the source",
}


def write_recipe(plan: Plan, survey: Survey, path: Path, *, force: bool = False) -> list[Path]:
    """Write the recipe to `path`, and its tables beside it; return the files written, the recipe first.

    Raises:
        RecipeError: the recipe or a table exists, and `force` is false.
        StorageError: the folder is not writable.
    """
    path = path.absolute()
    tables = {split: path.with_name(f"{path.stem}-pairs{f'-{split}' if split else ''}.jsonl") for split in plan.tables}
    for file in (path, *tables.values()):
        if file.exists() and not force:
            raise RecipeError(f"{file} exists already. Say --force to replace it, or --output another file.")
    make_folder(path.parent)
    data = dict(plan.data)
    for split, file in tables.items():
        lines = (json.dumps(row, ensure_ascii=False, default=str) for row in plan.tables[split])
        write_text(file, "".join(f"{line}\n" for line in lines))
        data[split or "path"] = str(file)
    write_text(path, recipe_text(plan, survey, path, data))
    return [path, *tables.values()]


def recipe_text(plan: Plan, survey: Survey, path: Path, data: Mapping[str, Any]) -> str:
    """Return the text of the recipe at `path`."""
    meanings = {**MEANINGS, **plan.reasons}
    lines = [
        f"# lightcrl run {path.name}",
        "#",
        f"# Written by lightcrl init for {survey.path}: {survey.title}.",
        "# Every key, with its meaning and default: docs/recipes.md. `lightcrl check` looks at data and encoders",
        "# before the first training, `lightcrl run ... --rehearse` says how long it takes and what it needs.",
        "",
        "[data]",
        *(_line(key, data[key], path, meanings.get(f"data.{key}", "")) for key in sorted(data, key=_order)),
    ]
    if plan.dev_fraction is not None:
        lines.append(f"dev_fraction = {plan.dev_fraction}  # share of the groups that chooses the best checkpoint")
    for modality, spec in plan.encoders.items():
        given = {"model": plan.reasons.get(f"encoders.{modality}", ""), "dtype": PRECISION}
        lines += [
            "",
            f"[encoders.{modality}]",
            *(_line(key, value, path, given.get(key, "")) for key, value in spec.items()),
        ]
    lines += [
        "",
        "[method]",
        'name = "dfe"  # the Deep Fusion Encoder; others: docs/methods.md',
        "",
        "[training]",
        "# epochs, batch_size and learning_rate are chosen from the size of the data.",
        "",
        "[evaluation]",
        '# baselines = ["linear", "convirt"]  # methods trained on the same features beside it',
        "# seeds = [0, 1, 2]",
        *(_line(key, value, path, plan.reasons.get(f"evaluation.{key}", "")) for key, value in plan.evaluation.items()),
    ]
    return "\n".join(lines) + "\n"


PRECISION = "bfloat16 where the hardware has it, else float32"


def _order(key: str) -> int:
    return ORDER.index(key) if key in ORDER else len(ORDER)


def _line(key: str, value: Any, path: Path, comment: str) -> str:
    return f"{key} = {_toml(value, path, key)}" + (f"  # {comment}" if comment else "")


def _toml(value: Any, path: Path, key: str) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_toml(entry, path, name)}" for name, entry in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(entry, path, '') for entry in value)}]"
    text = str(value)
    if key in PATHS or (key == "model" and Path(text).is_absolute()):
        text = _relative(Path(text), path.parent)
    return json.dumps(text, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _relative(target: Path, folder: Path) -> str:
    """Return a path relative to the recipe's folder, or in full if they have little in common."""
    relative = Path(os.path.relpath(target, folder)).as_posix()
    if relative.startswith("../../../") or os.path.commonpath([target, folder]) == target.anchor:
        return str(target)
    # Without a dot, the path of an encoder could be taken for a hub id.
    return relative if relative.startswith(".") else f"./{relative}"
