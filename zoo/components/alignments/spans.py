"""Which tokens of one tokenisation stand for which tokens of another: pure functions of byte lengths, texts and costs.

A span (a, b, c, d) says that the student's tokens a..b-1 and the teacher's tokens c..d-1 stand for each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

Span = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tokens:
    """One tokenisation of a response: ids, the bytes of each, and whether the last one is the stop token, which has none. `spoiled` are
    stretches of bytes, [from, to), that it cannot say: it holds something else in their place."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]
    stopped: bool = False
    spoiled: tuple[tuple[int, int], ...] = ()

    @property
    def words(self) -> tuple[bytes, ...]:
        """The pieces of the text itself."""
        return self.pieces[:-1] if self.stopped else self.pieces

    @property
    def ends(self) -> list[int]:
        """Where each token of the text ends, in bytes from its beginning."""
        return list(accumulate(len(piece) for piece in self.words))


def with_stops(spans: list[Span], student: Tokens, teacher: Tokens) -> list[Span]:
    """The spans, and one for the two stop tokens where both texts end with one."""
    if not (student.stopped and teacher.stopped):
        return spans
    return [*spans, (len(student.ids) - 1, len(student.ids), len(teacher.ids) - 1, len(teacher.ids))]


def unspoiled(spans: list[Span], student: Tokens, teacher: Tokens) -> list[Span]:
    """The spans in which nothing lies that the teacher's tokenisation cannot say."""
    if not teacher.spoiled:
        return spans
    ends = [0, *student.ends]
    return [s for s in spans if all(ends[s[1]] <= low or ends[s[0]] >= high for low, high in teacher.spoiled)]


def byte_spans(student: Tokens, teacher: Tokens) -> list[Span]:
    """The shortest stretches that begin and end at the same bytes: two pointers, the one that ends earlier goes on (ALM 2503.20083, GOLD).

    Where the two texts differ, nothing behind the first difference is paired. A student's token without bytes, a special one, belongs to no
    stretch: one inside takes the stretch with it. One of the teacher's, the space that some put before every text, belongs to the next.
    """
    same = common(b"".join(student.words), b"".join(teacher.words))
    found: list[Span] = []
    ends, theirs = student.ends, teacher.ends
    a = c = i = j = 0
    while i < len(ends) and j < len(theirs):
        if ends[i] < theirs[j]:
            i += 1
        elif ends[i] > theirs[j]:
            j += 1
        else:
            i, j = i + 1, j + 1
            while a < i - 1 and not student.words[a]:
                a += 1
            if ends[i - 1] <= same and all(student.words[a:i]):
                found.append((a, i, c, j))
            a, c = i, j
    return with_stops(unspoiled(found, student, teacher), student, teacher)


def running_text(student: Tokens, teacher: Tokens) -> list[Span]:
    """The greedy walk of SimCT (2605.07711) and KDFlow (2603.01875): a stretch closes where both running texts and the next token's text are
    equal, that token included; else the shorter text takes one token more, both if they are equally long. What never closes is dropped.
    Coarser than `byte_spans`: a stretch on which the tokenisers differ reaches to the next token that they share."""
    found: list[Span] = []
    mine, theirs, broken = b"", b"", False
    a = c = i = j = 0
    while i < len(student.words) and j < len(teacher.words):
        if not student.words[i] or not teacher.words[j]:
            # A special token of the student's is in no stretch, and breaks one that it lies in.
            broken = broken or (not student.words[i] and a < i)
            a = a + (not student.words[i] and a == i)
            i, j = i + (not student.words[i]), j + (not teacher.words[j])
            continue
        if mine == theirs and student.words[i] == teacher.words[j]:
            mine, theirs, i, j = mine + student.words[i], theirs + teacher.words[j], i + 1, j + 1
            if not broken:
                found.append((a, i, c, j))
            a, c, broken = i, j, False
            continue
        behind = len(mine) <= len(theirs)
        ahead = len(theirs) <= len(mine)
        if behind:
            mine, i = mine + student.words[i], i + 1
        if ahead:
            theirs, j = theirs + teacher.words[j], j + 1
    return with_stops(unspoiled(found, student, teacher), student, teacher)


def positions(student: Tokens, teacher: Tokens) -> list[Span]:
    """The k-th token with the k-th one, up to the end of the shorter answer (ULD 2402.12030)."""
    return [(k, k + 1, k, k + 1) for k in range(min(len(student.ids), len(teacher.ids)))]


def covers(student: Tokens, teacher: Tokens) -> list[Span]:
    """Each student token with the teacher's token whose law it is read from: the first one that ends behind the token's beginning."""
    ends, theirs, found, j = student.ends, teacher.ends, list[Span](), 0
    same = common(b"".join(student.words), b"".join(teacher.words))
    for i, end in enumerate(ends):
        begin = end - len(student.words[i])
        while j < len(theirs) and theirs[j] <= begin:
            j += 1
        if j == len(theirs) or end > same or begin == end:
            continue
        found.append((i, i + 1, j, j + 1))
    return with_stops(unspoiled(found, student, teacher), student, teacher)


def time_warping(cost: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """The cheapest path of cells from (0, 0) to the last one that goes down, right or both at each step; ties go on both ways first."""
    rows, columns = len(cost), len(cost[0]) if cost else 0
    if not rows or not columns:
        return []
    best = [[math.inf] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            before = [best[i - 1][j - 1]] if i and j else []
            before += [best[i - 1][j]] if i else []
            before += [best[i][j - 1]] if j else []
            best[i][j] = cost[i][j] + (min(before) if before else 0.0)
    i, j = rows - 1, columns - 1
    path = [(i, j)]
    while i or j:
        steps = [(i - 1, j - 1)] if i and j else []
        steps += [(i - 1, j)] if i else []
        steps += [(i, j - 1)] if j else []
        i, j = min(steps, key=lambda at: best[at[0]][at[1]])
        path.append((i, j))
    return path[::-1]


def edit_distance(one: bytes, other: bytes) -> int:
    """The least number of insertions, deletions and replacements that turn one text into the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@lru_cache(maxsize=1 << 20)
def unlike(one: bytes, other: bytes) -> float:
    """Edit distance over the sum of lengths, between 0 and 1, spaces at the ends left out."""
    one, other = one.strip(), other.strip()
    return edit_distance(one, other) / max(len(one) + len(other), 1)


def common(one: bytes, other: bytes) -> int:
    """Length of the part in which two texts agree."""
    short = min(len(one), len(other))
    if one[:short] == other[:short]:
        return short
    return next(k for k in range(short) if one[k] != other[k])
