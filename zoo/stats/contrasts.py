"""What one component is worth: pairs of entries that differ in it alone, and the paired differences of their scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from zoo.entry import MethodEntry, body
from zoo.relatives import body_changes
from zoo.stats.estimates import Array, Estimate, aligned_arrays
from zoo.stats.intervals import crossed_interval


@dataclass(frozen=True)
class Contrast:
    """One component's place in an entry, what stands there in either case, and the pairs of entries (first, second) that differ in no more."""

    place: str
    first: str
    second: str
    pairs: tuple[tuple[str, str], ...]


def contrasts(entries: Mapping[str, MethodEntry]) -> list[Contrast]:
    """All contrasts among the entries: pairs whose bodies differ in exactly one component, those of the same change together.

    Bodies are compared as `zoo diff` does, with all defaults written out; a place is a path without the position in a list. `first` comes
    before `second` alphabetically, so that pairs are oriented alike. Sorted by place, first, second; the order of entries is of no matter.
    """
    return body_contrasts({id: body(entry) for id, entry in entries.items() if entry.objective})


def body_contrasts(bodies: Mapping[str, Mapping[str, Any]]) -> list[Contrast]:
    """`contrasts` of bodies as they stand in an entry, or in the record of a run."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for left, right in combinations(sorted(bodies), 2):
        differ = body_changes(bodies[left], bodies[right])
        if len(differ) != 1 or differ[0].size != 1:
            continue
        one, place = differ[0], re.sub(r"\[\d+\]", "", differ[0].path)
        if one.first <= one.second:
            found.setdefault((place, one.first, one.second), []).append((left, right))
        else:
            found.setdefault((place, one.second, one.first), []).append((right, left))
    return [Contrast(*key, tuple(sorted(pairs))) for key, pairs in sorted(found.items())]


def contrast_difference(contrast: Contrast, score_SI: Mapping[str, ArrayLike]) -> Estimate:
    """The mean of second - first over the contrast's pairs that have scores, paired by seed and item, with its interval.

    The pairs are the ones there are, not a sample of others: the interval is over seeds and items. Raises ValueError where no pair has
    scores on both sides, or pairs have other seeds or items.
    """
    scored = [pair for pair in contrast.pairs if pair[0] in score_SI and pair[1] in score_SI]
    if not scored:
        raise ValueError(f"{contrast.place}, {contrast.first} → {contrast.second}: no pair has scores on both sides")
    return crossed_interval(np.mean([_difference(score_SI[second], score_SI[first]) for first, second in scored], axis=0))


def _difference(left_SI: ArrayLike, right_SI: ArrayLike) -> Array:
    left, right = aligned_arrays(left_SI, right_SI)
    return left - right
