"""Write the tables of docs/grammar.md from docs/grammar_coverage.yaml.

python docs/make_grammar.py            # rewrite what lies between the markers
python docs/make_grammar.py --check    # exit 1 if it would change
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
COVERAGE = HERE / "grammar_coverage.yaml"
GRAMMAR = HERE / "grammar.md"
EXAMPLES = 4

STREAM_SLOTS = {"author": "rollout", "context": "context", "verify": "verify", "handover": "handover", "when": "when"}
TEACHER_SLOTS = {"kind": "teacher", "weights_of": "weights_of", "context": "context", "target": "target", "alignment": "alignment"}
CARD_SLOTS = {"prompts": "prompts", "environment": "environment", "schedule": "schedule", "step": "step", "stages": "stage"}
TERM_SLOTS = [
    *("term", "divergence", "support", "mass", "preference", "representation", "credit", "baseline", "routing"),
    *("shaping", "ratio", "gate", "weight", "view", "advantage", "number", "reduce"),
]

Card = Mapping[str, Any]


def load(path: Path = COVERAGE) -> dict[str, Any]:
    """The coverage file: `slots`, `kinds` and `cards`."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def listed(value: Any) -> list[str]:
    """A single name or a list of names, as a list."""
    return list(value) if isinstance(value, list) else [value]


def fields(record: Mapping[str, Any], slots: Mapping[str, str]) -> Iterator[str]:
    """`slot.kind` of each field of a record that holds kinds."""
    for field, slot in slots.items():
        if field in record:
            yield from (f"{slot}.{kind}" for kind in listed(record[field]))


def uses(card: Card) -> list[str]:
    """Every `slot.kind` that one card's record names, without repetition."""
    found: list[str] = []
    for stream in card.get("rollouts", {}).values():
        found += fields(stream if isinstance(stream, dict) else {"author": stream}, STREAM_SLOTS)
    for teacher in card.get("teachers", {}).values():
        found += fields(teacher if isinstance(teacher, dict) else {"kind": teacher}, TEACHER_SLOTS)
    rewards = card.get("rewards", {})
    found += [f"reward.{kind}" for kind in rewards.values()]
    found += [f"learner.{kind}" for kind in card.get("learners", {}).values()]
    for term in card.get("objective", ()):
        found += fields(term, {slot: slot for slot in TERM_SLOTS})
        if "reward" in term and term["reward"] not in rewards:
            found.append(f"reward.{term['reward']}")
    found += fields(card, CARD_SLOTS)
    return list(dict.fromkeys(found))


def described(data: Mapping[str, Any], origin: str | None = None) -> dict[str, str]:
    """What each `slot.kind` does; of one origin (`design` or `added`), or of both."""
    return {
        f"{slot}.{kind}": text
        for slot, groups in data["kinds"].items()
        for name, kinds in groups.items()
        if origin in (None, name)
        for kind, text in kinds.items()
    }


def verdict(card: Card) -> str:
    """yes, with, no or analysis."""
    return str(card["fits"]).split(" ", 1)[0]


def kind_tables(data: Mapping[str, Any]) -> Iterator[str]:
    """One table per slot, a row per kind."""
    cards_of: dict[str, list[str]] = {}
    for card in data["cards"]:
        for name in uses(card):
            cards_of.setdefault(name, []).append(card["card"])
    for slot, about in data["slots"].items():
        yield from (f"### {slot} — `{about['place']}`", "", f"{about['fixes'].capitalize()}.", "")
        yield from ("| kind | what it does | from | cards | for example |", "|---|---|---|---:|---|")
        for origin, kinds in data["kinds"][slot].items():
            for kind, text in kinds.items():
                users = cards_of.get(f"{slot}.{kind}", [])
                yield f"| `{slot}.{kind}` | {text} | {origin} | {len(users)} | {', '.join(users[:EXAMPLES])} |"
        yield ""


def missing_table(data: Mapping[str, Any]) -> Iterator[str]:
    """Cards that do not fit, and those that are analyses."""
    yield from ("| card | what is missing | what would run |", "|---|---|---|")
    for card in data["cards"]:
        if verdict(card) == "no":
            yield f"| `{card['card']}` | {card['missing']} | {card.get('reads', 'nothing')} |"
    analyses = [f"`{card['card']}`" for card in data["cards"] if verdict(card) == "analysis"]
    yield from ("", f"Analyses without a method of their own ({len(analyses)}; the coverage file has the method they study): {', '.join(analyses)}.")


def summary(data: Mapping[str, Any]) -> Iterator[str]:
    """How many cards fit, and which added kinds serve several."""
    counts = Counter(verdict(card) for card in data["cards"])
    added = described(data, "added")
    shared = Counter(name for card in data["cards"] for name in uses(card) if name in added)
    yield "| cards | |"
    yield "|---:|---|"
    yield f"| {counts['yes']} | fit with kinds that the design names |"
    yield f"| {counts['with']} | fit once the kinds marked `added` exist, each one small class |"
    yield f"| {counts['no']} | do not fit |"
    yield f"| {counts['analysis']} | are analyses |"
    several = [f"`{name}` {n}" for name, n in shared.most_common() if n >= 3]
    yield from ("", f"{len(added)} kinds were added. Those that three or more cards need: {', '.join(several)}.")


SECTIONS = {"summary": summary, "kinds": kind_tables, "missing": missing_table}


def rewrite(text: str, data: Mapping[str, Any]) -> str:
    """The document with each generated section replaced."""
    for name, write in SECTIONS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n" + "\n".join(write(data)).strip() + f"\n{end}{tail}"
    return text


def main(arguments: Sequence[str]) -> int:
    """Rewrite docs/grammar.md, or with --check only say whether it is up to date."""
    old = GRAMMAR.read_text()
    new = rewrite(old, load())
    if "--check" in arguments:
        if new != old:
            print("docs/grammar.md: tables differ from docs/grammar_coverage.yaml; run python docs/make_grammar.py", file=sys.stderr)
        return int(new != old)
    GRAMMAR.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
