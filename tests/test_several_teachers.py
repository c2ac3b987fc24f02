"""docs/several_teachers.md: its files are complete, load as they stand and make a plan; each command names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import zoo
from zoo.entry import load_registry
from zoo.harness.comparison import load_comparison
from zoo.paths import data_root

DOC = data_root() / "docs" / "several_teachers.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has after writing the files down."""
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"```yaml\n# (two/\S+)\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return tmp_path


def test_the_files_load_and_make_a_plan(folder: Path) -> None:
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.yaml")) == [
        "two/comparison.yaml", "two/methods/two_experts.yaml", "two/methods/two_mixed.yaml"]  # fmt: skip
    registry = load_registry(Path("two/methods"))
    plan = zoo.plan("two/comparison.yaml", registry=registry, results="two/results")
    assert [cell.method for cell in plan.cells] == list(load_comparison("two/comparison.yaml").methods) and plan.tokens_left == 4 * 60_000


def test_the_commands_name_the_files(folder: Path) -> None:
    commands = re.findall(r"```\n(zoo .*?)\n```", DOC.read_text(encoding="utf-8"))
    assert [command.split()[1] for command in commands] == ["pairs", "check", "run"]
    for path in re.findall(r"two/\S+\.yaml", " ".join(commands)):
        assert (folder / path).is_file()
