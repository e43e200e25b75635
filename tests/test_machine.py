"""What the machine does well, and memory that a process keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightcrl import cli, machine

FAULTS = """
import resource
import torch
from lightcrl.machine import keep_freed_memory

if {keep}:
    keep_freed_memory()
for _ in range(40):  # until there are holes that fit, whatever lies between them
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages touched for the first time by twenty tensors of 64 MiB, one after another."""
    call = [sys.executable, "-c", FAULTS.format(keep=keep)]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other allocators")
def test_freed_memory_is_used_again():
    assert faults(keep=False) > 20 * 100
    assert faults(keep=True) < 100


def test_elsewhere_nothing_is_touched(monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: pytest.fail("no library to ask"))
    machine.keep_freed_memory()


@pytest.mark.parametrize(
    ("able", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_a_cpu_multiplies_in_bfloat16_if_it_says_so(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert machine.multiplies_bfloat16("cpu") is expected
    assert machine.multiplies_bfloat16(torch.device("cpu")) is expected


def test_a_gpu_is_asked_itself(monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_bf16_supported=lambda: True))
    assert machine.multiplies_bfloat16("cuda")


def test_the_command_line_alone_changes_how_memory_is_kept(monkeypatch):
    source = Path(machine.__file__).parent
    callers = {path.name for path in source.rglob("*.py") if "keep_freed_memory" in path.read_text(encoding="utf-8")}
    assert callers == {"machine.py", "cli.py"}
    called = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append(True))
    monkeypatch.setattr(sys, "argv", ["lightcrl", "--version"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (called, ended.value.code) == ([True], 0)
