"""Which tokens of two tokenisations are paired, and which columns of two vocabularies, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import numpy as np

from .fixture_cross import STOP
from .numerics import Array, entropy, top_k

Pair = tuple[list[int], list[int]]


def _split(words: Sequence[str], at: set[int]) -> list[list[int]]:
    """The places of the words between one cut and the next."""
    groups: list[list[int]] = [[]]
    for place, end in enumerate(accumulate(len(word) for word in words)):
        groups[-1].append(place)
        if end in at:
            groups.append([])
    return [group for group in groups if group]


def same_bytes(mine: Sequence[str], theirs: Sequence[str]) -> list[Pair]:
    """Groups between the ends that both sides have, and the two stops."""
    texts = [words[:-1] if words[-1] == STOP else words for words in (mine, theirs)]
    ends = [set(accumulate(len(word) for word in words)) for words in texts]
    pairs = list(zip(*(_split(words, ends[0] & ends[1]) for words in texts), strict=True))
    return [*pairs, ([len(mine) - 1], [len(theirs) - 1])] if mine[-1] == theirs[-1] == STOP else pairs


def same_walk(mine: Sequence[str], theirs: Sequence[str]) -> list[Pair]:
    """Running texts: equal ones that are followed by equal tokens close a segment, that token included; else the shorter one takes a token, or both."""
    pairs: list[Pair] = []
    i = j = start_i = start_j = 0
    while i < len(mine) and j < len(theirs):
        h_s, h_t = "".join(mine[:i]), "".join(theirs[:j])
        if h_s == h_t and mine[i] == theirs[j]:
            pairs.append((list(range(start_i, i + 1)), list(range(start_j, j + 1))))
            i, j = i + 1, j + 1
            start_i, start_j = i, j
        else:
            i, j = i + (len(h_s) <= len(h_t)), j + (len(h_t) <= len(h_s))
    return pairs


@cache
def edits(one: str, other: str) -> int:
    """Levenshtein distance."""
    if not one or not other:
        return len(one) + len(other)
    return min(edits(one[1:], other) + 1, edits(one, other[1:]) + 1, edits(one[1:], other[1:]) + (one[0] != other[0]))


def unlike(one: str, other: str) -> float:
    """Levenshtein distance over the sum of the lengths; 0 for two stops."""
    return edits(one, other) / max(len(one) + len(other), 1)


def warped(q: Array, p: Array, mine: Sequence[str], theirs: Sequence[str]) -> list[list[int]]:
    """The teacher's places of each student token on the cheapest path of cells, each unlike(a, b) H_S / log V_S H_T / log V_T; moves down, right or both."""
    own, their = entropy(q) / np.log(q.shape[-1]), entropy(p) / np.log(p.shape[-1])

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        here = unlike(mine[i], theirs[j]) * own[i] * their[j]
        before = [best(*at) for at in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(at) >= 0]
        least = min(before, key=lambda way: way[0]) if before else (0.0, ())
        return least[0] + here, (*least[1], (i, j))

    path = best(len(mine) - 1, len(theirs) - 1)[1]
    return [[j for at, j in path if at == i] for i in range(len(mine))]


def nearest_columns(q: Array, p: Array, mine: Sequence[str], theirs: Sequence[str], *, k: int, threshold: float) -> list[tuple[int, int]]:
    """Columns (student's id, teacher's id): the teacher's k best with their counterparts, then the student's.

    A counterpart is the token of the same text, else the unused one among the other side's k best of least `unlike`, below the threshold.
    """

    def mapped(own: Sequence[int], own_words: Sequence[str], others: Sequence[int], words: Sequence[str]) -> list[tuple[int, int]]:
        exact = {i: words.index(own_words[i]) for i in own if own_words[i] in words}
        used, found = set(exact.values()), []
        for i in own:
            free = sorted((unlike(own_words[i], words[j]), j) for j in others if j not in used and words[j] != STOP and own_words[i] != STOP)
            if i not in exact and free and free[0][0] < threshold:
                exact[i] = free[0][1]
                used.add(free[0][1])
            if i in exact:
                found.append((i, exact[i]))
        return found

    best = [top_k(side, k).tolist() for side in (q, p)]
    forth = mapped(best[1], theirs, best[0], mine)
    return [*((i, j) for j, i in forth), *mapped(best[0], mine, best[1], theirs)]
