"""How many methods there are: the numbers that a survey or a README may quote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, get_args

from zoo.entry.fields import Evidence
from zoo.entry.model import MethodEntry

LEVELS: tuple[str, ...] = get_args(Evidence.model_fields["level"].annotation)


@dataclass(frozen=True)
class Totals:
    """Every entry is counted in exactly one of methods, variants, identical_cores, analyses and anchors.

    A method is a paper's own objective: further objectives of one paper are variants, and entries that run what another one runs are
    identical cores. `executable`, `by_evidence` and `by_scope` count methods only; `by_evidence[level]` is [executable, not executable].
    """

    entries: int
    methods: int
    executable: int
    variants: int
    identical_cores: int
    analyses: int
    anchors: int
    by_evidence: dict[str, tuple[int, int]]
    by_scope: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {**asdict(self), "by_evidence": {level: list(pair) for level, pair in self.by_evidence.items()}}

    def lines(self) -> list[str]:
        """For a reader: the sum on one line, the evidence on the next."""
        further = [_counted(n, *words) for n, words in ((self.variants, ("variant",)), (self.identical_cores, ("identical core",)),
                                                       (self.analyses, ("analysis", "analyses")), (self.anchors, ("anchor",))) if n]  # fmt: skip
        beside = f"; beside them {', '.join(further)}" if further else ""
        evidence = ", ".join(f"{level} {sum(pair)} ({pair[0]} executable)" for level, pair in self.by_evidence.items())
        return [f"{_counted(self.methods, 'method')}, {self.executable} executable{beside}", f"by evidence: {evidence}"]


def totals(entries: Iterable[MethodEntry]) -> Totals:
    """Counts of a registry (`registry.values()`) or of a selection from it."""
    every = list(entries)
    counted = Counter(map(counts_as, every))
    methods = [entry for entry in every if counts_as(entry) == "methods"]
    evidence: Counter[tuple[str, bool]] = Counter((entry.evidence.level, entry.executable) for entry in methods)
    return Totals(
        entries=len(every),
        executable=sum(entry.executable for entry in methods),
        by_evidence={level: (evidence[level, True], evidence[level, False]) for level in LEVELS},
        by_scope=dict(sorted(Counter(entry.scope for entry in methods).items())),
        **{name: counted[name] for name in ("methods", "variants", "identical_cores", "analyses", "anchors")},
    )


def counts_as(entry: MethodEntry) -> str:
    """The one count that an entry belongs to."""
    if entry.kind == "analysis":
        return "analyses"
    if entry.anchor is not None:
        return "anchors"
    if entry.identical_core_to is not None:
        return "identical_cores"
    return "variants" if entry.variant_of is not None else "methods"


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
