"""From records to scores, on small hand-made comparisons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from golden_records.factory import eval_payload, event_payload, run_payload, write_run

from zoo.errors import ZooError
from zoo.records import load_records, write_record
from zoo.score_frame import scores, select

STUDENT = [1.0] * 4 + [0.0] * 6
TEACHER = [1.0] * 9 + [0.0]
GKD = [1.0] * 6 + [0.0] * 4


def anchored(root: Path, **items: list[float]) -> Path:
    """A comparison with its anchors on one task; `items` replace or add methods."""
    for method, scored in ({"student": STUDENT, "teacher": TEACHER, "no_op": STUDENT} | items).items():
        write_run(root, run_payload(method), {"sums": scored})
    return root


def row(frame: pd.DataFrame, method: str, seed: int = 0, metric: str = "exact_match,strict") -> dict[str, Any]:
    (found,) = frame[(frame.method == method) & (frame.seed == seed) & (frame.metric == metric)].to_dict("records")
    return {str(key): value for key, value in found.items()}


def test_gap_and_difference_by_hand(tmp_path: Path) -> None:
    found = row(scores(anchored(tmp_path, gkd=GKD), "toy"), "gkd")
    assert found["score"] == pytest.approx(0.6) and found["stderr"] == pytest.approx((0.6 * 0.4 / 9) ** 0.5) and found["n"] == 10
    assert found["difference"] == pytest.approx(0.2)  # two of ten items gained: variance (2 - 10 * 0.04) / 9, over 10
    assert found["difference_stderr"] == pytest.approx((1.6 / 9 / 10) ** 0.5)
    assert found["gap_closed"] == pytest.approx(2 / 5)
    # the deviations (gained - 0.4 * whole) / 0.5 are 1.2 twice and -0.8 three times: sum of squares 4.8
    assert found["gap_closed_stderr"] == pytest.approx((4.8 / 9 / 10) ** 0.5)
    assert found["supervised_tokens"] == 64010 and found["pair"] == "micro" and found["uuid"] == "gkd-0"


def test_rows_carry_the_digests_of_their_own_files(tmp_path: Path) -> None:
    found = row(scores(anchored(tmp_path, gkd=GKD), "toy"), "gkd")
    record = next(record for record in load_records(tmp_path, "toy") if record.run.method == "gkd")
    assert set(found["records"]) == set(record.digests.values()) and len(found["records"]) == 2


def test_small_gap_gives_a_reason_and_no_number(tmp_path: Path) -> None:
    found = row(scores(anchored(tmp_path, teacher=[1.0] * 5 + [0.0] * 5, gkd=GKD), "toy"), "gkd")
    assert pd.isna(found["gap_closed"]) and found["gap_reason"] == "teacher - student is 0.100 ± 0.100, not above 2 standard errors"
    assert found["difference"] == pytest.approx(0.2)


def test_missing_anchor_and_other_items_give_reasons(tmp_path: Path) -> None:
    write_run(tmp_path, run_payload("gkd"), {"sums": GKD})
    assert row(scores(tmp_path, "toy"), "gkd")["gap_reason"] == "no score of the untrained student"
    write_run(tmp_path, run_payload("student"), {"sums": STUDENT})
    assert row(scores(tmp_path, "toy"), "gkd")["gap_reason"] == "no score of the teacher"
    write_run(tmp_path, run_payload("teacher"), {"sums": TEACHER[:8]})
    assert "not evaluated on the same items" in row(scores(tmp_path, "toy"), "gkd")["gap_reason"]


@pytest.mark.parametrize("status", ["diverged", "oom", "timeout", "error", "cancelled", "orphaned"])
def test_failed_runs_are_rows_without_a_score(tmp_path: Path, status: str) -> None:
    anchored(tmp_path)
    write_run(tmp_path, run_payload("gkd", status=status, error={"type": "E", "message": "what happened"}), {"sums": GKD})
    found = row(scores(tmp_path, "toy"), "gkd")
    assert found["status"] == status and found["reason"] == f"{status}: what happened"
    assert pd.isna(found["score"]) and pd.isna(found["gap_closed"]) and found["steps"] == 20


def test_declared_and_not_run_is_a_row_too(tmp_path: Path) -> None:
    anchored(tmp_path)
    asked = {"methods": ["student", "gkd", {"id": "sft"}], "seeds": [0, 1]}
    write_run(tmp_path, run_payload("gkd", asked=asked, created="2026-03-01T00:00:00Z"), {"sums": GKD})
    frame = scores(tmp_path, "toy")
    missing = frame[frame.status == "not_run"]
    assert sorted(zip(missing.method, missing.seed, strict=True)) == [("gkd", 1), ("sft", 0), ("sft", 1)]
    assert list(dict.fromkeys(frame.method)) == ["student", "teacher", "no_op", "gkd", "sft"]
    assert missing.score.isna().all()


def test_a_suite_that_was_not_evaluated_says_so(tmp_path: Path) -> None:
    anchored(tmp_path)
    write_run(tmp_path, run_payload("gkd"))
    found = row(scores(tmp_path, "toy"), "gkd")
    assert pd.isna(found["score"]) and found["reason"] == "no evaluation of sums, exact_match,strict"


def test_earliest_success_counts_never_the_best(tmp_path: Path) -> None:
    anchored(tmp_path)
    for minute, uuid, status, items in ((3, "c", "success", TEACHER), (2, "b", "success", GKD), (1, "a", "error", None)):
        run = run_payload("gkd", uuid=uuid, status=status, created=f"2026-01-01T00:0{minute}:00Z")
        write_run(tmp_path, run, {"sums": items} if items else None)
    found = row(scores(tmp_path, "toy"), "gkd")
    assert found["uuid"] == "b" and found["notes"] == ("gkd, seed 0: 2 successful attempts with the same settings; the earliest is shown",)


def test_latest_failure_counts_without_a_success(tmp_path: Path) -> None:
    anchored(tmp_path)
    for minute, uuid, status in ((1, "a", "oom"), (2, "b", "diverged")):
        write_run(tmp_path, run_payload("gkd", uuid=uuid, status=status, created=f"2026-01-01T00:0{minute}:00Z"))
    assert row(scores(tmp_path, "toy"), "gkd")["status"] == "diverged"


def test_newest_settings_count_and_a_note_says_so(tmp_path: Path) -> None:
    anchored(tmp_path)
    for minute, uuid, key in ((1, "a", "v1-old"), (2, "b", "v1-new"), (3, "c", "v1-old")):
        write_run(tmp_path, run_payload("gkd", uuid=uuid, run_key=key, created=f"2026-01-01T00:0{minute}:00Z"), {"sums": GKD})
    found = row(scores(tmp_path, "toy"), "gkd")
    assert found["uuid"] == "b" and "records under 2 different settings" in found["notes"][0]


def test_withdrawn_records_count_nowhere(tmp_path: Path) -> None:
    anchored(tmp_path)
    folder = write_run(tmp_path, run_payload("gkd"), {"sums": TEACHER})
    write_record(folder, "event-event-1.json", event_payload("invalidate", "gkd-0"))
    found = row(scores(tmp_path, "toy"), "gkd")
    assert found["status"] == "withdrawn" and found["reason"] == "invalidated: a reason" and pd.isna(found["score"])
    write_run(tmp_path, run_payload("gkd", uuid="again"), {"sums": GKD})
    assert row(scores(tmp_path, "toy"), "gkd")["uuid"] == "again"


def test_seeds_use_the_anchor_of_their_own_seed_where_there_is_one(tmp_path: Path) -> None:
    anchored(tmp_path)
    write_run(tmp_path, run_payload("student", 1), {"sums": [0.0] * 10})
    for seed in (0, 1, 2):
        write_run(tmp_path, run_payload("gkd", seed), {"sums": GKD})
    frame = scores(tmp_path, "toy")
    assert [row(frame, "gkd", seed)["difference"] for seed in (0, 1, 2)] == pytest.approx([0.2, 0.6, 0.2])


def test_all_metrics_are_rows_and_standard_errors_are_not(tmp_path: Path) -> None:
    run = run_payload("student")
    payload = eval_payload(run, {"sums": STUDENT})
    payload["tasks"]["sums"]["metrics"] |= {"exact_match,flexible": 0.5, "words,none": 31.0, "words_stderr,none": 2.0, "exact_match_stderr,strict": 9.0}
    folder = write_run(tmp_path, run)
    write_record(folder, "eval-toy.json", payload)
    frame = scores(tmp_path, "toy").query("method == 'student'")
    assert dict(zip(frame.metric, frame.headline, strict=True)) == {"exact_match,strict": True, "exact_match,flexible": False, "words,none": False}
    stderr = dict(zip(frame.metric, frame.stderr, strict=True))
    assert stderr["exact_match,strict"] == pytest.approx((0.24 / 9) ** 0.5)  # from the items, not as stated
    assert stderr["exact_match,flexible"] == pytest.approx((0.25 / 9) ** 0.5) and stderr["words,none"] == 2.0


def test_two_pairs_do_not_mix(tmp_path: Path) -> None:
    anchored(tmp_path)
    write_run(tmp_path, run_payload("gkd", pair="qwen-coder"), {"sums": GKD})
    with pytest.raises(ZooError, match="records of the pairs micro, qwen-coder; it can have one"):
        scores(tmp_path, "toy")


def test_no_records_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no records of comparison 'toy'; `zoo run toy` makes them"):
        scores(tmp_path, "toy")
    anchored(tmp_path)
    with pytest.raises(ZooError, match="no records of comparison 'tov'; did you mean 'toy'"):
        scores(tmp_path, "tov")


def test_selection_ignores_the_order_of_records(tmp_path: Path) -> None:
    records = load_records(anchored(tmp_path, gkd=GKD), "toy")
    assert select(records) == select(records[::-1])


def test_no_module_takes_the_place_of_the_public_function() -> None:
    program = "import zoo, zoo.tables, zoo.figures, zoo.score_frame; assert callable(zoo.scores), zoo.scores"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=60).returncode == 0
