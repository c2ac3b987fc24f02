"""One copy of the teachers for all cells that a GPU runs at once: a process of its own keeps them (`Keeper`), and workers borrow them (`borrowed`).

A model travels as torch.multiprocessing sends it between processes of one machine: handles of CUDA's memory, or of shared memory on a CPU, so weights lie
there once. The connection is a socket in a folder of this user's alone, behind the key of the command's own processes: nothing that it carries is written
to a file, and nothing comes in from elsewhere. Every borrower sees what is written to a shared weight, so nobody writes to a teacher; what learns from a
teacher's weights copies them first (`zoo.harness.adapters`).

The keeper runs no cell, so a worker that is killed takes nothing along. Were the keeper killed, its workers' memory would be nobody's: they are
replaced with it (`zoo.harness.packing`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.harness.forked import settle, start_server
from zoo.harness.models import PairSpec, load_teachers
from zoo.harness.parallel import CONTEXT, KEPT
from zoo.harness.sources import ModelSource, local_folder, resolved

KEEPER = "ZOO_KEEPER"  # environment variable: the address of the process that keeps this one's teachers
PATIENCE = 30.0  # seconds within which a keeper has begun to listen
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Sharing:
    """The teachers that workers may share, and whether they do: `on`, `off`, or by the rule of `pays`."""

    spec: PairSpec
    paths: Mapping[str, Path]
    trust_remote_code: bool = False
    chosen: str = "auto"

    def pays(self, workers: int, device: str) -> bool:
        """Whether so many workers of one device share. By `auto` they do on CUDA where the copies that are saved, one less than there are workers, take
        more than the keeper's own CUDA context. On a CPU shared memory may be small, and nothing is saved that is short."""
        if workers < 2 or not self.spec.teachers or self.chosen == "off":
            return False
        return self.chosen == "on" or (device.startswith("cuda") and (workers - 1) * self.size > CONTEXT)

    @cached_property
    def size(self) -> int:
        """Bytes of all teachers in bf16, by the headers of their files; 0 where one's are not on this machine yet, or can't be read."""
        sizes = [self._size(name, source) for name, source in self.spec.teachers.items()]
        return sum(sizes) if all(sizes) else 0

    def _size(self, name: str, source: ModelSource) -> int:
        from safetensors import SafetensorError, safe_open

        name, source = resolved(name, source, self.spec.student, self.paths)
        found = 0
        with suppress(OSError, ValueError, SafetensorError):
            for file in (local_folder(self.spec.id, name, source, self.paths) or _cached(source)).glob("*.safetensors"):
                with safe_open(file, "pt") as tensors:
                    found += sum(2 * prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
        return found


def _cached(source: ModelSource) -> Path:
    """The folder of a hub model in the hub's own cache; OSError where there is none."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source.hub), revision=source.revision, local_files_only=True))


class Keeper:
    """The process that keeps the teachers of some workers, by number, where these are placed. Workers are `told` its address by their environment."""

    def __init__(self, sharing: Sharing, device: str, place: Mapping[str, str], numbers: Iterable[int]) -> None:
        self.address = f"{get_temp_dir()}/teachers-{min(numbers)}"  # the standard library takes the folder away
        self.told = {KEEPER: self.address, KEPT: str(CONTEXT + sharing.size)}
        self.process: Any = None
        self._given = sharing, device, self.address, {**os.environ, **place}, str(Path.cwd())
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        Path(self.address).unlink(missing_ok=True)
        self._sweep()
        self.process = start_server().Process(target=_keep, args=self._given, daemon=True)  # type: ignore[attr-defined]
        self.process.start()

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.process.exitcode  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.join()
        self._sweep()

    def _sweep(self) -> None:
        """Take away the counters of references, shared memory of their own, that torch leaves behind where a process does not end by itself."""
        for left in SHARED.glob(f"torch_{self.process.pid}_*") if self.process is not None else ():
            left.unlink(missing_ok=True)


def _keep(sharing: Sharing, device: str, address: str, environment: dict[str, str], folder: str) -> None:
    """In the process itself: load the teachers, then give them to whoever asks, or the reason why there are none."""
    from zoo.harness.native.weights import gather, unsupported

    settle(environment, folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is interrupted too, and ends it
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # what libraries say while they load
    with Listener(address, "AF_UNIX") as listener:
        answer: Any
        try:
            answer = load_teachers(sharing.spec, sharing.paths, torch.device(device), trust_remote_code=sharing.trust_remote_code)
            for teacher in answer.values():
                if unsupported(teacher) is None:
                    gather(teacher)  # as the native decoder reads weights, or each worker whose teacher writes would copy them for that
        except Exception as error:
            answer = error if isinstance(error, ZooError) else _line(error)
        while True:
            with suppress(Exception), listener.accept() as connection:  # one that is killed while it asks is no reason to end
                _give(connection, answer)


def _give(connection: Connection, answer: Any) -> None:
    try:
        connection.send(answer)
    except OSError:
        raise
    except Exception as error:  # a model that can't be sent, or memory that can't be shared here
        connection.send(_line(error))


def borrowed(say: Callable[[str], None], trust_remote_code: bool = False) -> dict[str, Any] | None:
    """The teachers of the keeper that this process was told of. None where it was told of none, and also, with a line that says so, where the keeper
    can't be reached or has none to give: then a copy of one's own serves as well.

    Raises:
        ZooError: what the keeper met when it loaded them.
    """
    if KEEPER not in os.environ:
        return None
    from transformers.dynamic_module_utils import init_hf_modules

    try:
        if trust_remote_code:
            init_hf_modules()  # where a model's own code is found
        with _connected(os.environ[KEEPER]) as connection:
            answer: Any = connection.recv()
    except Exception as error:
        answer = _line(error)
    if isinstance(answer, ZooError):
        raise answer
    if isinstance(answer, str):
        say(f"the teachers are not shared, and this worker loads its own ({answer})")
        return None
    return answer  # type: ignore[no-any-return]


def _connected(address: str) -> Connection:
    """A connection to the keeper, which may not have begun to listen."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(address, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def bytes_of(models: Iterable[Any]) -> int:
    """Bytes of the models' weights and buffers, those that share memory counted once."""
    stores = {s.data_ptr(): s.nbytes() for model in models for t in (*model.parameters(), *model.buffers()) for s in (t.untyped_storage(),)}
    return sum(stores.values())


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
