"""The registry as a whole: analyses, methods that cannot run, twins, and how entries are counted."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from zoo.check import Bench, check_file
from zoo.entry import MethodEntry, core, load_entry, load_registry, totals
from zoo.errors import ZooError
from zoo.show import description, long_form, summary

HEAD = """
id: {id}
name: Mine
paper: {{arxiv: "2399.0000{n}", year: 2099}}
evidence: {{level: inferred, source: this test}}
"""
COORDINATES = "coordinates: {feedback_signal: [logit], teacher_access: white_box, loss_granularity: token, estimator: [direct], routing: [full_vocab]}\n"
RUNS = (
    COORDINATES
    + """fixed_point: teacher
rollout: {author: student}
teachers: {guide: {kind: external}}
objective:
  - {term: divergence, teacher: guide, divergence: {kind: generalized_jsd, beta: 0.123}, support: full, reduce: token_mean}
  - {term: divergence, teacher: guide, divergence: forward_kl, support: full, coefficient: 0.5, reduce: token_mean}
"""
)
ANALYSIS = """kind: analysis
findings: [a divergence value is no advantage]
reproduce_with: {entries: [gkd], commands: [zoo lab gkd], detectors: [FM01]}
"""
BLOCKED = "executable: false\nblocked_by: needs a camera\n"


def written(folder: Path, name: str, rest: str, n: int = 1) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(HEAD.format(id=name, n=n) + rest, encoding="utf-8")
    return file


def renamed(text: str) -> str:
    """The same method in other words: its terms in the other order, its parts under other names, one more anchor by role."""
    head, terms = text.split("objective:\n")
    first, second = terms.strip("\n").split("\n")
    swapped = f"{head}objective:\n{second}\n{first}\n".replace("guide", "teacher").replace("rollout: {", "rollouts: {own: {")
    return swapped.replace("{author: student}", "{author: student}}").replace("{term: divergence,", "{term: divergence, on: own,")


def test_an_analysis_is_loaded_and_shown_and_never_run(tmp_path: Path) -> None:
    file = written(tmp_path, "mine", ANALYSIS)
    entry = load_entry(file)
    assert not entry.executable and entry.blocked_by == "an analysis of other methods, with nothing of its own to train"
    assert summary(entry)["kind"] == "analysis" and summary(entry)["coordinates"] is None
    assert description(entry)["findings"] == ["a divergence value is no advantage"]
    out = io.StringIO()
    Console(width=120, file=out).print(long_form(entry))
    shown = out.getvalue()
    assert "a divergence value is no advantage" in shown and "zoo lab gkd" in shown and "fixed point" not in shown
    assert [finding.outcome for finding in check_file(file, Bench()).findings] == ["pass", "skip"]
    assert "mine" in load_registry(tmp_path) and "yours" not in load_registry(tmp_path)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (ANALYSIS + RUNS, "an analysis is never run, so it has no rollouts"),
        (ANALYSIS + "executable: true\nblocked_by: null\n", "an analysis is never run, so it has no executable: true"),
        ("kind: analysis\nfindings: [one]\n", "needs findings (a list) and reproduce_with"),
        (ANALYSIS.replace("findings: [a divergence value is no advantage]\n", ""), "needs findings (a list) and reproduce_with"),
        (ANALYSIS.replace("[FM01]", "[FM1]"), "a failure mode of the catalogue"),
        (ANALYSIS.replace("zoo lab gkd", "rm lab"), "a command of this package"),
        ("kind: analysis\nfindings: [one]\nreproduce_with: {}\n", "names nothing; give entries, commands or detectors"),
        (RUNS + "findings: [one]\n", "findings and reproduce_with belong to kind: analysis"),
        (RUNS + BLOCKED.replace("blocked_by: needs a camera\n", ""), "executable: false needs blocked_by"),
        (BLOCKED + COORDINATES, "coordinates follow from an objective, and there is none"),
        (BLOCKED + RUNS.split("objective")[0], "objective is required and missing"),
        (RUNS.replace("fixed_point: teacher\n", ""), "fixed_point is required and missing"),
        (RUNS + "scope: audio\n", "should be 'text', 'multimodal', 'diffusion' or 'system'"),
    ],
)
def test_what_an_entry_of_each_kind_must_have(tmp_path: Path, rest: str, message: str) -> None:
    with pytest.raises(ZooError, match=re.escape(message)):
        load_entry(written(tmp_path, "mine", rest))


def test_a_method_that_cannot_run_may_lack_its_objective(tmp_path: Path) -> None:
    entry = load_entry(written(tmp_path, "mine", BLOCKED + "scope: diffusion\n"))
    assert (entry.objective, entry.coordinates, entry.fixed_point) == ((), None, None)


def test_an_analysis_names_entries_that_exist(tmp_path: Path) -> None:
    written(tmp_path, "mine", ANALYSIS.replace("[gkd]", "[gdk]"))
    with pytest.raises(ZooError, match=r"mine: reproduce_with.entries names 'gdk', which is no entry; did you mean 'gkd'\?"):
        load_registry(tmp_path)


def test_a_core_knows_no_names_and_no_order(tmp_path: Path) -> None:
    one = load_entry(written(tmp_path, "one", RUNS))
    two = load_entry(written(tmp_path, "two", renamed(RUNS)))
    assert core(one) == core(two)
    for was, becomes in (("0.123", "0.124"), ("token_mean", "sequence_mean"), ("author: student", "author: student, temperature: 0.9")):
        assert core(load_entry(written(tmp_path, "two", renamed(RUNS).replace(was, becomes)))) != core(one)


def test_two_teachers_that_swap_places_make_another_method(tmp_path: Path) -> None:
    both = RUNS.replace("{guide: {kind: external}}", "{guide: {kind: external}, past: {kind: student, weights: {ema: 0.9}}}")
    both = both.replace("feedback_signal: [logit]", "feedback_signal: [logit, self_play]")
    one = load_entry(written(tmp_path, "one", both.replace("teacher: guide, divergence: forward", "teacher: past, divergence: forward")))
    other = both.replace("feedback_signal: [logit, self_play]", "feedback_signal: [self_play, logit]")
    two = load_entry(written(tmp_path, "two", other.replace("teacher: guide, divergence: {", "teacher: past, divergence: {")))
    assert core(one) != core(two)


@pytest.mark.parametrize("link", ["identical_core_to", "variant_of"])
def test_twins_are_declared(tmp_path: Path, link: str) -> None:
    written(tmp_path, "one", RUNS)
    written(tmp_path, "two", renamed(RUNS), 2)
    with pytest.raises(ZooError, match=r"two: runs exactly what one runs; set identical_core_to: one, or variant_of: one for the same paper"):
        load_registry(tmp_path)
    written(tmp_path, "two", renamed(RUNS) + f"{link}: one\n", 2)
    assert load_registry(tmp_path)["two"]


def test_twins_linked_to_a_third_body_only_are_still_undeclared(tmp_path: Path) -> None:
    written(tmp_path, "one", RUNS + "variant_of: gkd\n")
    written(tmp_path, "two", RUNS + "variant_of: gkd\n", 2)
    with pytest.raises(ZooError, match="two: runs exactly what one runs"):
        load_registry(tmp_path)


def test_an_identical_core_is_identical(tmp_path: Path) -> None:
    written(tmp_path, "one", RUNS)
    written(tmp_path, "two", RUNS.replace("0.123", "0.2") + "identical_core_to: one\n", 2)
    message = r"two: identical_core_to names 'one', but the two differ at objective\[0\].divergence.beta; remove it, or make them the same"
    with pytest.raises(ZooError, match=message):
        load_registry(tmp_path)


def test_totals_count_every_entry_once(tmp_path: Path) -> None:
    written(tmp_path, "one", RUNS)
    written(tmp_path, "two", RUNS + "identical_core_to: one\n", 2)
    written(tmp_path, "three", RUNS.replace("0.123", "0.3") + "variant_of: one\n", 3)
    written(tmp_path, "four", BLOCKED + "scope: multimodal\n", 4)
    written(tmp_path, "five", ANALYSIS, 5)
    registry = load_registry(tmp_path)
    names = ("one", "two", "three", "four", "five", "student")
    found = totals(registry[name] for name in names)
    assert (found.entries, found.methods, found.executable) == (6, 2, 1)
    assert (found.variants, found.identical_cores, found.analyses, found.anchors) == (1, 1, 1, 1)
    assert found.by_evidence == {"code": (0, 0), "paper_text": (0, 0), "abstract": (0, 0), "inferred": (1, 1)}
    assert found.by_scope == {"multimodal": 1, "text": 1}
    assert found.lines()[0] == "2 methods, 1 executable; beside them 1 variant, 1 identical core, 1 analysis, 1 anchor"
    assert found.to_json()["by_evidence"]["inferred"] == [1, 1]


def test_totals_of_the_registry_add_up() -> None:
    registry = load_registry()
    found = totals(registry.values())
    assert found.entries == len(registry) == found.methods + found.variants + found.identical_cores + found.analyses + found.anchors
    assert sum(map(sum, found.by_evidence.values())) == sum(found.by_scope.values()) == found.methods
    assert sum(runs for runs, _ in found.by_evidence.values()) == found.executable


def test_an_entry_is_a_method_unless_it_says_otherwise() -> None:
    assert {type(entry) for entry in load_registry().values()} == {MethodEntry}
    assert load_registry()["gkd"].kind == "method" and load_registry()["gkd"].scope == "text"


def test_a_registry_is_read_again_only_where_a_file_has_changed(tmp_path: Path) -> None:
    file = written(tmp_path, "mine", ANALYSIS)
    first = load_registry(tmp_path)
    assert load_registry(tmp_path) is first and load_registry() is load_registry()
    file.write_text(file.read_text().replace("name: Mine", "name: Ours and theirs"), encoding="utf-8")
    assert load_registry(tmp_path)["mine"].name == "Ours and theirs" and first["mine"].name == "Mine"
    written(tmp_path, "other", ANALYSIS, 2)
    assert "other" in load_registry(tmp_path)
    file.write_text(file.read_text().replace("gkd", "no_such_method"), encoding="utf-8")
    for _ in range(2):  # a mistake is told each time
        with pytest.raises(ZooError, match="no_such_method"):
            load_registry(tmp_path)
