"""docs/grammar.md and docs/kinds.md against the coverage file, the registered kinds and, where it is at hand, the catalogue."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from zoo.components import base
from zoo.components.base import Component, Number, Slot, kinds, slots
from zoo.entry import load_registry

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT.parent / "shared" / "catalogue"
ROW = re.compile(r"^\| `(\w+\.\w+)` \| (.+?) \| (design|added|code) \| (yes.*?|as .*?|–) \| (\d+) \| (.*) \|$", re.M)
STALE = "stale; run `python docs/make_grammar.py` and commit what it writes"

sys.path.insert(0, str(ROOT / "docs"))
grammar: Any = importlib.import_module("make_grammar")
make_kinds: Any = importlib.import_module("make_kinds")
sys.path.pop(0)
DATA: dict[str, Any] = grammar.load()
CARDS: list[dict[str, Any]] = DATA["cards"]
TEXT = (ROOT / "docs" / "grammar.md").read_text()
USED = {name for card in CARDS for name in grammar.uses(card)}
REGISTERED = {f"{slot}.{kind}" for slot in slots() for kind in kinds(slot)}


def test_every_card_once() -> None:
    ids = [card["card"] for card in CARDS]
    assert len(ids) == 270
    assert len(set(ids)) == 270


@pytest.mark.skipif(not CATALOGUE.is_dir(), reason="the catalogue is not beside this checkout")
def test_cards_are_those_of_the_catalogue() -> None:
    catalogue = {card["id"]: card["scope"] for file in sorted(CATALOGUE.glob("*.yaml")) for card in yaml.safe_load(file.read_text())}
    assert {card["card"]: card["scope"] for card in CARDS} == catalogue


def test_kinds_used_are_the_kinds_described() -> None:
    assert set(grammar.described(DATA)) == USED
    assert {name.split(".")[0] for name in USED} == set(DATA["kinds"])
    assert set(DATA["kinds"]) | set(slots()) == set(DATA["slots"])


def test_kinds_used_or_registered_are_the_rows_of_the_document() -> None:
    rows = [row[1] for row in ROW.finditer(TEXT)]
    assert len(rows) == len(set(rows))
    assert set(rows) == USED | REGISTERED, STALE


def test_row_counts_and_examples() -> None:
    for name, _, origin, _, count, examples in ROW.findall(TEXT):
        users = [card["card"] for card in CARDS if name in grammar.uses(card)]
        assert int(count) == len(users), name
        assert examples == ", ".join(users[: grammar.EXAMPLES]), name
        assert (origin == "code") == (name not in USED), name


# --- what is implemented


def test_rows_say_what_is_registered() -> None:
    for name, _, _, state, _, _ in ROW.findall(TEXT):
        assert state.startswith("yes") == (name in REGISTERED), f"{name}: {STALE}"
        assert state.startswith("as ") == (name in DATA["with_others"]), name


def test_remarks_about_the_implementation_are_about_kinds_and_cards_that_exist() -> None:
    assert set(DATA["limits"]) <= REGISTERED & USED
    assert set(DATA["with_others"]) <= USED - REGISTERED
    ids = {card["card"] for card in CARDS}
    assert {card for found in DATA["with_others"].values() for card in found.get("cards", ())} | set(DATA["settings_missing"]) <= ids
    for name in DATA["settings_missing"]:
        assert not grammar.missing_kinds(next(card for card in CARDS if card["card"] == name), DATA), f"{name} lacks kinds too"


def test_cards_with_an_entry_count_as_expressible() -> None:
    entries = {name for name, entry in load_registry().items() if entry.executable}
    assert len(entries & {card["card"] for card in CARDS}) >= 16
    assert entries & {card["card"] for card in CARDS} <= set(grammar.expressible(DATA))


def test_number_of_expressible_cards_is_stated() -> None:
    known = {name for name in REGISTERED | set(DATA["with_others"]) if "cards" not in DATA["with_others"].get(name, {})}
    only = {name: found["cards"] for name, found in DATA["with_others"].items() if "cards" in found}  # what is written otherwise for some cards
    lacks = {card["card"]: {name for name in set(grammar.uses(card)) - known if card["card"] not in only.get(name, ())} for card in CARDS}
    due = {card["card"] for card in CARDS if card["fits"].split()[0] in ("yes", "with") and not lacks[card["card"]]} - set(DATA["settings_missing"])
    stated = re.search(r"\*\*(\d+) of the 270 cards need implemented kinds only\*\*: (.*)\.$", TEXT, re.M)
    assert stated and int(stated[1]) == len(due) and set(re.findall(r"`(\w+)`", stated[2])) == due


def test_kinds_without_a_card_are_not_called_missing() -> None:
    section = TEXT.split("### Without a card")[1]
    there = set(re.findall(r"`(\w+\.\w+)`", section))
    assert there and there <= REGISTERED - USED


def test_a_new_kind_makes_both_documents_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    class Invented(Component):
        """A support made up for this test (see Dr. Who). Nothing more."""

        kind: Literal["invented"] = "invented"
        shorthand = "share"
        share: float = Field(0.5, gt=0, le=1)
        rate: Number
        within: Annotated[Component, Slot("mass")] | None = None

    monkeypatch.setitem(base._KINDS["support"], "invented", Invented)
    assert "| `support.invented` | A support made up for this test (see Dr. Who) | code | yes | 0 |  |" in grammar.rewrite(TEXT, DATA)
    added = set(make_kinds.document(DATA["slots"]).splitlines()) - set((ROOT / "docs" / "kinds.md").read_text().splitlines())
    assert added == {
        "- **`invented`** – A support made up for this test (see Dr. Who). Short form: `{invented: share}`.",
        "  - `share`: number > 0 and ≤ 1; default `0.5`",
        "  - `rate`: number or [schedule](#schedule); required",
        "  - `within`: [mass](#mass); default none",
    }


@pytest.mark.parametrize("slot", slots())
def test_the_reference_has_every_kind_and_field(slot: str) -> None:
    text = (ROOT / "docs" / "kinds.md").read_text()
    section = text.split(f"\n## {slot}\n")[1].split("\n## ")[0]
    for kind, cls in kinds(slot).items():
        assert f"**`{kind}`**" in section, f"{slot}.{kind}: {STALE}"
        for name, field in cls.model_fields.items():
            assert name == cls.tag or f"`{field.alias or name}`: " in section, f"{slot}.{kind}.{name}: {STALE}"


def test_documents_link_to_each_other_and_name_no_place_of_a_machine() -> None:
    reference = (ROOT / "docs" / "kinds.md").read_text()
    assert "](kinds.md)" in TEXT and "](grammar.md)" in reference
    assert not re.search(r"(?<![\w.`*\]])/(?:home|work|tmp|root|usr|Users)\b", TEXT + reference)


# --- the cards


def test_fits_follows_from_the_kinds() -> None:
    added = grammar.described(DATA, "added")
    for card in CARDS:
        new = [name for name in grammar.uses(card) if name in added]
        expected = "with " + ", ".join(new) if new else "yes"
        assert card["fits"] in (expected, "no", "analysis"), card["card"]
        assert ("missing" in card) == (card["fits"] == "no"), card["card"]
        assert card.get("objective") or card["fits"] in ("no", "analysis"), card["card"]


def test_cards_that_do_not_fit_are_listed() -> None:
    section = TEXT.split("## What the grammar cannot yet express")[1].split("\n## ")[0]
    for card in CARDS:
        row = f"| `{card['card']}` | {card.get('missing')} |"
        assert (row in section) == (card["fits"] == "no"), card["card"]


def test_names_inside_a_record_resolve() -> None:
    for card in CARDS:
        scorers = {"student", "reference", "behaviour", *card.get("teachers", {})}
        streams = card.get("rollouts", {})
        for term in card.get("objective", ()):
            where = f"{card['card']}: {term}"
            assert term["term"] != "divergence" or term.get("teacher") in scorers or term["divergence"] == "entropy", where
            assert term.get("teacher", "student") in scorers, where
            assert term["term"] == "log_prob_loss" or (term.get("on", "main") in streams and "reduce" in term), where


def test_no_new_field_for_fewer_than_three_cards() -> None:
    added = grammar.described(DATA, "added")
    for slot, groups in DATA["kinds"].items():
        if "design" in groups:
            continue
        users = {card["card"] for card in CARDS for name in grammar.uses(card) if name in added and name.startswith(f"{slot}.")}
        assert len(users) >= 3, slot
    assert "added" not in DATA["kinds"]["term"]


def test_documents_are_up_to_date() -> None:
    assert grammar.rewrite(TEXT, DATA) == TEXT, f"docs/grammar.md is {STALE}"
    assert make_kinds.document(DATA["slots"]) == (ROOT / "docs" / "kinds.md").read_text(), f"docs/kinds.md is {STALE}"


def test_marker_of_the_registry_table() -> None:
    assert TEXT.count("<!-- implemented: generated by zoo -->") == 1
