"""What a run leaves behind: JSON files that are written once and never reopened.

Layout: `<root>/<comparison>/<method>/<uuid>/` holds `run.json`, `eval-<suite>.json`, `event-<uuid>.json` and, of a run with
diagnostics, `failures.json` and `curve.json`. A later correction is another event file, never an edit. Readers get a sha256 of
each file's bytes, so that every number in a table can be traced to what it came from.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import uuid as uuids
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zoo.errors import ZooError
from zoo.record_types import Curve, Eval, Event, Failures, Run, content_type

RUN_KEY_VERSION = 1
PARTIAL = ".partial"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

Content = TypeVar("Content", bound=BaseModel)


@dataclass(frozen=True)
class Record:
    """One attempt at one cell of a comparison, with its evaluations and with later events applied.

    `digests` maps each file behind it (relative to the records root) to the sha256 of its bytes. `withdrawn` gives the
    reason of an event that invalidates or supersedes the attempt: such a record counts nowhere. `notes` are the
    annotations made later, and on a replacement what it replaces.
    """

    run: Run
    evals: tuple[Eval, ...]
    digests: Mapping[str, str]
    withdrawn: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def run_digest(self) -> str:
        return self.digests[f"{_folder_name(self.run)}/run.json"]

    def eval_digest(self, evaluation: Eval) -> str:
        return self.digests[f"{_folder_name(self.run)}/eval-{evaluation.suite}.json"]


# --- identity


def canonical_json(value: object, where: str = "settings") -> str:
    """The one text form of JSON-like data: sorted keys, no spaces, whole floats as integers (as in RFC 8785), no NaN.

    Raises ZooError, naming the place, for NaN, infinities, keys that are not text and anything that JSON lacks (a path, a
    tensor): none of these can be part of an identity.
    """
    return json.dumps(_canonical(value, where), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: object, where: str) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ZooError(f"{where}: {value} cannot be part of an identity; give a finite number")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ZooError(f"{where}: the key {key!r} is not text; quote it")
        return {key: _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ZooError(f"{where}: a {type(value).__name__} cannot be part of an identity; give text, numbers, lists and mappings only")


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces (weights are large)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: object) -> str:
    """sha256 of the canonical JSON: the digest of an entry, a suite or any other settings."""
    return digest_bytes(canonical_json(value).encode())


def run_key(settings: Mapping[str, object]) -> str:
    """The identity of a cell, `v<version>-<sha256>`, from the settings that affect its result and nothing else.

    Paths, worker counts and logging options do not belong into `settings`. The version is hashed too, so a change of this
    function can never make two identities collide.
    """
    text = f"opd-zoo run key v{RUN_KEY_VERSION}\n{canonical_json(settings)}"
    return f"v{RUN_KEY_VERSION}-{digest_bytes(text.encode())}"


# --- writing


def write_record(folder: Path, name: str, payload: Mapping[str, Any]) -> Path:
    """Write `payload` as `folder/name`, atomically and only once; returns the path.

    The content is checked against its type first. NaN and infinities (a diverged run's last numbers) become null. Raises
    ZooError if the record exists, if the content is wrong, or if the disk is full; in each case no partial file stays.
    """
    target = folder / name
    content = _without_nonfinite(payload)
    checked = _parse(content_type(name, target), content, target)
    if isinstance(checked, Run | Eval | Failures | Curve) and not folder.as_posix().endswith(_folder_name(checked)):
        raise ZooError(f"{target}: this record belongs in a folder {_folder_name(checked)}")
    if target.exists():
        raise ZooError(f"{target}: this record exists already and records are never rewritten; add an event to correct it")
    data = (_layout(content) + "\n").encode()
    partial = folder / f".{name}.{uuids.uuid4().hex}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_durably(partial, data)
        _publish(partial, target)
        for directory in (folder, folder.parent):
            _sync_directory(directory)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise ZooError(
                f"{target}: the disk is full, so this record was not written; nothing recorded earlier was lost. "
                f"Free at least {len(data) // 1024 + 1} KiB there (old checkpoints and logs are the largest) and run the same command again"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # only an empty folder goes
            folder.rmdir()
    return target


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)


def _publish(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)  # fails where the target exists, which a rename would silently replace
    except FileExistsError:
        raise ZooError(f"{target}: another process wrote this record a moment ago; records are never rewritten") from None
    except OSError as error:
        if error.errno not in NO_HARD_LINKS or target.exists():
            raise
        partial.rename(target)


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return value


def _layout(value: Any, depth: int = 0) -> str:
    """JSON with one mapping entry per line and each list on one line: readable, and short where there are many items."""
    if isinstance(value, Mapping) and value:
        pad = " " * (depth + 1)
        lines = [f"{pad}{json.dumps(key)}: {_layout(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    return json.dumps(value, allow_nan=False)


# --- reading


def comparisons(root: Path) -> list[str]:
    """Names of the comparisons that have records."""
    return sorted({path.parts[-4] for path in root.glob("*/*/*/run.json")})


def load_records(root: Path, comparison: str) -> list[Record]:
    """All attempts of a comparison, by method, time of creation and uuid, with their events applied; empty where there are none.

    Raises ZooError, naming the file, for broken JSON, a wrong field, a file in the wrong folder and an event without target.
    """
    records = [_load_attempt(root, path.parent) for path in sorted((root / comparison).glob("*/*/run.json"))]
    records.sort(key=lambda record: (record.run.method, record.run.created, record.run.uuid))
    return _apply_events(records, root, comparison)


def unfinished(root: Path, comparison: str, live: Collection[str] = ()) -> list[Path]:
    """Folders of attempts that ended without a `run.json` (killed, say) and are not among the `live` uuids."""
    folders = (path for path in sorted((root / comparison).glob("*/*")) if path.is_dir())
    return [path for path in folders if not (path / "run.json").exists() and path.name not in live]


def _load_attempt(root: Path, folder: Path) -> Record:
    run, run_digest = _read(folder / "run.json", Run)
    digests = {f"{_folder_name(run)}/run.json": run_digest}
    if folder.relative_to(root).as_posix() != _folder_name(run):
        raise ZooError(f"{folder / 'run.json'}: says it belongs in {_folder_name(run)}; move it back")
    evals = []
    for path in sorted(folder.glob("eval-*.json")):
        evaluation, digest = _read(path, Eval)
        if (evaluation.uuid, evaluation.run_key, path.name) != (run.uuid, run.run_key, f"eval-{evaluation.suite}.json"):
            raise ZooError(f"{path}: uuid, run_key or suite differ from those of the run beside it")
        evals.append(evaluation)
        digests[f"{_folder_name(run)}/{path.name}"] = digest
    return Record(run, tuple(evals), digests)


def _read(path: Path, kind: type[Content]) -> tuple[Content, str]:
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        remedy = "restore the file from version control, or move its folder away and run the comparison again"
        raise ZooError(f"{path}: broken JSON ({error}); {remedy}") from None
    return _parse(kind, content, path), digest_bytes(data)


def _parse(kind: type[Content], content: object, path: Path) -> Content:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ZooError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}{more}") from None


def _events(root: Path, comparison: str) -> Iterator[tuple[Path, Event, str]]:
    found = [(path, *_read(path, Event)) for path in (root / comparison).glob("*/*/event-*.json")]
    yield from sorted(found, key=lambda item: (item[1].created, item[1].uuid))


def _apply_events(records: list[Record], root: Path, comparison: str) -> list[Record]:
    by_uuid = {record.run.uuid: record for record in records}
    if len(by_uuid) != len(records):
        raise ZooError(f"{root / comparison}: two attempts carry the same uuid; one was copied, remove the copy")
    for path, event, digest in _events(root, comparison):
        for named in filter(None, (event.target, event.by)):
            if named not in by_uuid:
                raise ZooError(f"{path}: no attempt has the uuid {named}; correct the event's target")
        file = {path.relative_to(root).as_posix(): digest}
        target = by_uuid[event.target]
        if event.action == "annotate":
            by_uuid[event.target] = _amended(target, file, note=event.reason)
            continue
        by_uuid[event.target] = _amended(target, file, withdrawn=f"{event.action}d: {event.reason}")
        if event.by:
            by_uuid[event.by] = _amended(by_uuid[event.by], file, note=f"replaces an earlier attempt: {event.reason}")
    return [by_uuid[record.run.uuid] for record in records]


def _amended(record: Record, file: Mapping[str, str], note: str | None = None, withdrawn: str | None = None) -> Record:
    notes = (*record.notes, note) if note else record.notes
    return Record(record.run, record.evals, {**record.digests, **file}, withdrawn or record.withdrawn, notes)


def _folder_name(run: Run | Eval | Failures | Curve) -> str:
    return f"{run.comparison}/{run.method}/{run.uuid}"
