"""From the small part of LaTeX that formulas use to MathML, which browsers set by themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from zoo.formulas.plain import SIGNS, WORDS, plain

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[{}_^]|\d+(?:\.\d+)?|[A-Za-z]+|\s+|.", re.DOTALL)
SPACES = {"\\,": "0.17em", "\\;": "0.28em", "\\:": "0.22em", "\\ ": "0.25em", "\\!": "-0.17em", "\\quad": "1em"}
TEXT = {"\\mathrm", "\\operatorname", "\\text"}
BIG = {"\\sum": "∑", "\\prod": "∏"}
FENCES = {"(": "(", ")": ")", "[": "[", "]": "]", "|": "|", "\\|": "‖", "\\{": "{", "\\}": "}", "\\langle": "⟨", "\\rangle": "⟩"}
FUNCTIONS = {f"\\{word}" for word in (*WORDS, "clip", "sup", "inf")}
RELATIONS = set("=≤≥≠∼∈→∝∖∪∩≈←<>:")
SIGN = {**SIGNS, "langle": "⟨", "rangle": "⟩", "colon": ":", "star": "⋆", "ell": "ℓ", "nabla": "∇", "theta": "θ", "infty": "∞", "approx": "≈"}
BLACKBOARD = {"1": "𝟙", "E": "𝔼", "R": "ℝ"}
LONG_WORD = 3  # so many letters in a row are a word, not a product


def mathml(latex: str, *, block: bool = False) -> str:
    """A `math` element, its text form for readers without MathML beside it."""
    inner = "".join(_Parser(latex).row())
    shown = ' display="block"' if block else ""
    return f'<math{shown} alttext="{escape(plain(latex))}"><mrow>{inner}</mrow></math>'


def equations(rows: Sequence[tuple[str, str, int]]) -> str:
    """Rows of (left, right, depth) as one block aligned at the equals sign."""
    made = []
    for left, right, depth in rows:
        indent = f'<mspace width="{1.2 * depth:g}em"/>' if depth else ""
        one, other = ("".join(_Parser(side).row()) for side in (left, right))
        made.append(f"<mtr><mtd><mrow>{indent}{one}</mrow></mtd><mtd><mrow><mo>=</mo>{other}</mrow></mtd></mtr>")
    alttext = escape("; ".join(plain(f"{left} = {right}") for left, right, _ in rows))
    return f'<math display="block" class="equations" alttext="{alttext}"><mtable displaystyle="true">{"".join(made)}</mtable></math>'


class _Parser:
    """Reads tokens from left to right; a group, or what stands for one, is an atom that scripts attach to."""

    def __init__(self, latex: str) -> None:
        self.tokens = [token for token in TOKEN.findall(latex) if not token.isspace() or token]
        self.place = 0

    def row(self, closing: str | None = None) -> list[str]:
        """Atoms with their scripts up to the closing token, which is taken too."""
        found: list[str] = []
        while self.place < len(self.tokens):
            token = self.tokens[self.place]
            if token == closing:
                self.place += 1
                return found
            if token.isspace() or token == "}":
                self.place += 1
                continue
            found.append(self.scripted())
        return found

    def scripted(self) -> str:
        """An atom and the scripts behind it."""
        big = self.tokens[self.place] in BIG or self.tokens[self.place] in ("\\min", "\\max")
        base = self.atom()
        scripts: dict[str, str] = {}
        while self.place < len(self.tokens) and self.tokens[self.place] in ("_", "^"):
            sign = self.tokens[self.place]
            self.place += 1
            scripts[sign] = self.atom()
        if not scripts:
            return base
        below, above = scripts.get("_"), scripts.get("^")
        name = {(True, False): "munder" if big else "msub", (False, True): "msup", (True, True): "munderover" if big else "msubsup"}
        parts = "".join(part for part in (below, above) if part is not None)
        chosen = name[below is not None, above is not None]
        return f"<{chosen}>{base}{parts}</{chosen}>"

    def atom(self) -> str:
        """One letter, number, sign, group or command with its arguments."""
        self._skip_spaces()
        if self.place >= len(self.tokens):
            return "<mrow></mrow>"
        token = self.tokens[self.place]
        self.place += 1
        if token == "{":
            return f"<mrow>{''.join(self.row('}'))}</mrow>"
        if token in TEXT:
            return self._text()
        if token == "\\frac":
            return f"<mfrac>{self.atom()}{self.atom()}</mfrac>"
        if token == "\\sqrt":
            return f"<msqrt>{self.atom()}</msqrt>"
        if token in ("\\overline", "\\bar", "\\hat", "\\tilde"):
            mark = {"\\hat": "^", "\\tilde": "~"}.get(token, "‾")
            return f'<mover accent="true">{self.atom()}<mo stretchy="false">{mark}</mo></mover>'
        if token in ("\\mathbb", "\\mathcal", "\\mathbf"):
            letters = re.sub(r"<[^>]*>", "", self.atom())
            return f'<mi mathvariant="normal">{BLACKBOARD.get(letters, letters)}</mi>'
        return self._simple(token)

    def _simple(self, token: str) -> str:
        if token in SPACES:
            return f'<mspace width="{SPACES[token]}"/>'
        if token in BIG:
            return f"<mo>{BIG[token]}</mo>"
        if token in ("\\left", "\\right", "\\big", "\\Big"):
            return "<mrow></mrow>"
        if token in FENCES:
            return f'<mo stretchy="false" form="{_form(token)}">{escape(FENCES[token])}</mo>' if token not in ("|", "\\|") else _bar(FENCES[token])
        if token in FUNCTIONS:
            return f'<mi mathvariant="normal">{token[1:]}</mi><mspace width="0.17em"/>'
        if token.startswith("\\"):
            sign = SIGN.get(token[1:], token[1:])
            kind = "mi" if sign.isalpha() or sign == "∞" else "mo"
            return f"<{kind}>{escape(sign)}</{kind}>"
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return _letters(token, self)
        sign = {"-": "−", "*": "∗", "'": "′", "~": "\u00a0"}.get(token, token)
        return f"<mtext>{sign}</mtext>" if sign == "\u00a0" else f"<mo>{escape(sign)}</mo>"

    def _text(self) -> str:
        """The words of a group as they are; a group with formulas in it is set as a formula."""
        self._skip_spaces()
        if self.place >= len(self.tokens) or self.tokens[self.place] != "{":
            return self.atom()
        depth, start = 0, self.place
        for end in range(start, len(self.tokens)):
            depth += {"{": 1, "}": -1}.get(self.tokens[end], 0)
            if depth == 0:
                break
        words = "".join(self.tokens[start + 1 : end])
        if re.search(r"\\[A-Za-z]|[_^{](?!\\)", words.replace("\\_", "")):
            return self.atom()
        self.place = end + 1
        text = re.sub(r"\\(.)", r"\1", words)
        shown = re.sub(r"^\s|\s$", "\u00a0", text)
        return f"<mtext>{escape(shown)}</mtext>"

    def _skip_spaces(self) -> None:
        while self.place < len(self.tokens) and self.tokens[self.place].isspace():
            self.place += 1


def _letters(token: str, parser: _Parser) -> str:
    """A word, or letters one by one: scripts belong to the last of them."""
    if len(token) >= LONG_WORD:
        return f"<mtext>{token}</mtext>"
    if len(token) > 1:
        parser.tokens.insert(parser.place, token[1:])
    return f"<mi>{token[0]}</mi>"


def _form(token: str) -> str:
    return "prefix" if token in ("(", "[", "\\{", "\\langle") else "postfix"


def _bar(sign: str) -> str:
    return f'<mo stretchy="false" lspace="0.1em" rspace="0.1em">{sign}</mo>'
