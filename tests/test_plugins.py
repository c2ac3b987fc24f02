"""Another package's components through the entry-point group `zoo.components`, and its entries through `--registry DIR`."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import zoo
from zoo.cli import app
from zoo.components import base, plugins
from zoo.components.base import kinds
from zoo.entry import load_entry
from zoo.errors import ZooError
from zoo.provenance import packages
from zoo.schema import json_schema

MODULE = '''
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from zoo.components.base import component
from zoo.components.gates import Gate
from zoo.statistics import TokenContext


@component("gate")
class EveryOther(Gate):
    """Lets each second token of a sequence through."""

    kind: Literal["every_other"] = "every_other"
    offset: int = Field(0, ge=0, le=1)

    def keep(self, context: TokenContext, advantage_BT: Tensor | None) -> Tensor:
        return context.mask_BT & ((context.mask_BT.cumsum(1) + self.offset) % 2 == 1)
'''
ENTRY = """
id: halved
name: A reverse KL on every second token
paper: {year: 2026}
evidence: {level: inferred, source: my own}
fixed_point: teacher
coordinates: {feedback_signal: [logit], teacher_access: white_box, loss_granularity: token, estimator: [direct], routing: [full_vocab]}
rollout: {author: student}
teachers: {teacher: {kind: external}}
objective:
  - {term: divergence, teacher: teacher, divergence: reverse_kl, support: full, gates: [{kind: every_other, offset: 1}], reduce: token_mean}
"""
COMPARISON = """
id: halves
title: Every token against every second
pair: micro
methods: [gkd_on_policy, halved]
seeds: [0]
suites: [micro]
budget: {unit: supervised_tokens, amount: 500}
settings: {rollouts_per_step: 16, max_new_tokens: 24, learning_rate: 1.0e-3}
"""
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lay a package out as an installer does: a module, and beside it a dist-info with the entry point."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(base, "_KINDS", registered := {slot: dict(known) for slot, known in base._KINDS.items()})
    monkeypatch.setattr(plugins, "_KINDS", registered)
    monkeypatch.setattr(plugins, "_LOADED", [])
    monkeypatch.setattr(plugins, "_ASKED", [])
    modules = set(sys.modules)

    def lay_out(package: str, code: str = MODULE) -> Path:
        module = package.replace("-", "_")
        (site / f"{module}.py").write_text(code, encoding="utf-8")
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[zoo.components]\nkinds = {module}\n", encoding="utf-8")
        importlib.invalidate_caches()
        return site

    yield lay_out
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(site)):
            del sys.modules[name]


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """A folder with one entry of the package's own."""
    folder = tmp_path / "entries"
    folder.mkdir()
    (folder / "halved.yaml").write_text(ENTRY, encoding="utf-8")
    return folder


def test_a_package_adds_a_component_and_an_entry(install: Install, entries: Path, tmp_path: Path) -> None:
    install("zoo-halves")
    assert zoo.load_registry(entries)["halved"].objective[0].gates[0].kind == "every_other"
    assert plugins.load_plugins() == (plugins.Plugin("zoo-halves", "1.2", "zoo_halves", ("gate.every_other",)),)
    assert packages()["zoo-halves"] == "1.2"
    assert {"$ref": "#/$defs/EveryOther"} in json_schema()["$defs"]["slot-gate"]["anyOf"]
    place = ["--registry", str(entries)]
    checked = CliRunner().invoke(app, ["check", "halved", *place, "--json"])
    assert checked.exit_code == 0, checked.output
    [report] = json.loads(checked.stdout)
    acts = next(finding["detail"] for finding in report["findings"] if finding["check"] == "gradient")
    assert report["ok"] and "100%" not in acts, "half of the tokens are gated out"
    comparison = tmp_path / "halves.yaml"
    comparison.write_text(COMPARISON, encoding="utf-8")
    planned = CliRunner().invoke(app, ["plan", str(comparison), *place, "--results", str(tmp_path / "results"), "--json"])
    assert planned.exit_code == 0, planned.output
    assert [cell["method"] for cell in json.loads(planned.stdout)["cells"]] == ["gkd_on_policy", "halved"]
    plan = zoo.plan(comparison, registry=zoo.load_registry(entries), results=tmp_path / "results")
    assert [cell.method for cell in plan.cells] == ["gkd_on_policy", "halved"]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("list", ()), ("show", ("halved",)), ("diff", ("halved", "gkd")), ("taxonomy", ()),
    ],
)  # fmt: skip
def test_every_command_that_reads_the_registry_takes_a_folder(install: Install, entries: Path, command: str, names: tuple[str, ...]) -> None:
    install("zoo-halves")
    found = CliRunner().invoke(app, [command, *names, "--registry", str(entries), "--json"])
    assert found.exit_code == 0, found.output
    assert "halved" in found.stdout


def test_a_package_is_imported_once(install: Install, entries: Path) -> None:
    site = install("zoo-halves", MODULE + f"\nopen({str(entries / 'count')!r}, 'a').write('x')\n")
    zoo.load_registry(entries)
    del sys.modules["zoo_halves"]
    assert zoo.load_registry(entries) and (entries / "count").read_text() == "x" and site.is_dir()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_library_that_is_not_installed", "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'"),
        (MODULE + "raise RuntimeError", "RuntimeError"),
        (MODULE.replace("every_other", "position"), "ZooError: component gate.position is registered twice"),
    ],
)
def test_a_broken_package_is_named_and_changes_nothing(install: Install, entries: Path, code: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    install("zoo-broken", code)
    before = kinds("gate")
    with caplog.at_level(logging.WARNING, "zoo"):
        assert "gkd" in zoo.load_registry()
        zoo.load_registry()
    [record] = [record.getMessage() for record in caplog.records if record.name == "zoo"]
    assert "package 'zoo-broken' could not add its components" in record and reason in record and "uninstall" in record
    assert kinds("gate") == before and "zoo-broken" not in packages()
    with pytest.raises(ZooError, match="unknown gate 'every_other'"):
        load_entry(entries / "halved.yaml")


def test_a_broken_package_does_not_take_another_with_it(install: Install, entries: Path) -> None:
    install("zoo-broken", "1 / 0")
    install("zoo-halves")
    assert "halved" in zoo.load_registry(entries)
    assert [(plugin.package, plugin.problem is None) for plugin in plugins.load_plugins()] == [("zoo-broken", False), ("zoo-halves", True)]


def test_two_packages_with_one_name_are_told_apart(install: Install) -> None:
    install("zoo-first")
    install("zoo-second")
    first, second = plugins.load_plugins()
    assert first.kinds == ("gate.every_other",) and second.kinds == ()
    assert "zoo-second" in str(second.problem) and "zoo_first" in str(second.problem) and "rename one" in str(second.problem)
