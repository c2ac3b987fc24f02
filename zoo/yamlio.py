"""YAML files read safely and strictly: `1e-6` is a number, a repeated key is an error, and every path knows its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from zoo.errors import ZooError, in_yaml, suggest
from zoo.paths import declared

M = TypeVar("M", bound=BaseModel)
Location = tuple[str | int, ...]
Short = Mapping[Location, Location]  # expanded location -> where its short form stands in the file


PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats (an exponent needs no dot) and booleans (`on`, a key of the grammar, is a word)."""


class _Quick(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same on libyaml's parser, several times as fast; what it refuses is read again by the one above, for its messages."""


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
_Quick.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _build(node: yaml.Node, loader: Any, where: Location, lines: dict[Location, int], file: Path) -> Any:
    lines[where] = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
        raise ZooError(f"{file}:{lines[where]}: {write_path(where)}: tag {node.tag} is not allowed; write plain YAML")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in found:
                raise ZooError(f"{file}:{line}: key '{key}' is given twice; keep one")
            found[key] = _build(value_node, loader, (*where, key), lines, file)
            lines[(*where, key)] = line
        return found
    if isinstance(node, yaml.SequenceNode):
        return tuple(_build(item, loader, (*where, i), lines, file) for i, item in enumerate(node.value))
    return loader.construct_object(node)


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ZooError(f"{file}: no such file") from None
    except OSError as error:
        raise ZooError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ZooError(f"{file}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None


def read_yaml(file: Path) -> tuple[Any, dict[Location, int]]:
    """The file's content, lists as tuples, and the line of every path in it.

    Raises:
        ZooError: the file is missing, not UTF-8, not YAML, or repeats a key.
    """
    text = _text(file)
    # libyaml's parser ends the process where nesting exhausts the stack, so it sees only what cannot nest that deep.
    if len(text) < 1_000_000 and sum(map(text.count, ("[", "{", "- ", "? "))) < 2000:
        with suppress(yaml.YAMLError, RecursionError):
            return _parsed(_Quick, text, file)
    try:
        return _parsed(_Loader, text, file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ZooError(f"{file}{line}: not valid YAML ({getattr(error, 'problem', None) or str(error).splitlines()[0]})") from None
    except RecursionError:
        raise ZooError(f"{file}: nested too deeply; an alias may contain itself") from None


def _parsed(kind: Any, text: str, file: Path) -> tuple[Any, dict[Location, int]]:
    lines: dict[Location, int] = {}
    loader = kind(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else _build(node, loader, (), lines, file)), lines
    finally:
        loader.dispose()


def write_path(location: Location) -> str:
    """`objective[0].support.k` for a location."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".") or "(top level)"


def load_model(model: type[M], file: Path, prepare: Any = None, short: Short | None = None, read: tuple[Any, Mapping[Location, int]] | None = None) -> M:
    """Validate a YAML file into `model`; `prepare` may expand short forms first, and `short` says where they were written. `read` is the file's content
    (`read_yaml`), where the caller has it.

    Raises:
        ZooError: one line for each mistake, with file, line and path.
    """
    data, lines = read or read_yaml(file)
    if data is None:
        raise ZooError(f"{file}: is empty; it should hold the keys of {_article(model.__name__)}")
    if not isinstance(data, Mapping):
        raise ZooError(f"{file}:1: should be a mapping of keys to values, not {in_yaml(data)}")
    try:
        return model.model_validate(prepare(dict(data)) if prepare else dict(data))
    except ValidationError as error:
        found = [describe(item, lines, file, short or {}) for item in error.errors(include_url=False)]
    raise ZooError("\n".join(found))


def load_declared(model: type[M], what: str, name: str | Path) -> M:
    """What the registry declares under an id, or a YAML file does; its `id` is the file's name.

    Raises:
        ZooError: nothing of that name, a mistake in its file, or a file whose name is not its id.
    """
    file = declared(what, name)
    found = load_model(model, file)
    if (own := getattr(found, "id", None)) != file.stem:
        raise ZooError(f"{file}:1: id: is '{own}', but the file is named {file.name}; rename one")
    return found


def place(messages: Iterable[str], file: Path, short: Short | None = None) -> str:
    """The messages, each behind its file and the line of the path that it begins with."""
    _, lines = read_yaml(file)
    by_path = {write_path(location): line for location, line in lines.items()}
    found = list(messages)
    for long, written in (short or {}).items():
        if written in lines:
            found = [message.replace(write_path(long), write_path(written)) for message in found]
    return "\n".join(f"{file}:{_line_of(message, by_path)}: {message}" for message in found)


def _line_of(message: str, by_path: Mapping[str, int]) -> int:
    path = re.match(r"[\w.\[\]]*", message)[0].rstrip(".")  # type: ignore[index]
    while path and path not in by_path:
        path = re.sub(r"(\.\w*|\[\d+\]|^\w*)$", "", path)
    return by_path.get(path, 1)


def as_written(location: Location, lines: Mapping[Location, int], short: Short) -> Location:
    """The location in the file's own terms, where the file used a short form."""
    for long, written in short.items():
        if location[: len(long)] == long and written in lines:
            return (*written, *location[len(long) :])
    return location


def describe(item: Any, lines: Mapping[Location, int], file: Path, short: Short | None = None) -> str:
    """One line for one validation error: file, line, path, and what to do."""
    location = near = as_written(item["loc"], lines, short or {})
    detail = item.get("ctx", {})
    if item["type"] == "unknown_key":
        location = near = (*location, detail["key"])
    elif item["type"] == "slot_kind" and detail["tag"] in (part[-1] for part in lines if part[:-1] == location):
        near = (*location, detail["tag"])
    while near and near not in lines:
        near = near[:-1]
    return f"{file}:{lines.get(near, 1)}: {write_path(location)}: {_reason(item, detail)}"


OWN = ("unknown_key", "slot_kind", "slot_tag", "slot_type", "number", "text")
EXPECTED = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "tuple": "a list", "list": "a list", "dict": "a mapping", "model": "a mapping",
}  # fmt: skip


def _reason(item: Any, detail: Mapping[str, Any]) -> str:
    kind, value, message = item["type"], item["input"], item["msg"]
    expected = EXPECTED.get(kind.split("_")[0])
    if kind == "missing":
        return "is required and missing"
    if kind == "value_error":
        return str(message.removeprefix("Value error, "))
    if kind in OWN:
        return str(message)
    if kind == "literal_error":
        near = suggest(str(value), re.findall(r"'([^']*)'", detail["expected"]))
        return f"should be {detail['expected']}, not {in_yaml(value)}{near if 'mean' in near else ''}"
    if kind in ("too_short", "too_long"):
        bound = f"at least {detail['min_length']}" if kind == "too_short" else f"at most {detail['max_length']}"
        return f"should have {bound} items, not {detail['actual_length']}"
    if expected and (kind.endswith("_type") or kind == "int_from_float"):
        return f"should be {expected}, not {in_yaml(value)}{remedy(expected, value)}"
    return f"{message[0].lower()}{message[1:]}, not {in_yaml(value)}".removeprefix("input ")


def remedy(expected: str, value: Any) -> str:
    """How to turn a value of the wrong type into the right one, where that is plain."""
    if expected == "a list" and not isinstance(value, Mapping) and value is not None:
        return f"; write [{value}]"
    if expected == "a list" and isinstance(value, Mapping):
        return "; put '- ' before it, or [ ] around it"
    if expected == "text" and value is not None and not isinstance(value, Mapping | tuple):
        return "; put it in quotes"
    if expected.endswith("number") and isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value):
        return "; remove the quotes"
    return ""


def _article(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
