"""YAML files read safely and strictly: `1e-6` is a number, a repeated key is an error, and every path knows its line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from zoo.errors import ZooError

M = TypeVar("M", bound=BaseModel)
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats (an exponent needs no dot) and booleans (`on`, a key of the grammar, is a word)."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {first: [r for r in known if r[0] != _BOOL] for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)
# The integer pattern must win over the float one above.
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first] = sorted(_Loader.yaml_implicit_resolvers[_first], key=lambda r: not r[0].endswith(":int"))


def _build(node: yaml.Node, loader: _Loader, where: Location, lines: dict[Location, int], file: Path) -> Any:
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))  # type: ignore[no-untyped-call]
            line = key_node.start_mark.line + 1
            if key in found:
                raise ZooError(f"{file}:{line}: key '{key}' is given twice; keep one")
            found[key] = _build(value_node, loader, (*where, key), lines, file)
            lines[(*where, key)] = line
        return found
    if isinstance(node, yaml.SequenceNode):
        return tuple(_build(item, loader, (*where, i), lines, file) for i, item in enumerate(node.value))
    return loader.construct_object(node)  # type: ignore[no-untyped-call]


def read_yaml(file: Path) -> tuple[Any, dict[Location, int]]:
    """The file's content, lists as tuples, and the line of every path in it.

    Raises:
        ZooError: the file is missing, not UTF-8, not YAML, or repeats a key.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ZooError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{file}: cannot be read ({error})") from None
    loader = _Loader(text)
    lines: dict[Location, int] = {}
    try:
        node = loader.get_single_node()
        return (None if node is None else _build(node, loader, (), lines, file)), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ZooError(f"{file}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def write_path(location: Location) -> str:
    """`objective[0].support.k` for a location."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".") or "(top level)"


def load_model(model: type[M], file: Path, prepare: Any = None) -> M:
    """Validate a YAML file into `model`; `prepare` may expand short forms first.

    Raises:
        ZooError: one line for each mistake, with file, line and path.
    """
    data, lines = read_yaml(file)
    if not isinstance(data, Mapping):
        raise ZooError(f"{file}: should be a mapping of keys to values")
    try:
        return model.model_validate(prepare(dict(data)) if prepare else dict(data))
    except ValidationError as error:
        raise ZooError("\n".join(describe(item, lines, file) for item in error.errors(include_url=False))) from None


def describe(item: Any, lines: Mapping[Location, int], file: Path) -> str:
    """One line for one validation error."""
    location: Location = item["loc"]
    if item["type"] == "unknown_key" and (*location, item["ctx"]["key"]) in lines:
        location = (*location, item["ctx"]["key"])
    near = location
    while near and near not in lines:
        near = near[:-1]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        message = "is required and missing"
    elif item["type"] not in ("unknown_key", "value_error", "slot_kind", "slot_tag", "slot_type", "number"):
        message = f"{message[0].lower()}{message[1:]}, not {item['input']!r}"
    return f"{file}:{lines.get(near, 1)}: {write_path(location)}: {message}"
