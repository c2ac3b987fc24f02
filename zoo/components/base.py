"""What every component is: a small frozen class whose fields are its YAML schema, found by slot and kind.

A *slot* is a place in the grammar (`divergence`, `support`, `credit`, ...); a *kind* is one way to fill it. Components of
one slot may hold components of another through `Slot`, so component modules never import each other.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from zoo.errors import ZooError, in_yaml, suggest

if TYPE_CHECKING:
    from zoo.statistics import Statistic

C = TypeVar("C", bound="Component")
PLAIN = "plain"  # the template that every pair has
ABSENT = "\0"  # stands where a made part has nothing to show; no decoded text holds it
NUMERIC = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?")
_KINDS: dict[str, dict[str, type[Component]]] = {}


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value


class Strict(BaseModel):
    """A frozen YAML mapping without unknown keys and without silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        """Refuse unknown keys by name, with the nearest legal one."""
        if isinstance(data, Mapping):
            legal = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in legal and key not in cls.model_fields:
                    raise PydanticCustomError("unknown_key", "unknown key '{key}'{hint}", {"key": str(key), "hint": suggest(str(key), legal)})
        return data


class Text:
    """Annotation for text of a stated form."""

    def __init__(self, pattern: str, form: str) -> None:
        self.pattern, self.form = pattern, form

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.validate, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({self.pattern})$"}

    def validate(self, value: str) -> str:
        """The text itself."""
        if not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("text", "should be {form}, not {got}", {"form": self.form, "got": in_yaml(value)})
        return value


class Component(Strict):
    """One kind of one slot. `tag` names the field that tells kinds apart; `shorthand` the field that `{kind: value}` fills."""

    tag: ClassVar[str] = "kind"
    shorthand: ClassVar[str | None] = None


class TokenPart(Component):
    """A part of a term that reads columns without gradient: gates and weights. `outcome` marks those that read a sequence's result, which
    makes a token signal hybrid, `judged` those that do so by what another model says or writes; `reads_advantage` those that stand in a policy
    gradient only."""

    outcome: ClassVar[bool] = False
    judged: ClassVar[bool] = False
    reads_advantage: ClassVar[bool] = False

    def scorers(self) -> tuple[str, ...]:
        """Scorers whose probabilities it reads."""
        return ()

    def asks(self) -> tuple[str, ...]:
        """Models whose texts alone it reads."""
        return ()

    def statistics(self) -> tuple[Statistic, ...]:
        """Columns it reads."""
        return ()


def component(slot: str) -> Callable[[type[C]], type[C]]:
    """Register a class under `slot` by the literal default of its tag field.

    Raises:
        ZooError: the slot already holds that kind.
    """

    def register(cls: type[C]) -> type[C]:
        kind = cls.model_fields[cls.tag].default
        if kind in _KINDS.setdefault(slot, {}):
            raise ZooError(f"component {slot}.{kind} is registered twice ({_KINDS[slot][kind].__module__} and {cls.__module__}); rename one")
        _KINDS[slot][kind] = cls
        return cls

    return register


def kinds(slot: str) -> Mapping[str, type[Component]]:
    """The registered classes of one slot, by kind."""
    return dict(_KINDS.get(slot, {}))


def slots() -> tuple[str, ...]:
    """All slots that hold at least one kind."""
    return tuple(sorted(_KINDS))


def slot_schema(slot: str) -> dict[str, Any]:
    """Where the JSON Schema of an entry refers to a slot; `zoo.schema` turns it into a reference."""
    return {"x-slot": slot}


class Slot:
    """Annotation that validates a mapping, a bare kind name or `{kind: value}` into the registered class of a slot."""

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_dumped))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return slot_schema(self.slot)

    def validate(self, value: Any) -> Component:
        """The component that `value` describes; raises pydantic errors that name the nearest legal kind."""
        known = _KINDS.get(self.slot, {})
        if isinstance(value, Component) and type(value) in known.values():
            return value
        tag = next(iter(known.values())).tag if known else "kind"
        if isinstance(value, str):
            value = {tag: value}
        if not isinstance(value, Mapping):
            context = {"slot": self.slot, "tag": tag, "got": in_yaml(value)}
            raise PydanticCustomError("slot_type", "a {slot} is a name or a mapping with '{tag}', not {got}", context)
        if tag not in value and len(value) == 1:
            [(kind, inner)] = value.items()
            if kind in known and (shorthand := known[kind].shorthand) is not None:
                value = {tag: kind, shorthand: inner}
        if tag not in value:
            only = next(iter(value)) if len(value) == 1 else None
            hint = f"; write {{{tag}: {only}, ...}}" if only in known else suggest("", known)
            raise PydanticCustomError("slot_tag", "a {slot} needs '{tag}'{hint}", {"slot": self.slot, "tag": tag, "hint": hint})
        kind = value[tag]
        if not isinstance(kind, str) or kind not in known:
            context = {"slot": self.slot, "tag": tag, "kind": str(kind), "hint": suggest(str(kind), known)}
            raise PydanticCustomError("slot_kind", "unknown {slot} '{kind}'{hint}", context)
        return known[kind].model_validate(dict(value))


class NumberSlot:
    """Annotation for a number that may be written as a schedule over the run's progress."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_dumped))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, slot_schema("schedule")]}

    def validate(self, value: Any) -> float | Component:
        """A float, or a schedule component."""
        if isinstance(value, Component):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float | Mapping):
            hint = "; remove the quotes" if isinstance(value, str) and NUMERIC.fullmatch(value) else ""
            raise PydanticCustomError("number", "should be a number or {schedule: ...}, not {got}{hint}", {"got": in_yaml(value), "hint": hint})
        return Slot("schedule").validate(value) if isinstance(value, Mapping) else float(value)


Number = Annotated[float, NumberSlot()]


class Context(Strict):
    """What a scorer or an author sees beside the prompt: fields of the prompt and parts made during the run, arranged by a template of the pair.

    It is theirs alone: the student is trained on the plain prompt unless it is the scorer that has the context. Where a made part has
    nothing to show, `absent: skip` leaves the sequence out of every term that reads the scorer (of a stream's author, out of
    the stream), and `absent: plain` shows the plain prompt. The template `plain`, which every pair has, shows the prompt alone: for a
    scorer of a stream that the student reads in a context.

    With `per: turn` a scorer reads each turn of a dialogue in a context of its own, its texts made for that turn, behind what was said
    before, or (`before: drop`) without it.
    """

    fields: tuple[str, ...] = ()
    made: tuple[Annotated[Any, Slot("context")], ...] = ()
    template: str
    absent: Literal["skip", "plain"] = "skip"
    per: Literal["sequence", "turn"] = Field("sequence", exclude_if=lambda value: value == "sequence")
    before: Literal["keep", "drop"] = Field("keep", exclude_if=lambda value: value == "keep")

    @model_validator(mode="after")
    def _dropped(self) -> Context:
        if self.before == "drop" and self.per != "turn":
            raise ValueError("before: drop leaves out the turns before the one that is scored; set per: turn")
        return self

    @model_validator(mode="after")
    def _something(self) -> Context:
        names = [*self.fields, *(part.kind for part in self.made)]
        if self.template == PLAIN and names:
            raise ValueError("the template plain shows the prompt alone; drop fields and made, or use a template of the pair")
        if not names and self.template != PLAIN:
            raise ValueError("a context shows something: name fields of the prompt, or parts made during the run under made")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is there twice; a template has one place for each name")
        return self

    def key(self, part: Component) -> str:
        """The field of a sequence's prompt under which the text of a made part is kept."""
        return f"{part.kind}~{zlib.crc32(json.dumps(part.model_dump(mode='json', by_alias=True), sort_keys=True).encode()):08x}"  # type: ignore[attr-defined]


def extremes(value: Any) -> tuple[float, float]:
    """The smallest and the largest value that a number or its schedule takes."""
    return value.extremes() if isinstance(value, Component) else (value, value)  # type: ignore[attr-defined]


def check_range(name: str, value: Any, low: float | None = None, high: float | None = None, *, inclusive: bool = True, why: str = "") -> None:
    """Raise a pydantic-compatible ValueError unless `value` (or its whole schedule) lies in the range."""
    smallest, largest = extremes(value)
    below = low is not None and (smallest < low or (not inclusive and smallest == low))
    above = high is not None and (largest > high or (not inclusive and largest == high))
    if below or above:
        brackets = "[]" if inclusive else "()"
        bounds = f"{brackets[0]}{'-inf' if low is None else low}, {'inf' if high is None else high}{brackets[1]}"
        raise ValueError(f"{name} must lie in {bounds}{'; ' + why if why else ''}")


def resolve(value: Any, at: Callable[[Component], float]) -> Any:
    """A copy of a component tree in which every schedule is replaced by its present value."""
    if isinstance(value, Component) and value.tag == "schedule":
        return at(value)
    if isinstance(value, Strict):
        changed = {name: resolve(getattr(value, name), at) for name in type(value).model_fields}
        if all(changed[name] is getattr(value, name) for name in changed):
            return value
        return value.model_copy(update=changed)
    if isinstance(value, tuple):
        items = tuple(resolve(item, at) for item in value)
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, dict):
        mapped = {key: resolve(item, at) for key, item in value.items()}
        return value if all(mapped[key] is value[key] for key in value) else mapped
    return value


def walk(value: Any) -> list[Component]:
    """Every component inside a tree, the tree itself included, in reading order."""
    found: list[Component] = [value] if isinstance(value, Component) else []
    if isinstance(value, Strict):
        children: list[Any] = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, tuple | list):
        children = list(value)
    elif isinstance(value, dict):
        children = list(value.values())
    else:
        return found
    return found + [item for child in children for item in walk(child)]
