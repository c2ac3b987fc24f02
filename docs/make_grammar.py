"""Write the tables of docs/grammar.md, from docs/grammar_coverage.yaml and the registered kinds, and all of docs/kinds.md.

python docs/make_grammar.py            # rewrite what lies between the markers
python docs/make_grammar.py --check    # exit 1 if a file would change
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import make_kinds
import yaml

from zoo.components.base import kinds, slots

HERE = Path(__file__).parent
COVERAGE = HERE / "grammar_coverage.yaml"
GRAMMAR = HERE / "grammar.md"
KINDS = HERE / "kinds.md"
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


# --- what is implemented


def registered() -> dict[str, str]:
    """Every implemented `slot.kind` with its one-line meaning."""
    return {f"{slot}.{kind}": make_kinds.first_sentence(cls.__doc__) for slot in slots() for kind, cls in kinds(slot).items()}


def missing_kinds(card: Card, data: Mapping[str, Any]) -> list[str]:
    """The kinds of a card that are neither registered nor written with others."""
    known = registered()
    return [name for name in uses(card) if name not in known and not _with_others(name, card["card"], data)]


def _with_others(name: str, card: str, data: Mapping[str, Any]) -> bool:
    found = data["with_others"].get(name)
    return found is not None and card in found.get("cards", [card])


def expressible(data: Mapping[str, Any]) -> list[str]:
    """Cards that need nothing beyond what is implemented."""
    fitting = (card for card in data["cards"] if verdict(card) in ("yes", "with"))
    return [card["card"] for card in fitting if not missing_kinds(card, data) and card["card"] not in data["settings_missing"]]


def state(name: str, data: Mapping[str, Any]) -> str:
    """The `implemented` cell of a kind: yes, yes with its limit, what is written in its place, or nothing."""
    if name in registered():
        return f"yes; {data['limits'][name]}" if name in data["limits"] else "yes"
    if name not in data["with_others"]:
        return "–"
    found = data["with_others"][name]
    only = f" (for {', '.join(found['cards'])})" if "cards" in found else ""
    return f"as {found['written']}{only}"


def implemented(data: Mapping[str, Any]) -> Iterator[str]:
    """How much of the grammar runs: kinds by slot, cards, and what would help most."""
    needed, known = described(data), registered()
    others = [name for name, found in data["with_others"].items() if "cards" not in found]
    cards = expressible(data)
    lacking = Counter(missing[0] for card in data["cards"] if verdict(card) in ("yes", "with") and len(missing := missing_kinds(card, data)) == 1)
    yield f"Of the {len(needed)} kinds that the cards need, {sum(name in known for name in needed)} are implemented"
    yield f"and {len(others)} more are written with others (column *implemented*);"
    yield f"{sum(name not in needed for name in known)} implemented kinds are needed by no card. [kinds.md](kinds.md) is their reference."
    yield ""
    yield f"**{len(cards)} of the {len(data['cards'])} cards need implemented kinds only**: {', '.join(f'`{card}`' for card in cards)}."
    yield ""
    if data["settings_missing"]:
        yield "Their kinds would do, but a setting is missing: " + "; ".join(f"`{card}` ({what})" for card, what in data["settings_missing"].items()) + "."
        yield ""
    helpful = ", ".join(f"`{name}` {n}" for name, n in sorted(lacking.items(), key=lambda item: (-item[1], item[0])) if n >= 2)
    yield f"Kinds that are all that two or more cards lack: {helpful}."


# --- tables


def kind_tables(data: Mapping[str, Any]) -> Iterator[str]:
    """One table per slot, a row per kind: those that cards need, then registered ones that none needs."""
    cards_of: dict[str, list[str]] = {}
    for card in data["cards"]:
        for name in uses(card):
            cards_of.setdefault(name, []).append(card["card"])
    for slot, about in data["slots"].items():
        yield from (f"### {slot} — `{about['place']}`", "", f"{about['fixes'].capitalize()}.", "")
        yield from ("| kind | what it does | from | implemented | cards | for example |", "|---|---|---|---|---:|---|")
        rows = [(f"{slot}.{kind}", text, origin) for origin, group in data["kinds"].get(slot, {}).items() for kind, text in group.items()]
        named = {name for name, _, _ in rows}
        rows += [(name, _cell(text), "code") for name, text in registered().items() if name.startswith(f"{slot}.") and name not in named]
        for name, text, origin in rows:
            users = cards_of.get(name, [])
            yield f"| `{name}` | {text} | {origin} | {state(name, data)} | {len(users)} | {', '.join(users[:EXAMPLES])} |"
        yield ""


def _cell(text: str) -> str:
    return text.removesuffix(".").replace("|", "\\|")


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


SECTIONS = {"summary": summary, "implemented": implemented, "kinds": kind_tables, "missing": missing_table}


def rewrite(text: str, data: Mapping[str, Any]) -> str:
    """The document with each generated section replaced."""
    for name, write in SECTIONS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n" + "\n".join(write(data)).strip() + f"\n{end}{tail}"
    return text


def main(arguments: Sequence[str]) -> int:
    """Rewrite docs/grammar.md and docs/kinds.md, or with --check only say whether they are up to date."""
    data = load()
    due = {GRAMMAR: rewrite(GRAMMAR.read_text(), data), KINDS: make_kinds.document(data["slots"])}
    stale = [path for path, text in due.items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"docs/{path.name} differs from the coverage file or the registered kinds; run python docs/make_grammar.py", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(due[path])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
