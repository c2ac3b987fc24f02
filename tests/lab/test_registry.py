"""Every entry in the lab, asked four questions; each entry is measured once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.shares import shared_out
from zoo.entry import MethodEntry, load_entry
from zoo.errors import ZooError
from zoo.lab.doubles import SORTS
from zoo.lab.findings import lab
from zoo.lab.report import LabReport, study
from zoo.lab.synthetic import direct, entry_of, score_function
from zoo.paths import data_root


def loaded() -> dict[str, MethodEntry]:
    """Every entry that can be read; tests/test_entries.py tells of the others."""
    found = {}
    for file in sorted((data_root() / "registry" / "methods").rglob("*.yaml")):
        try:
            found[file.stem] = load_entry(file)
        except ZooError:
            continue
    return found


REGISTRY = loaded()
EXECUTABLE = [name for name, entry in REGISTRY.items() if entry.executable and entry.objective]


@cache
def report(name: str) -> LabReport:
    return study(REGISTRY[name])


@pytest.fixture(scope="module", params=shared_out(EXECUTABLE))
def measured(request: pytest.FixtureRequest) -> LabReport:
    """One entry's report. A parameter of the module, so that the questions about one entry follow each other on one worker."""
    name = request.param
    found = report(name)
    if found.exempt:
        pytest.skip(f"{name}: {found.exempt}")
    return found


def test_the_expected_update_is_finite_and_more_than_noise(measured: LabReport) -> None:
    found = measured
    assert not [line for line in found.contradictions if "finite" in line or "D.6" in line]
    assert len(found.claims) >= len(found.runs) >= 1


def test_each_term_is_what_its_estimator_says(measured: LabReport) -> None:
    found = measured
    assert [claim for claim in found.claims if claim.holds is False and found.error == 0.0] == []
    assert all(claim.altered or claim.holds is not None or claim.says for claim in found.claims)


def test_it_descends_its_metric(measured: LabReport) -> None:
    found = measured
    assert found.descent is not None
    assert found.descent.ok is not False, (found.descent.metric, found.descent.before, found.descent.after)
    if found.descent.ok is None:
        assert found.descent.reason


def test_its_fixed_point_is_the_one_it_states(measured: LabReport) -> None:
    found = measured
    assert found.fixed is not None
    assert found.ok, found.contradictions


@pytest.mark.slow
def test_only_environments_and_hidden_states_are_beyond_the_lab() -> None:
    """What runs and is not measured is exempt by name, and of one of the sorts that may be."""
    silent = {name: (found.sort, found.exempt) for name in EXECUTABLE if (found := report(name)).exempt}
    assert {name: why for name, why in silent.items() if why[0] not in SORTS.values()} == {}
    assert all(": " in (reason or "") for _, reason in silent.values())


def test_a_false_fixed_point_fails() -> None:
    """Stated as the teacher, but a raw truncation leaves it; stated as tilted or none, but the teacher is one."""
    raw = direct(support={"kind": "teacher_topk", "k": 2, "mass": "raw"})
    assert study(entry_of(raw)).ok
    wrong = study(entry_of(raw, fixed_point="teacher"))
    assert not wrong.ok and "fixed_point: teacher, but" in wrong.contradictions[0]
    assert [f.outcome for f in lab(entry_of(raw, fixed_point="teacher"))] == ["fail"]
    assert study(entry_of(direct(), fixed_point="teacher")).ok
    for stated in ("none", "tilted: q^2"):
        found = study(entry_of(direct(), fixed_point=stated), follow=150)
        assert not found.ok and "but the teacher is one" in found.contradictions[0]


def test_a_renormalised_support_rests_elsewhere_too() -> None:
    free = entry_of(direct(support={"kind": "teacher_topk", "k": 2, "mass": {"renormalise": "both"}}), fixed_point="teacher")
    found = study(free, follow=200)
    assert not found.ok and "also comes to rest" in found.contradictions[0]


def test_noise_alone_fails() -> None:
    found = study(entry_of({**score_function("immediate"), "reward": {"kind": "state_divergence", "teacher": "teacher"}}))
    assert any("only noise is left" in line for line in found.contradictions)
    assert found.runs[0].null


def test_a_metric_that_rises_fails() -> None:
    """The forward KL to another model's opposite: an ascent written as a negative coefficient."""
    found = study(entry_of({**direct(), "coefficient": -1.0}, lab_metric="kl_to_teacher"))
    assert any(line.startswith("lab_metric: kl_to_teacher went from") for line in found.contradictions)
    assert study(entry_of(direct(), lab_metric="kl_to_teacher")).descent.ok  # type: ignore[union-attr]


def test_what_has_no_double_is_named_and_never_a_crash() -> None:
    stage = entry_of(direct()).model_copy(update={"executable": False, "blocked_by": "a test"})
    assert study(stage).exempt == "not executable: a test"
    assert [f.outcome for f in lab(stage)] == ["skip"]
    broken = entry_of(direct())
    broken.objective[0].__dict__["support"] = object()
    assert (study(broken).exempt or "").startswith("unmet: ") and study(broken).sort == "unmet"


def test_the_report_is_plain_data(tmp_path: Path) -> None:
    import json

    found = study(entry_of(score_function({"kind": "discounted", "gamma": 0.5})), follow=5, full=True).to_json()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["claims"][0]["holds"] is True and found["runs"][0]["growth"] > 0


@pytest.mark.parametrize("routing", ["sampled", {"kind": "student_topk", "k": 2}, {"kind": "multi_sample", "n": 3}, "counterfactual"])
def test_the_own_loss_falls_whatever_is_routed(routing: object) -> None:
    """Advantages that are read at the update, and not before, are held fixed too."""
    found = study(entry_of(score_function("immediate", routing=routing)))
    assert found.descent is not None and found.descent.metric == "own_loss" and found.descent.ok
