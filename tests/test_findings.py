"""docs/findings.md: every number is computed from records, and none rests on a reconstruction."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from zoo.errors import ZooError
from zoo.stats import Estimate, crossed_interval

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_findings", ROOT / "docs" / "make_findings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_findings"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_template_and_records_give(findings: ModuleType) -> None:
    assert findings.PAGE.read_text(encoding="utf-8") == findings.page(findings.TEMPLATE.read_text(encoding="utf-8")), "run python docs/make_findings.py"


def test_every_percentage_of_ours_comes_from_a_placeholder(findings: ModuleType) -> None:
    """What is typed by hand into the template are words, and figures of papers, which name their source on the same line."""
    for line in findings.TEMPLATE.read_text(encoding="utf-8").splitlines():
        typed = findings.re.sub(r"\{\{[^}]*\}\}", "", line)
        if findings.re.search(r"[-+]?\d+(\.\d+)? ?(%|points)", typed):
            assert "arXiv" in typed or "95 %" in typed, line


def test_scores_and_differences_are_those_of_the_records(findings: ModuleType) -> None:
    gkd, sft = (findings.score_SI("quickstart", name, "micro_add") for name in ("gkd", "sft"))
    assert gkd.shape == (1, 256)
    assert findings.told("score", ["quickstart", "gkd", "micro_add"]).startswith(f"{100 * gkd.mean():.1f} ± ")
    assert findings.told("diff", ["quickstart", "gkd", "sft", "micro_add"]).startswith(f"{100 * (gkd - sft).mean():+.1f} ± ")
    together = findings.together("quickstart", "micro_add", "gkd,sft")
    assert np.allclose(together, (gkd + sft) / 2)


def test_rates_and_sweeps_are_those_of_comparison_and_records(findings: ModuleType) -> None:
    assert findings.told("rate", ["core", "sft"]) == "0.001" and findings.told("edges", ["core", "highest", "sft,tml_opd"]) == "1 of 2"
    assert findings.told("edges", ["core", "lowest", "sft,tml_opd"]) == "0 of 2"
    tried = {at: float(findings.told("swept", ["core", "sft", at]).removesuffix(" %")) for at in ("1e-5", "1e-3")}
    assert tried["1e-3"] - tried["1e-5"] > 20, "the rate that was taken is the best"
    number, total = map(int, findings.told("validated", []).split(" of "))
    assert total == 29 and 22 <= number < total


def test_intervals_are_shown_where_there_are_seeds(findings: ModuleType) -> None:
    assert findings.shown(Estimate(0.0421, 0.01, (0.0099, 0.0743)), " points", sign=True) == "+4.2 points [1.0, 7.4]"
    assert findings.shown(Estimate(0.6, 0.03), " %", sign=False) == "60.0 ± 3.0 %"


def test_a_split_of_two_groups_is_fishers(findings: ModuleType) -> None:
    fell, kept = "opsd,safesteer", "sdft,tml_opd,vopd"
    assert [findings.told("count", ["core", "below", "micro_add", names]) for names in (fell, kept)] == ["2 of 2", "0 of 3"]
    assert findings.told("split", ["core", "below", "micro_add", fell, kept]) == "0.1"  # the one table of ten with these margins that is as uneven


def test_below_four_seeds_the_least_that_could_be_found_is_said(findings: ModuleType) -> None:
    found = findings.told("detects", ["core-gpu", "seqkd", "student", "gsm8k_boxed"])
    gaps = findings.score_SI("core-gpu", "seqkd", "gsm8k_boxed") - findings.score_SI("core-gpu", "student", "gsm8k_boxed")
    number, words = found.split(maxsplit=1)
    assert words == "points at least" and float(number) == pytest.approx(280.2 * crossed_interval(gaps).stderr, abs=0.06)
    assert "at least" not in findings.told("detects", ["core", "seqkd", "student", "micro_add"])


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("scor", ["quickstart", "gkd", "micro_add"], "none of score, diff"),
        ("score", ["quickstart", "gkd"], "missing 1 required"),
        ("score", ["quickstart", "gkd", "micro_ad"], "no result of gkd on micro_ad"),
        ("score", ["core", "cr_opd", "micro_add"], "no finding may rest on it"),
        ("swept", ["core", "sft", "2e-5"], "has no learning rate 2e-5"),
    ],
)
def test_a_claim_that_nothing_bears_is_refused(findings: ModuleType, command: str, arguments: list[str], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        findings.told(command, arguments)
