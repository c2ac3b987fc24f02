"""A stated fixed point that is a product of powers of scorers, `tilted: q^1.25 reference^-0.25, normalised`, as a table."""

from __future__ import annotations

import ast
import operator
import re

import torch
from torch import Tensor

from zoo.lab.doubles import Tables

FACTOR = re.compile(r"(/)?\s*([A-Za-z_]\w*)(?:\^(-?[\d.]+|\([^()]*\)))?")
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def powers(stated: str, teacher: str, scorers: set[str]) -> dict[str, float] | None:
    """The power of each scorer; `q` is the teacher that the student is compared with. None for a formula of another kind, which stays words."""
    body, normalised, _ = stated.partition("normalised")
    if not normalised:
        return None
    found: dict[str, float] = {}
    text, at = body.strip(" ,"), 0
    while at < len(text):
        factor = FACTOR.match(text, at)
        power = None if factor is None else _number(factor[3] or "1")
        if factor is None or power is None:
            return None
        name = teacher if factor[2] == "q" and "q" not in scorers else factor[2]
        if name not in scorers:
            return None
        found[name] = found.get(name, 0.0) + (-power if factor[1] else power)
        at = factor.end() + len(text[factor.end() :]) - len(text[factor.end() :].lstrip())
    return found or None


def tilt_of(tables: Tables, stated: str, teacher: str) -> Tensor | None:
    """The logits (S, V) of the stated law; None where it is no product, or a factor moves with the student."""
    live = {name for name, one in tables.entry.teachers.items() if getattr(getattr(one, "weights", None), "kind", None) == "live"}
    scorers = {name for name in tables.entry.teachers if not tables.given(name)} | {"reference"}
    found = powers(stated, teacher, scorers - live)
    if found is None:
        return None
    return torch.stack([power * tables.logits(name).detach().log_softmax(-1) for name, power in found.items()]).sum(0)


def _number(text: str) -> float | None:
    """The value of a number or of sums, products and quotients of numbers in brackets."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
            return float(SIGNS[type(node.op)](value(node.left), value(node.right)))
        raise ValueError

    try:
        return value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError):
        return None
