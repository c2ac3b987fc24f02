"""What the records of provocations say: which alarms fired where, when accuracy fell, and which detectors may be believed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from zoo.errors import ZooError
from zoo.record_types import ProvocationRun
from zoo.records import digest_bytes

SEEDS = (0, 1, 2)  # reported; thresholds are tuned on seeds from 100 on
DROP_Z = 2.58
FIRED = ("amber", "red")


@dataclass(frozen=True)
class Toy:
    """One run and the digest of its record."""

    run: ProvocationRun
    digest: str

    def level(self, mode: str) -> str:
        """What a detector said."""
        return self.run.findings[mode][0] if mode in self.run.findings else "not_measured"

    def fired(self, mode: str) -> str:
        """`yes`, `no` or `not measured`."""
        level = self.level(mode)
        return "yes" if level in FIRED else "no" if level == "silent" else "not measured"

    def first_step(self, mode: str) -> int | None:
        """The optimizer step at which a detector first fired."""
        return self.run.findings[mode][2] if mode in self.run.findings else None


@dataclass(frozen=True)
class Row:
    """One failure mode with one seed, as in the table; `validated` is the same in all rows of a mode."""

    mode: str
    seed: int
    provocation: Toy | None
    control: Toy | None
    validated: bool


def load_toys(records: Path, seeds: Sequence[int] | None = SEEDS) -> tuple[list[Toy], int]:
    """The newest record of every set-up and seed, in order, and how many older ones were set aside.

    Raises:
        ZooError: a record that can't be read.
    """
    newest: dict[tuple[str, int], Toy] = {}
    every = [_read(path) for path in sorted((records / "provocations").glob("*/*/provocation.json"))]
    every = [toy for toy in every if seeds is None or toy.run.seed in seeds]
    for toy in sorted(every, key=lambda toy: (toy.run.created, toy.run.uuid)):
        newest[toy.run.method, toy.run.seed] = toy
    return [newest[key] for key in sorted(newest)], len(every) - len(newest)


def _read(path: Path) -> Toy:
    data = path.read_bytes()
    try:
        return Toy(ProvocationRun.model_validate(json.loads(data)), digest_bytes(data))
    except (ValueError, ValidationError) as error:
        raise ZooError(f"{path}: {str(error).splitlines()[0]}; restore the file from version control") from None


def rows_of(toys: Iterable[Toy]) -> list[Row]:
    """A row for each failure mode and seed that has a provocation or a control."""
    arms: dict[str, dict[int, dict[str, Toy]]] = {}
    for toy in toys:
        if toy.run.failure_mode is not None:
            arms.setdefault(toy.run.failure_mode, {}).setdefault(toy.run.seed, {})[toy.run.arm] = toy
    found = []
    for mode, by_seed in sorted(arms.items()):
        good = validated(mode, by_seed.values())
        found += [Row(mode, seed, by_seed[seed].get("provocation"), by_seed[seed].get("control"), good) for seed in sorted(by_seed)]
    return found


def validated(mode: str, seeds: Iterable[dict[str, Toy]]) -> bool:
    """Whether a detector fires (amber or red) on every one of at least three seeds of its provocation, and was measured and stayed silent on every control."""
    pairs = list(seeds)
    complete = len(pairs) >= len(SEEDS) and all({"provocation", "control"} <= set(arms) for arms in pairs)
    return complete and all(arms["provocation"].fired(mode) == "yes" and arms["control"].fired(mode) == "no" for arms in pairs)


def drop_step(accuracy: Sequence[tuple[int, float]], prompts: int) -> int | None:
    """The first step at which accuracy lies below its best so far by more than 2.58 standard errors of the difference of two shares,

        best - now > 2.58 sqrt((best (1 - best) + now (1 - now)) / n),

    n prompts each (one-sided 0.5 %; the prompts are the same, so the test errs on the side of no drop); None where it never does."""
    best = -math.inf
    for step, share in accuracy:
        error = math.sqrt((best * (1 - best) + share * (1 - share)) / prompts) if best > share else math.inf
        if best - share > DROP_Z * error:
            return step
        best = max(best, share)
    return None


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, scale = successes / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / scale, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return max(centre - half, 0.0), min(centre + half, 1.0)
