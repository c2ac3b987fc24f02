"""Where a result came from: the code's commit, package versions, hardware and arguments, stamped on every record.

None of it enters a run key, and none of it names a folder of the machine.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zoo.components.plugins import load_plugins
from zoo.paths import PACKAGE

PACKAGES = (
    "opd-zoo",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "datasets",
    "lm-eval",
    "numpy",
    "peft",
    "vllm",
    "math-verify",
)
CODE = ("zoo", "registry", "suites")
COMMIT_VARIABLE = "ZOO_COMMIT"
ABSOLUTE_PATH = re.compile(r"""(?<![\w.~/:…])(?:file://)?(?:~?/|[A-Za-z]:[\\/])(?:[^\s'"=,:;()\[\]\\/]+[\\/])*(?P<name>[^\s'"=,:;()\[\]\\/]+)""")


def provenance(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The stamp of one run: `commit`, `dirty`, `packages`, `hardware`, `arguments` (of this process unless given)."""
    given = sys.argv if arguments is None else arguments
    commit, dirty = checkout(PACKAGE.parent)
    return {
        "commit": commit,
        "dirty": dirty,
        "packages": packages(),
        "hardware": hardware(),
        "arguments": [without_paths(argument) for argument in given],
    }


def checkout(root: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout at `root` and whether its code differs from it; (None, None) where there is none.

    A repository that merely contains `root` (a virtual environment inside somebody's project) is not ours. Only code and
    declarations count as dirty: a run adds records to the checkout itself. Where the code was copied without its history, the
    environment may name the commit.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return os.environ.get(COMMIT_VARIABLE), None
    changes = _git(root, "status", "--porcelain", "--", *CODE)
    return _git(root, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def packages() -> dict[str, str]:
    """Versions of Python and of those installed packages that can change a number, packages that add components among them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {plugin.package: plugin.version for plugin in load_plugins() if plugin.problem is None}


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, threads of torch, and the GPUs with their memory in bytes."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "torch_threads": torch.get_num_threads(),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "cuda": torch.version.cuda if gpus else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def without_paths(text: str) -> str:
    """The text with every absolute path cut down to its last part (`…/name`): for arguments and error messages in records."""
    return ABSOLUTE_PATH.sub(lambda match: f"…/{match['name']}", text)
