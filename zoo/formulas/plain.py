"""From the small part of LaTeX that the formulas use to plain text with Unicode signs."""

from __future__ import annotations

import re

SIGNS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "kappa": "κ", "lambda": "λ", "mu": "μ", "phi": "φ", "pi": "π",
    "rho": "ρ", "sigma": "σ", "tau": "τ", "theta": "θ", "sum": "Σ", "prod": "Π", "cdot": "·", "times": "×", "in": "∈", "sim": "∼", "to": "→", "le": "≤",
    "ge": "≥", "ne": "≠", "infty": "∞", "mid": "|", "cup": "∪", "cap": "∩", "leftarrow": "←", "propto": "∝", "pm": "±", "quad": " ", "ldots": "…",
    "setminus": "∖", "neg": "¬",
}  # fmt: skip
WORDS = ("log", "exp", "min", "max", "tanh", "arg")
LOWER = dict(zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
UPPER = dict(zip("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", strict=True))
SIMPLE = r"[\w.\\\u0304\ue002]+"
GROUP = r"\{([^{}]*)\}"
OPEN, CLOSE = "\\{", "\\}"
FENCE = {OPEN: "\ue000", CLOSE: "\ue001"}  # braces that are meant, out of the way of those that group


def plain(latex: str) -> str:
    """One line of text: `\\frac{a}{b}` becomes a/b, `\\mathrm{KL}(q \\| p)` KL(q ‖ p), `A_t` with a small t."""
    text = latex
    for sign, private in FENCE.items():
        text = text.replace(sign, private)
    text = re.sub(r"\\(?:left|right|big|Big)(?![a-z])", "", text).replace("\\|", "‖").replace("\\_", "\ue002").replace("\\%", "%")
    text = re.sub(r"\\[,;:! ]", " ", text)
    before = None
    while before != text:  # from the innermost braces outwards
        before = text
        text = re.sub(rf"\\(?:mathrm|operatorname|text|mathcal|mathbf|mathbb){GROUP}", r"\1", text)
        text = re.sub(rf"\\sqrt{GROUP}", lambda m: f"√{_fenced(m[1])}", text)
        text = re.sub(rf"\\bar{GROUP}", lambda m: f"{m[1]}\u0304", text)
        text = re.sub(rf"\\frac{GROUP}{GROUP}", lambda m: f"{_fenced(m[1])}/{_fenced(m[2])}", text)
        text = re.sub(rf"([_^]){GROUP}", lambda m: _raised(m[1], m[2]), text)
    text = re.sub(r"\\([A-Za-z]+)", lambda m: SIGNS.get(m[1], m[1]), text)
    text = re.sub(r"([_^])([^\s{(\[])", lambda m: _raised(m[1], m[2]), text)
    text = text.replace("{", "").replace("}", "").replace("\ue002", "_").replace("\ue003", "^")
    for sign, private in FENCE.items():
        text = text.replace(private, sign[1])
    text = text.replace("~", " ").replace(" - ", " − ").replace("= -", "= −")
    return re.sub(r"^-", "−", re.sub(r"\s+", " ", text).strip())


def _fenced(text: str) -> str:
    inner = text.strip()
    alone = rf"(?:{SIMPLE}|\|{SIMPLE}\|)(?:\({SIMPLE}\))?"
    return inner if re.fullmatch(alone, inner) else f"({inner})"


def _raised(sign: str, text: str) -> str:
    signs = re.sub(r"\\([a-zA-Z]+)", lambda m: SIGNS.get(m[1], m[1]), text.strip())
    table = LOWER if sign == "_" else UPPER
    if all(letter in table for letter in signs) and not re.search(r"[a-z]{2}", signs):  # words stay words
        return "".join(table[letter] for letter in signs)
    # Left as text; the private sign keeps it from being raised again.
    mark = "\ue002" if sign == "_" else "\ue003"
    if re.fullmatch(r"\w+|[^\s\w]", signs):
        return f"{mark}{signs}"
    return f"{mark}({signs})" if sign == "^" else f"{mark}{FENCE[OPEN]}{signs}{FENCE[CLOSE]}"
