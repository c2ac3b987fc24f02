"""Tables end to end: from committed hand-made records to the committed text, with the numbers worked out by hand."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from golden_records.factory import event_payload, run_payload, write_run
from rich.console import Console

from zoo.errors import ZooError
from zoo.figures import comparison_figure, figure_png, figure_svg
from zoo.records import digest_file, write_record
from zoo.score_frame import device, scores
from zoo.table_forms import Column, Table, TableCell, to_csv, to_latex, to_markdown
from zoo.table_layouts import cost_table, main_table
from zoo.table_standing import pairwise_table
from zoo.tables import build_tables, check_tables, terminal_table
from zoo.trace import behind as records_behind

GOLDEN = Path(__file__).parent / "golden_records"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables")
    build_tables(GOLDEN / "records", out)
    return out


def files_in(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- the golden comparison: 20 items of `sums`, 10 of `copy`; one gkd attempt superseded, minillm diverged, tml_opd out of memory


@pytest.mark.parametrize("table", ["main", "costs"])
def test_golden_text(built: Path, table: str) -> None:
    assert (built / "golden" / f"{table}.md").read_text() == (GOLDEN / f"expected_{table}.md").read_text()


def test_golden_numbers_by_hand(built: Path) -> None:
    """Right answers on sums: student items 0-7, teacher 0-17, gkd 0-6 and 8-13; on copy: 0-8, all ten, 0-7."""
    with (built / "golden" / "main.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["student", "teacher", "no_op", "gkd", "minillm", "sft", "tml_opd"]
    expected = {
        ("student", "sums.score"): 8 / 20,
        ("student", "sums.score_stderr"): (0.4 * 0.6 / 19) ** 0.5,
        ("teacher", "sums.score"): 18 / 20,
        ("teacher", "sums.gap_closed"): 1,
        ("teacher", "copy.difference"): 1 / 10,
        ("teacher", "copy.difference_stderr"): ((1 - 10 * 0.1**2) / 9 / 10) ** 0.5,
        ("no_op", "sums.gap_closed"): 0,
        ("gkd", "sums.score"): 13 / 20,
        ("gkd", "sums.score_stderr"): (0.65 * 0.35 / 19) ** 0.5,
        ("gkd", "copy.score"): 8 / 10,
        ("gkd", "copy.score_stderr"): (0.8 * 0.2 / 9) ** 0.5,
        ("gkd", "sums.truncated_share"): 0.1,
        ("gkd", "sums.gap_closed"): (13 - 8) / (18 - 8),
        # (gained - 0.5 * whole) / 0.5 is -2 on item 7, 1 on items 8-13, -1 on 14-17: sum of squares 14
        ("gkd", "sums.gap_closed_stderr"): (14 / 19 / 20) ** 0.5,
        ("gkd", "copy.difference"): -1 / 10,
        ("gkd", "supervised_tokens"): 64010,
        ("gkd", "seconds"): 31.5,
        ("minillm", "steps"): 12,
        ("tml_opd", "generated_tokens"): 3500,
    }
    for (method, column), value in expected.items():
        assert float(rows[method][column]) == pytest.approx(value, abs=1e-9), (method, column)
    marks = {method: {rows[method][name] for name in ("sums.score", "copy.score", "sums.gap_closed")} for method in ("minillm", "tml_opd", "sft")}
    assert marks == {"minillm": {"div"}, "tml_opd": {"oom"}, "sft": {"–"}}


def test_golden_costs_by_hand(built: Path) -> None:
    with (built / "golden" / "costs.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["student", "teacher", "no_op", "gkd", "minillm", "sft", "tml_opd"]
    expected = {
        ("student", "evaluate_tokens_per_second"): 670 / 4,
        ("teacher", "evaluate_tokens_per_second"): 670 / 8,
        ("gkd", "rollouts"): 2560,
        ("gkd", "rollout_tokens_per_second"): 70000 / 10,
        ("gkd", "score_tokens_per_second"): 64010 / 5,
        ("gkd", "update_seconds"): 16.5,
        ("gkd", "update_tokens_per_second"): 64010 / 16.5,
        ("gkd", "peak_memory_gib"): 1.5,
        ("gkd", "flops_estimate"): 1.5e12,
        ("gkd", "sums.truncated_share"): 0.1,
        ("gkd", "sums.mean_length"): 30.5,
        ("gkd", "processes"): 1,
        ("minillm", "update_tokens_per_second"): 38406 / 9,
        ("tml_opd", "rollout_tokens_per_second"): 3500 / 2.4,
    }
    for (method, column), value in expected.items():
        assert float(rows[method][column]) == pytest.approx(value, rel=1e-9), (method, column)
    assert [rows["student"][f"{phase}_tokens_per_second"] for phase in ("rollout", "score", "update")] == ["n/a"] * 3
    assert (rows["minillm"]["sums.mean_length"], rows["tml_opd"]["sums.mean_length"]) == ("div", "oom")
    assert set(rows["sft"].values()) == {"sft", "–", ""}


def test_golden_detectable_difference_by_hand(built: Path) -> None:
    """gkd - student has 6 items of +1 and one of -1: variance (7 - 20 * 0.0625) / 19, over 20; times 1.959964 + 0.841621."""
    assert f"below {2.801585 * (5.75 / 19 / 20) ** 0.5:.3f} " in (built / "golden" / "main.md").read_text()


def test_one_seed_claims_no_interval_and_no_ranking(built: Path) -> None:
    text = (built / "golden" / "main.md").read_text()
    assert "One seed: no interval over seeds and no ranking is given." in text and "[" not in re.sub(r"!?\[\^?[\w ]+\]", "", text)
    assert not (built / "golden" / "pairwise.md").exists()


def test_every_metric_and_filter_is_listed(built: Path) -> None:
    with (built / "golden" / "all_metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "gkd"]
    assert [(row["task"], row["metric"], row["headline"], float(row["score"])) for row in rows] == [
        ("sums", "exact_match,strict", "yes", 0.65),
        ("sums", "exact_match,flexible", "no", 0.7),
        ("copy", "exact_match,none", "yes", 0.8),
    ]
    assert float(rows[1]["score_stderr"]) == 0.05


# --- the manifest


def test_each_cell_traces_to_the_bytes_of_its_records(built: Path) -> None:
    manifest = json.loads((built / "MANIFEST.json").read_text())
    section = manifest["comparisons"]["golden"]
    for short, record in section["records"].items():
        assert digest_file(GOLDEN / "records" / record["path"]) == record["sha256"] and record["sha256"].startswith(short)
    for file, digest in section["files"].items():
        assert digest_file(built / "golden" / file) == digest

    def behind(row: str, column: str, table: str = "main") -> set[str]:
        return {record["path"].removeprefix("golden/") for record in records_behind(section, table, row, column)}

    gkd = {"gkd/gkd-2/run.json", "gkd/gkd-2/eval-toy.json", "gkd/gkd-1/event-wrong-model.json"}
    student = {"student/student-1/run.json", "student/student-1/eval-toy.json"}
    teacher = {"teacher/teacher-1/run.json", "teacher/teacher-1/eval-toy.json"}
    assert behind("gkd", "sums.score") == gkd
    assert behind("gkd", "copy.difference") == gkd | student
    assert behind("gkd", "sums.gap_closed") == gkd | student | teacher
    assert behind("minillm", "sums.score") == {"minillm/minillm-1/run.json"} and behind("sft", "sums.score") == set()
    for column in ("steps", "update_seconds", "score_tokens_per_second", "peak_memory_gib", "sums.mean_length", "processes"):
        assert behind("gkd", column, "costs") == gkd and behind("sft", column, "costs") == set(), column


def test_manifest_covers_every_cell(built: Path) -> None:
    section = json.loads((built / "MANIFEST.json").read_text())["comparisons"]["golden"]
    for name, labels in (("main", 1), ("costs", 1), ("all_metrics", 7)):
        with (built / "golden" / f"{name}.csv").open() as file:
            rows = list(csv.reader(file))
        columns = [column for column in rows[0][labels:-1] if not column.endswith("_stderr")]
        assert len(section["tables"][name]) == len(rows) - 1 and section["columns"][name] == columns
        assert all(isinstance(cells, str) or list(cells) == columns for cells in section["tables"][name].values())
    assert isinstance(section["tables"]["costs"]["gkd"], str) and isinstance(section["tables"]["main"]["gkd"], dict)


# --- reproducibility


def test_rebuilding_changes_no_byte_and_depends_on_nothing_outside(built: Path, tmp_path: Path) -> None:
    """Another process, other hash seed, time zone, locale and folder; records copied, so their times differ too."""
    shutil.copytree(GOLDEN / "records", tmp_path / "elsewhere")
    program = "import sys; from pathlib import Path; from zoo.tables import build_tables; build_tables(Path(sys.argv[1]), Path(sys.argv[2]))"
    surroundings = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONPATH": str(GOLDEN.parent.parent), "PYTHONUTF8": "0"}
    arguments = [sys.executable, "-c", program, str(tmp_path / "elsewhere"), str(tmp_path / "out")]
    subprocess.run(arguments, env=os.environ | surroundings, check=True, timeout=120)
    assert files_in(tmp_path / "out") == files_in(built)


def test_no_time_and_no_folder_in_any_file(built: Path) -> None:
    for name, data in files_in(built).items():
        assert b"2026-" not in data and str(Path.cwd()).encode() not in data, name


def test_check_lists_what_differs(tmp_path: Path) -> None:
    build_tables(GOLDEN / "records", tmp_path)
    assert check_tables(GOLDEN / "records", tmp_path) == []
    (tmp_path / "golden" / "main.tex").unlink()
    (tmp_path / "golden" / "main.csv").write_text("edited by hand")
    svg = tmp_path / "golden" / "main.svg"
    svg.write_bytes(svg.read_bytes().replace(b"gkd", b"gdk"))
    (tmp_path / "notes.md").write_text("mine")
    assert check_tables(GOLDEN / "records", tmp_path) == [
        "changed: golden/main.csv",
        "changed: golden/main.svg",
        "missing: golden/main.tex",
        "extra: notes.md",
    ]


def test_check_notices_a_changed_record(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "records", tmp_path / "records")
    build_tables(tmp_path / "records", tmp_path / "out")
    folder = tmp_path / "records" / "golden" / "minillm" / "minillm-1"
    event = event_payload("annotate", "minillm-1")
    write_record(folder, "event-event-1.json", event)
    assert check_tables(tmp_path / "records", tmp_path / "out") == [
        *("changed: MANIFEST.json", "changed: golden/costs.csv", "changed: golden/costs.md", "changed: golden/costs.tex"),
        *("changed: golden/main.csv", "changed: golden/main.md", "changed: golden/main.tex"),
    ]


def test_one_comparison_at_a_time_gives_the_same_as_all(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "records", tmp_path / "records")
    write_run(tmp_path / "records", run_payload("student"), {"sums": [1.0, 0.0]})
    build_tables(tmp_path / "records", tmp_path / "all")
    for name in ("toy", "golden"):
        build_tables(tmp_path / "records", tmp_path / "one by one", name)
    assert files_in(tmp_path / "one by one") == files_in(tmp_path / "all")
    with pytest.raises(ZooError, match="no records of comparison 'typo'"):
        build_tables(tmp_path / "records", tmp_path / "all", "typo")


# --- several seeds

STUDENT = [1.0] * 10 + [0.0] * 30
TEACHER = [1.0] * 38 + [0.0] * 2


def seeded(root: Path, seeds: int, failed: int | None = None) -> pd.DataFrame:
    """gkd gains about 20 of 40 items, sft about 10; `failed` is a seed of gkd that diverged."""
    asked = {"methods": ["gkd", "sft"], "seeds": list(range(seeds))}
    for method, items in (("student", STUDENT), ("teacher", TEACHER), ("no_op", STUDENT)):
        write_run(root, run_payload(method, asked=asked), {"sums": items})
    for method, gain in (("gkd", 20), ("sft", 10)):
        for seed in range(seeds):
            run = run_payload(method, seed, asked=asked)
            if method == "gkd" and seed == failed:
                write_run(root, run | {"status": "diverged", "error": {"type": "E", "message": "no"}})
                continue
            right = 10 + gain + (-2, 0, 3, 1, -1)[seed]
            write_run(root, run, {"sums": [1.0] * right + [0.0] * (40 - right)})
    return scores(root, "toy")


def cell(table: Table, method: str, key: str) -> TableCell:
    column = [column.key for column in table.columns].index(key)
    return next(row[column] for row in table.rows if row[0].text == method)


def test_five_seeds_have_intervals_and_pairwise_differences(tmp_path: Path) -> None:
    frame = seeded(tmp_path, 5)
    found = cell(main_table(frame), "gkd", "sums.gap_closed")
    low, high = (float(number.replace("−", "-")) for number in re.findall(r"[−\d.]+", found.text.split("[")[1]))
    assert found.value == pytest.approx((20 + 0.2) / 28) and low < found.value < high
    assert cell(main_table(frame), "gkd", "iqm_gap_closed").value == pytest.approx((20 + (-1 + 0 + 1) / 3) / 28)
    pairwise = pairwise_table(frame)
    assert pairwise is not None
    line = next(row for row in pairwise.rows if [c.text for c in row[:3]] == ["sums", "gkd", "sft"])
    assert line[3].value == pytest.approx(10 / 40) and line[5].value == 1.0
    assert "5 seeds: means; brackets are 95 % intervals" in to_markdown(main_table(frame))


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_have_a_mark_in_place_of_an_interval(tmp_path: Path, seeds: int) -> None:
    frame = seeded(tmp_path, seeds)
    text = cell(main_table(frame), "gkd", "sums.gap_closed").text
    assert text.endswith(" †") and "[" not in text and pairwise_table(frame) is None
    assert "too few for intervals over seeds, and no ranking" in to_markdown(main_table(frame))


def test_a_failed_seed_is_not_filled_in(tmp_path: Path) -> None:
    frame = seeded(tmp_path, 5, failed=2)
    table = main_table(frame)
    score = cell(table, "gkd", "sums.score")
    assert score.value == pytest.approx((30 + (-2 + 0 + 1 - 1) / 4) / 40)
    assert score.notes == ("gkd: mean over 4 of 5 seeds (seed 2 div)",)
    assert cell(table, "gkd", "sums.gap_closed").text.endswith(" †") and cell(table, "gkd", "iqm_gap_closed").text == "n/a"
    pairwise = pairwise_table(frame)
    assert pairwise is None or "gkd" not in {cell.text for row in pairwise.rows for cell in row[1:3]}


# --- costs


def test_costs_are_means_over_seeds_and_rates_are_of_the_totals(tmp_path: Path) -> None:
    for seed, (seconds, tokens, gpu) in enumerate([(10.0, 1000, "A100"), (30.0, 7000, "H100")]):
        phases = {phase: {"seconds": seconds, "tokens": tokens} for phase in ("rollout", "score", "update", "evaluate")}
        stamp = {"hardware": {"cpu": "x", "torch_threads": 4, "gpus": [{"name": gpu}]}, "arguments": [], "processes": seed + 1}
        write_run(tmp_path, run_payload("gkd", seed, asked={"methods": ["gkd"], "seeds": [0, 1]}, phases=phases, provenance=stamp), {"sums": STUDENT})
    table = cost_table(scores(tmp_path, "toy"))
    assert cell(table, "gkd", "update_seconds").value == 20 and cell(table, "gkd", "update_tokens_per_second").value == 8000 / 40
    processes = cell(table, "gkd", "processes")
    assert (processes.text, processes.value, processes.notes) == ("1 / 2", None, ("on A100", "on H100"))


def test_costs_that_were_not_recorded_are_said_and_not_filled_in(tmp_path: Path) -> None:
    write_run(tmp_path, run_payload("gkd"), {"sums": STUDENT})  # its record has the phase rollout alone, and no hardware
    table = cost_table(scores(tmp_path, "toy"))
    assert cell(table, "gkd", "rollout_tokens_per_second").value == 7000
    assert cell(table, "gkd", "update_seconds") == TableCell("n/a", notes=("update seconds were not recorded",), records=table.rows[-1][0].records)
    assert cell(table, "gkd", "update_tokens_per_second").notes == ("tokens per second of update were not recorded",)
    assert cell(table, "gkd", "processes").notes == ("processes and device were not recorded",)


@pytest.mark.parametrize(
    ("arguments", "gpus", "expected"),
    [
        ([], ["H100", "H100"], "H100"),
        (["zoo", "run", "x", "--device", "cuda"], ["H100"], "H100"),
        (["zoo", "run", "x", "--device", "cpu"], ["H100"], "Xeon, 1 thread"),
        (["--device=cpu"], ["H100"], "Xeon, 1 thread"),
        ([], [], "Xeon, 1 thread"),
    ],
)
def test_device_is_the_one_that_ran(arguments: list[str], gpus: list[str], expected: str) -> None:
    hardware = {"cpu": "Xeon", "torch_threads": 1, "gpus": [{"name": name, "memory_bytes": 1} for name in gpus]}
    assert device({"arguments": arguments, "hardware": hardware}) == expected


# --- what makes rows less comparable is said


def remarks(root: Path) -> str:
    return to_markdown(main_table(scores(root, "toy")))


def test_unequal_budgets_other_suites_and_a_changed_no_op_are_said(tmp_path: Path) -> None:
    for method, items in (("student", STUDENT), ("teacher", TEACHER), ("no_op", TEACHER)):
        write_run(tmp_path, run_payload(method), {"sums": items})
    run = run_payload("gkd")
    run["budget"] = run["budget"] | {"asked": 1000}
    write_run(tmp_path, run, {"sums": TEACHER})
    text = remarks(tmp_path)
    assert "**Unequal budgets**: gkd 1,000 supervised tokens, no_op 64,000 supervised tokens." in text
    assert "**`no_op` differs from the student on 28 items of sums**" in text


def test_weights_note_and_evidence_are_said(tmp_path: Path) -> None:
    for method, items in (("student", STUDENT), ("teacher", TEACHER), ("no_op", STUDENT)):
        write_run(tmp_path, run_payload(method, weights_note="Q4 origin"), {"sums": items})
    write_run(tmp_path, run_payload("gkd", weights_note="Q4 origin", evidence={"level": "abstract", "source": "x"}), {"sums": TEACHER})
    text = remarks(tmp_path)
    assert "- Weights: Q4 origin." in text and "]: gkd: objective from the paper's abstract only" in text


def test_records_without_any_evaluation_still_make_a_table(tmp_path: Path) -> None:
    write_run(tmp_path, run_payload("gkd", status="error", error={"type": "E", "message": "pair not found"}))
    build_tables(tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "toy" / "main.md").read_text()
    assert re.search(r"\| gkd +\| +err\[\^1\]", text) and "[^1]: gkd: error: pair not found" in text


# --- forms


def test_forms_escape_what_they_must() -> None:
    cells = (TableCell("a_b|c & 5 %", notes=("see #1",)), TableCell("−0.5 ± 0.1", -0.5, 0.1))
    table = Table("x_y", (Column("name", "name", number=False), Column("v", "v", error=True)), (cells,), ("100 % of `it`",))
    assert r"a_b\|c & 5 %[^1]" in to_markdown(table) and "[^1]: see #1" in to_markdown(table)
    assert r"a\_b$|$c \& 5 \%\textsuperscript{1} & $-$0.5 $\pm$ 0.1 \\" in to_latex(table) and r"\textsuperscript{1}see \#1" in to_latex(table)
    assert list(csv.reader(to_csv(table).splitlines())) == [["name", "v", "v_stderr", "notes"], ["a_b|c & 5 %", "-0.5", "0.1", "see #1"]]


def test_terminal_table_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=80)
    console.print(terminal_table(scores(GOLDEN / "records", "golden")))
    printed = capsys.readouterr().out
    assert "0.650±0.109" in printed and "…" not in printed and "no ranking is given" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80


def test_figure_shows_scores_marks_and_anchors() -> None:
    frame = scores(GOLDEN / "records", "golden")
    figure = comparison_figure(frame)
    assert len(figure.axes) == 2
    drawn: list[Any] = [line.get_xdata() for line in figure.axes[0].lines]
    assert any(np.allclose(x, 0.65) for x in drawn) and any(np.allclose(x, 0.9) for x in drawn)
    svg = figure_svg(frame).decode()
    for text in ("gkd", "minillm", "div", "oom", "student", "teacher", "retention", "one seed: no ranking"):
        assert f">{text}" in svg or text in svg
    assert figure_svg(frame).decode() == svg and figure_png(frame)[:4] == b"\x89PNG"


def test_figure_ignores_the_users_style() -> None:
    import matplotlib

    frame = scores(GOLDEN / "records", "golden")
    plain = figure_svg(frame)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert figure_svg(frame) == plain
        assert matplotlib.rcParams["font.size"] == 30
