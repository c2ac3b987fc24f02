r"""The number that a worked answer comes to: the last `\boxed{}` of a text, or its last number. Exact, as `Fraction`."""

from __future__ import annotations

import re
from fractions import Fraction

# A minus is a sign only where nothing stands before it that it could be subtracted from: not in `5-3`, not in `(x)-3`.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+"
_NUMBER = re.compile(rf"(?:(?<![\w.)\]}}])[-−])?(?:{_DIGITS})")
_RATIO = re.compile(r"(?:(?<![\w.)\]}])[-−])?[0-9]+/[0-9]+")
_BOXED = re.compile(r"\\f?boxed\s*\{")
_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DECORATION = re.compile(r"\\[,;:!> ]|\\q?quad\b|\^\{?[23]\}?(?![0-9])|\^\{?\\circ\}?|\\approx\b|\\?[$€£¥%°]|~")
_BESIDE_A_NUMBER = re.compile(r"[\w\s=≈.,:;'/{}()-]*")
_TOO_LONG = 1000


def boxed_number(text: str) -> Fraction | None:
    r"""The number in the last `\boxed{...}` of a text; None where there is none, or it holds something else than one number.

    Money, percent, units, thousands separators, `\text{}`, a trailing dot and simple fractions are understood.
    """
    content = last_boxed(text)
    return None if content is None else single_number(content)


def last_number(text: str) -> Fraction | None:
    """The last number written anywhere in a text; None where there is none."""
    found = _NUMBER.findall(text)
    return to_number(found[-1]) if found else None


def last_boxed(text: str) -> str | None:
    r"""What stands inside the last `\boxed{...}`, nested braces included; None where there is none or it is never closed."""
    found = list(_BOXED.finditer(text))
    if not found:
        return None
    start, depth = found[-1].end(), 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return None


def to_number(text: str) -> Fraction | None:
    """A plain number such as `-1,200.50` or `3/4`; None where the text is anything else, or too long to be an answer."""
    plain = text.strip()
    if len(plain) > _TOO_LONG or not (_NUMBER.fullmatch(plain) or _RATIO.fullmatch(plain)):
        return None
    try:
        return Fraction(plain.replace("−", "-").replace(",", ""))
    except ZeroDivisionError:
        return None


def single_number(text: str) -> Fraction | None:
    """The one number in a short expression, its unit, currency or `x =` aside; None where there is none or more than one."""
    bare = _WRAPPER.sub(r" \1 ", text.replace("{,}", ","))
    bare = _DECORATION.sub("", _FRACTION.sub(r"\1/\2", bare)).strip()
    found = _RATIO.findall(bare) or _NUMBER.findall(bare)
    if len(found) != 1:
        return None
    before, _, after = bare.partition(found[0])
    beside = before + after
    alone = _BESIDE_A_NUMBER.fullmatch(beside) and not any(character.isdigit() for character in beside)
    return to_number(found[0]) if alone else None
