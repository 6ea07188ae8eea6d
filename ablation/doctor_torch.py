"""What PyTorch says of itself and of the devices, and whether it computes the same twice; asked in processes of their own."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablation.doctor_check import Check, Found, named
from ablation.limits import show_size
from ablation.store import DiskStore

OURS = Path(__file__).parents[1]  # where this package stands
TIMEOUT_SECONDS = 300
PROBE = """
import json, torch
properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count() if torch.cuda.is_available() else 0))
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": [(p.name, p.total_memory) for p in properties]}))
"""
TRIAL = """
import json, sys
from ablation.store import DiskStore
from ablation.subjects import load_subject
load_subject("core").advance(json.loads(sys.argv[1]), 0, None, DiskStore(sys.argv[2]), lambda key, record: None)
"""
SETTINGS = {
    "data.channels": "gray", "data.n_max": 24, "data.imbalance_factor": 6, "data.n_test": 5, "data.augmentation": "crop", "data.padding": 1,
    "encoder.name": "small-cnn", "pretraining.epochs": 1, "pretraining.batch_size": 32, "epochs": 3, "warmup.epochs": 1, "batch_size": 32,
    "denoiser.width": 16, "denoiser.blocks": 1, "diffusion.steps": 50, "generation.steps": 2, "generation.every": 1,
}  # fmt: skip
"""A trial of a second: every phase of joint training."""


def torch_checks() -> list[Check]:
    return [Check("torch", _torch), Check("devices", _devices), Check("determinism", determinism)]


def determinism(settings: dict[str, Any] = SETTINGS) -> Found:
    """The same short trial twice, each in a process and a store of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        stores = [DiskStore(Path(scratch, name)) for name in ("first", "second")]
        for store in stores:
            done = _python(TRIAL, json.dumps(settings), str(store.root))
            if done.returncode:
                return Found(
                    f"a short trial failed: {_last_line(done.stderr)}",
                    False,
                    "see `torch` and `packages` above",
                )
        first, second = (dict(_contents(store)) for store in stores)
    differing = [
        f"{kind} {key[:8]}"
        for kind, key in sorted({**first, **second})
        if first.get((kind, key)) != second.get((kind, key))
    ]
    if differing:
        return Found(
            f"a short trial, run twice, differs in {named(differing)}",
            False,
            "results of this machine cannot be repeated",
        )
    n_states = sum(kind == "state" for kind, _ in first)
    return Found(
        f"a short trial, run twice, left the same {len(first) - n_states} records and tables and {n_states} checkpoints"
    )


def _contents(store: DiskStore) -> Iterator[tuple[tuple[str, str], Any]]:
    """(kind, key) -> content of all that a trial left, clocks aside."""
    for entry in store.entries():
        content: Any = store.peek(entry.kind, entry.path.name)
        if entry.kind == "record":
            content = json.dumps(
                {
                    name: value
                    for name, value in json.loads(content).items()
                    if name not in ("seconds", "time")
                }
            )
        yield (entry.kind, entry.path.name), content


@functools.cache
def _probed() -> dict[str, Any] | str:
    """What torch tells, or why it cannot be asked."""
    done = _python(PROBE)
    return (
        json.loads(done.stdout)
        if done.returncode == 0
        else f"cannot be imported: {_last_line(done.stderr)}"
    )


def _torch() -> Found:
    found = _probed()
    if isinstance(found, str):
        return Found(found, False, "install torch for this machine, see pytorch.org")
    return Found(
        f"{found['version']}, {'for CUDA ' + found['cuda'] if found['cuda'] else 'for the CPU alone'}"
    )


def _devices() -> Found:
    found = _probed()
    devices = [] if isinstance(found, str) else found["devices"]
    return Found(
        ", ".join(
            f"cuda:{i} {name}, {show_size(memory)}" for i, (name, memory) in enumerate(devices)
        )
        or "the CPU; no CUDA device"
    )


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What became of the code in a process of its own. One that takes too long has failed, too."""
    # -P: a folder `core` or `ablation` where the doctor is called must not stand in for ours
    path = os.pathsep.join(filter(None, [str(OURS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-c", code, *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(
            command, -signal.SIGKILL, "", f"it took more than {TIMEOUT_SECONDS} s"
        )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
