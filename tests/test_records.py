"""Records are written once, whole or not at all, and read back with their corrections."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_records.factory import eval_payload, event_payload, run_payload, write_run
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.provenance import checkout, provenance, without_paths
from zoo.records import canonical_json, comparisons, digest_file, digest_json, load_records, run_key, unfinished, write_record
from zoo.score_frame import scores
from zoo.tables import build_tables


def everything_in(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- identity

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_canonical_json_by_hand() -> None:
    assert canonical_json({"b": 1.0, "a": [True, None, 0.5, "é"]}) == '{"a":[true,null,0.5,"\\u00e9"],"b":1}'
    assert canonical_json(-0.0) == "0"


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=5))
def test_identity_ignores_order_and_survives_a_round_trip(settings: dict[str, Any]) -> None:
    assert run_key(dict(reversed(settings.items()))) == run_key(settings) == run_key(json.loads(json.dumps(settings)))


def test_run_key_is_versioned_and_frozen() -> None:
    """The digest is that of `printf 'opd-zoo run key v1\\n{"seed":0}' | sha256sum`; a change of it orphans every record."""
    assert run_key({"seed": 0}) == "v1-5258a7d0be8825cb28718a8094ad330a310e0e496ec393c88dad11633cbc8677"
    assert run_key({"seed": 0}) != run_key({"seed": 1})
    assert run_key({"rate": 1}) == run_key({"rate": 1.0}) and run_key({"flag": 1}) != run_key({"flag": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update": {"rate": float("nan")}}, r"settings\.update\.rate: nan"),
        ({"seeds": [0, float("inf")]}, r"settings\.seeds\[1\]: inf"),
        ({"where": Path("x")}, r"settings\.where: a PosixPath"),
        ({"layers": {3: "x"}}, r"settings\.layers: the key 3 is not text"),
    ],
)
def test_identity_refuses_what_has_no_one_form(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        run_key(settings)


# --- writing


def test_a_record_is_written_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path, run_payload("gkd"))
    before = everything_in(tmp_path)
    with pytest.raises(ZooError, match=r"run\.json: this record exists already and records are never rewritten"):
        write_record(folder, "run.json", run_payload("gkd", status="error"))
    assert everything_in(tmp_path) == before


def test_of_two_writers_at_once_one_wins_and_the_other_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second record appears between the check for it and its publication."""
    folder, link = tmp_path / "toy" / "gkd" / "gkd-0", os.link

    def late(source: Path, target: Path) -> None:
        target.write_text("the other writer's")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(ZooError, match="another process wrote this record"):
        write_record(folder, "run.json", run_payload("gkd"))
    assert everything_in(folder) == {"run.json": b"the other writer's"}


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    write_run(tmp_path, run_payload("gkd"))
    assert list(everything_in(tmp_path)) == ["toy/gkd/gkd-0/run.json"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_full_disk_leaves_nothing_partial_and_nothing_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_run(tmp_path, run_payload("gkd"))
    before = everything_in(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(ZooError, match=r"the disk is full.*nothing recorded earlier was lost.*Free at least \d+ KiB.*same command again"):
            write_run(tmp_path, run_payload("sft"))
    assert everything_in(tmp_path) == before and not (tmp_path / "toy" / "sft" / "sft-0").exists()
    write_run(tmp_path, run_payload("sft"))  # with space again, the same call succeeds


def test_killed_while_writing_leaves_no_record(tmp_path: Path) -> None:
    """A process that dies after the bytes are on disk and before they get their name."""
    program = (
        "import os, sys; from pathlib import Path; import zoo.records as records; from golden_records.factory import run_payload, write_run\n"
        "records._publish = lambda *_: os._exit(9)\n"
        f"write_run(Path({str(tmp_path)!r}), run_payload('gkd'))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    assert subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, timeout=60).returncode == 9
    assert load_records(tmp_path, "toy") == []
    assert unfinished(tmp_path, "toy") == [tmp_path / "toy" / "gkd" / "gkd-0"]


def test_last_numbers_of_a_diverged_run_become_null(tmp_path: Path) -> None:
    write_run(tmp_path, run_payload("gkd", status="diverged", final={"loss": float("nan"), "reward": float("-inf"), "kl": 0.5}))
    assert load_records(tmp_path, "toy")[0].run.final == {"loss": None, "reward": None, "kl": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, "run.json: status: Input should be 'success'"),
        ({"created": "2026-01-01T00:00:00"}, "created: Input should have timezone"),
        ({"schema": 2}, "schema: Input should be 1"),
        ({"method": "../gkd"}, "cannot name a folder"),
        ({"method": "sft"}, "belongs in a folder toy/sft/gkd-0"),
    ],
)
def test_wrong_content_is_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        write_record(tmp_path / "toy" / "gkd" / "gkd-0", "run.json", run_payload("gkd") | change)
    assert everything_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 3}, "n is 3, but there are 4 items with 4 different doc ids"),
        ({"items": [[0, 1], [0, 1], [1, 0], [2, 0]]}, "4 items with 3 different doc ids"),
        ({"metrics": {"exact_match,strict": 0.75}}, "the headline says 0.750000, but the mean of its items is 0.500000"),
        ({"headline": "exact_match,strct"}, "no value among the metrics; did you mean 'exact_match,strict'"),
        ({"truncated_share": 1.5}, "truncated_share: Input should be less than or equal to 1"),
        ({"family": "other"}, "family: Input should be 'in_distribution'"),
    ],
)
def test_impossible_scores_are_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    payload = eval_payload(run_payload("gkd"), {"sums": [1.0, 1.0, 0.0, 0.0]})
    payload["tasks"]["sums"] |= change
    with pytest.raises(ZooError, match=message):
        write_record(tmp_path / "toy" / "gkd" / "gkd-0", "eval-toy.json", payload)


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"not a record's name; use run\.json, eval-<suite>\.json, failures\.json, curve\.json or event-<uuid>\.json"):
        write_record(tmp_path, "result.json", run_payload("gkd"))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Every opening of a file by Python in this process: (path, mode), through the interpreter's own audit hook."""
    seen: list[tuple[str, str]] = []
    active = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open":
            writes = isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wax+")
            writes = writes or (isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)))
            seen.append((str(arguments[0]), "write" if writes else "read"))
        elif active and event in ("os.rename", "os.remove", "os.truncate", "os.chmod"):
            seen.append((str(arguments[0]), event))

    sys.addaudithook(hook)
    yield seen
    active.clear()


def test_nothing_reopens_a_record_for_writing(tmp_path: Path, watched: list[tuple[str, str]]) -> None:
    for method in ("student", "teacher", "gkd"):
        write_run(tmp_path / "records", run_payload(method), {"sums": [1.0, 0.0, 1.0]})
    before = everything_in(tmp_path / "records")
    watched.clear()
    write_record(tmp_path / "records" / "toy" / "gkd" / "gkd-0", "event-event-1.json", event_payload("annotate", "gkd-0"))
    scores(tmp_path / "records", "toy")
    build_tables(tmp_path / "records", tmp_path / "tables")
    assert ("read" in {kind for path, kind in watched if path.endswith("run.json")}) and ("write" in {kind for _, kind in watched})
    assert [entry for entry in watched if entry[0].endswith(".json") and "records" in entry[0] and entry[1] != "read"] == []
    assert before.items() <= everything_in(tmp_path / "records").items()


def test_records_are_read_only_files(tmp_path: Path) -> None:
    assert (write_run(tmp_path, run_payload("gkd")) / "run.json").stat().st_mode & 0o222 == 0


# --- reading


def test_records_come_back_typed_with_digests_of_their_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path, run_payload("gkd"), {"sums": [1.0, 0.0]})
    (record,) = load_records(tmp_path, "toy")
    assert (record.run.method, record.run.seed, record.evals[0].tasks["sums"].score) == ("gkd", 0, 0.5)
    assert record.run_digest == digest_file(folder / "run.json") and record.eval_digest(record.evals[0]) == digest_file(folder / "eval-toy.json")
    assert comparisons(tmp_path) == ["toy"] and load_records(tmp_path, "none") == []


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    write_run(tmp_path, run_payload("gkd", later={"x": 1}))
    assert load_records(tmp_path, "toy")[0].run.model_extra == {"later": {"x": 1}}


@pytest.mark.parametrize("broken", ["", "{", '{"schema": 1}', "[]"])
def test_broken_file_is_named(tmp_path: Path, broken: str) -> None:
    path = write_run(tmp_path, run_payload("gkd")) / "run.json"
    path.unlink()
    path.write_text(broken)
    with pytest.raises(ZooError, match=r"toy/gkd/gkd-0/run\.json: "):
        load_records(tmp_path, "toy")


def test_moved_and_mixed_up_files_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, run_payload("gkd"))
    write_run(tmp_path, run_payload("sft"), {"sums": [1.0]})
    evaluation = tmp_path / "toy" / "sft" / "sft-0" / "eval-toy.json"
    evaluation.rename(folder / "eval-toy.json")
    with pytest.raises(ZooError, match=r"gkd-0/eval-toy\.json: uuid, run_key or suite differ"):
        load_records(tmp_path, "toy")
    (folder / "eval-toy.json").unlink()
    folder.rename(folder.parent / "other")
    with pytest.raises(ZooError, match=r"other/run\.json: says it belongs in toy/gkd/gkd-0"):
        load_records(tmp_path, "toy")


# --- events


def test_events_withdraw_replace_and_annotate(tmp_path: Path) -> None:
    first = write_run(tmp_path, run_payload("gkd", uuid="first"))
    second = write_run(tmp_path, run_payload("gkd", uuid="second"))
    write_run(tmp_path, run_payload("sft"))
    write_record(first, "event-event-1.json", event_payload("supersede", "first", by="second"))
    write_record(second, "event-event-2.json", event_payload("annotate", "second", uuid="event-2"))
    write_record(first, "event-event-3.json", event_payload("invalidate", "sft-0", uuid="event-3"))
    found = {record.run.uuid: record for record in load_records(tmp_path, "toy")}
    assert found["first"].withdrawn == "superseded: a reason" and found["sft-0"].withdrawn == "invalidated: a reason"
    assert found["second"].withdrawn is None and found["second"].notes == ("replaces an earlier attempt: a reason", "a reason")
    assert digest_file(second / "event-event-2.json") in found["second"].digests.values()


def test_event_without_target_is_an_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path, run_payload("gkd"))
    write_record(folder, "event-event-1.json", event_payload("invalidate", "gdk-0"))
    with pytest.raises(ZooError, match=r"event-event-1\.json: no attempt has the uuid gdk-0"):
        load_records(tmp_path, "toy")


def test_supersede_names_its_replacement(tmp_path: Path) -> None:
    folder = write_run(tmp_path, run_payload("gkd"))
    with pytest.raises(ZooError, match="`by` names the replacing attempt"):
        write_record(folder, "event-event-1.json", event_payload("supersede", "gkd-0"))


def test_unfinished_attempts(tmp_path: Path) -> None:
    run = run_payload("gkd")
    write_record(tmp_path / "toy" / "gkd" / "gkd-0", "eval-toy.json", eval_payload(run, {"sums": [1.0]}))
    write_run(tmp_path, run_payload("sft"))
    assert unfinished(tmp_path, "toy") == [tmp_path / "toy" / "gkd" / "gkd-0"]
    assert unfinished(tmp_path, "toy", live={"gkd-0"}) == []


# --- provenance


def test_provenance_names_versions_and_hardware_and_no_folder() -> None:
    stamp = provenance(["/usr/local/bin/zoo", "run", "quickstart", "--pair-path", "student=/home/me/models/qwen"])
    assert stamp["arguments"] == ["…/zoo", "run", "quickstart", "--pair-path", "student=…/qwen"]
    assert {"python", "torch", "transformers", "lm-eval", "numpy"} <= stamp["packages"].keys()
    assert stamp["hardware"]["cores"] >= 1 and stamp["hardware"]["torch_threads"] >= 1 and stamp["hardware"]["cpu"]
    assert digest_json(stamp)  # plain JSON


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("No such file: '/tmp/x/y.json'", "No such file: '…/y.json'"),
        ("~/models/q and C:\\Users\\me\\m", "…/q and …/m"),
        ("results/records ../up Qwen/Qwen2.5 https://example.org/a/b 1/2", "results/records ../up Qwen/Qwen2.5 https://example.org/a/b 1/2"),
    ],
)
def test_absolute_paths_are_stripped(text: str, stripped: str) -> None:
    assert without_paths(text) == stripped


def test_commit_of_our_own_checkout_only(tmp_path: Path) -> None:
    assert checkout(tmp_path) == (None, None)

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "code.py").write_text("x = 1\n")
    git("add", "zoo")
    git("commit", "-m", "first")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    commit, dirty = checkout(tmp_path)
    assert commit is not None and len(commit) == 40 and dirty is False
    (tmp_path / "zoo" / "code.py").write_text("x = 2\n")
    assert checkout(tmp_path) == (commit, True)
    assert checkout(tmp_path / "zoo") == (None, None)  # inside somebody else's repository
