"""Kernels of several processes at the same time on one GPU: NVIDIA's Multi-Process Service (MPS), of a command's own and for as long as it runs.

Processes on a GPU otherwise take turns, and the kernels of a small student fill a fraction of it in theirs. The service is a daemon for each GPU that
processes find through a folder named in their environment; a process beside the command starts it and ends it, however the command ends.

A fault on the device (an illegal address, a failed assertion) may strike all processes that share it this way, whosever it was; `zoo.harness.crew`
then has them go on by turns.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from multiprocessing.util import get_temp_dir
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from zoo.harness.forked import start_server

CONTROL = "nvidia-cuda-mps-control"
EVERYONES = Path("/tmp/nvidia-mps")  # where the service of a whole machine is reached, which processes use without being told
PIPES, LOGS, VISIBLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
CHOICE = "ZOO_MPS"  # environment variable: `off` for no service; `on` in a process that shares its GPU by one of ours
MOST = 48  # processes that one GPU serves at once, from Volta on
PATIENCE = 60.0  # seconds for the service to answer, or to end


def possible(workers: int, device: str) -> bool:
    """Whether so many workers of one device may have a service: there are several on a GPU, no more than it serves, NVIDIA's program is here, nobody else
    runs it, and the user did not say `off`."""
    wanted = os.environ.get(CHOICE) != "off" and PIPES not in os.environ and not (EVERYONES / "control").exists()
    return 1 < workers <= MOST and device.startswith("cuda") and wanted and shutil.which(CONTROL) is not None


def answers() -> None:
    """Use the GPU once, as a worker will; raises whatever keeps it from that."""
    import torch

    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()


class Service:
    """The daemon for the GPU at a place, for the workers with these numbers. `told` is what their environment says; nothing where it does not answer."""

    def __init__(self, place: Mapping[str, str], numbers: Iterable[int], probe: Callable[[], None] = answers) -> None:
        folder = mkdtemp(prefix=f"mps-{min(numbers)}-", dir=get_temp_dir())  # the standard library takes it away
        reached = {PIPES: folder, LOGS: folder}
        surroundings = {**os.environ, **place, **reached}
        context: Any = start_server()
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(surroundings, _seen(surroundings), theirs, probe))
        self._process.start()
        theirs.close()
        running = False
        with suppress(EOFError):
            running = self._line.poll(PATIENCE) and self._line.recv()
        self.told = {**reached, CHOICE: "on", **_seen(surroundings)} if running else {}

    def close(self) -> None:
        """End the daemon; its processes have ended before."""
        self._line.close()
        self._process.join(2 * PATIENCE)


def _seen(surroundings: Mapping[str, str]) -> dict[str, str]:
    """The daemon's GPUs as its processes number them: it shows them the ones that it sees, counted from 0."""
    named = surroundings.get(VISIBLE)
    return {} if named is None else {VISIBLE: ",".join(map(str, range(len(named.split(",")))))}


def _serve(surroundings: dict[str, str], seen: dict[str, str], line: Any, probe: Callable[[], None]) -> None:
    """In the process itself: start the daemon, say whether it answers, and end it when the command hangs up or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is interrupted too, and hangs up
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    quiet: dict[str, Any] = {"env": surroundings, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        started = subprocess.run([CONTROL, "-d"], **quiet, timeout=PATIENCE).returncode == 0
        line.send(started and _probed({**surroundings, **seen}, probe))
        line.recv()
    except (EOFError, OSError, subprocess.TimeoutExpired):
        pass
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([CONTROL], input=b"quit\n", **quiet, timeout=PATIENCE)


def _probed(surroundings: Mapping[str, str], probe: Callable[[], None]) -> bool:
    """Whether a process with these variables can use the GPU; it is one of its own, since CUDA is never given back."""
    process = multiprocessing.get_context("fork").Process(target=_probe, args=(surroundings, probe))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
    return process.exitcode == 0


def _probe(surroundings: Mapping[str, str], probe: Callable[[], None]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.environ.clear()
    os.environ.update(surroundings)
    probe()
