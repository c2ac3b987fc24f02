"""docs/methods: one page for each entry, as the registry has it now."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from zoo.entry import load_registry, totals

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
make_methods: Any = importlib.import_module("make_methods")
sys.path.pop(0)
REGISTRY = load_registry()
PAGES: dict[str, str] = make_methods.pages(REGISTRY)


def test_pages_are_current() -> None:
    assert make_methods.stale(make_methods.FOLDER, PAGES) == [], "run `python docs/make_methods.py` and commit what it writes"


def test_every_entry_has_a_page_and_a_row_of_the_index() -> None:
    assert set(PAGES) == {"README.md", *(f"{name}.md" for name in REGISTRY)}
    index = PAGES["README.md"]
    assert all(f"| [{name}]({name}.md) |" in index for name in REGISTRY)
    assert all(line in index for line in totals(REGISTRY.values()).lines())


def test_a_page_says_what_runs_and_how_solid_it_is() -> None:
    page = PAGES["eopd.md"]
    for part in ("# Entropy-Aware", "https://arxiv.org/abs/2603.07079", "estimator pg_immediate, direct", "D = KL(q ‖ p)", "**Evidence:** paper_text",
                 "term 2, divergence: (logit, token, direct, teacher_topk)", "| learning_rate | 3e-06 |", "## Nearest relatives", "FM02"):  # fmt: skip
        assert part in page, part


def test_links_between_pages_and_to_entries_exist() -> None:
    for name, page in PAGES.items():
        for target in re.findall(r"\]\(([\w.-]+\.md)\)", page):
            assert target in PAGES, f"{name}: {target}"
        for target in re.findall(r"\]\(\.\./\.\./([\w./-]+)\)", page):
            assert (ROOT / target).is_file(), f"{name}: {target}"


def test_tables_keep_their_columns_and_no_line_is_endless() -> None:
    for name, page in PAGES.items():
        for table in re.findall(r"(?:^\|.*\|$\n?)+", page, re.MULTILINE):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
            assert len(counts) == 1, f"{name}: {table[:200]}"
        assert not re.search(r"(?<![\w.`*\]])/(?:home|work|tmp|root|usr|Users)\b", page), name


def test_stale_pages_are_found(tmp_path: Path) -> None:
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert make_methods.stale(tmp_path, PAGES) == []
    (tmp_path / "gkd.md").write_text("by hand", encoding="utf-8")
    (tmp_path / "gone.md").write_text("an entry that is gone", encoding="utf-8")
    (tmp_path / "kd.md").unlink()
    assert make_methods.stale(tmp_path, PAGES) == ["gkd.md", "gone.md", "kd.md"]
