"""The JSON Schema of a registry entry (draft 2020-12), from which editors complete and check the YAML as it is typed.

It is generated from the typed models, so it never lags behind them. It knows names, types and ranges; what depends on
several places at once (compatibility, coordinates) is left to `zoo check`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from zoo.components.base import Component, kinds, slots
from zoo.components.plugins import load_plugins
from zoo.entry import MethodEntry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/{model}"
Json = dict[str, Any]


def json_schema() -> Json:
    """The schema of one file under `registry/methods`; `$defs/slot-<slot>` lists what each slot may hold."""
    load_plugins()
    classes = {(slot, kind): cls for slot in slots() for kind, cls in kinds(slot).items()}
    models: list[type[BaseModel]] = [MethodEntry, *classes.values()]
    references, generated = models_json_schema([(model, "validation") for model in models], by_alias=True, ref_template=REFERENCE)
    definitions: Json = generated["$defs"]
    names = {key: _name(references[(cls, "validation")]) for key, cls in classes.items()}
    for (slot, kind), cls in classes.items():
        definitions[names[(slot, kind)]] = _kind_schema(definitions[names[(slot, kind)]], cls, kind)
    for slot in slots():
        own = {kind: names[(slot, kind)] for kind in kinds(slot)}
        definitions[f"slot-{slot}"] = _slot_schema(slot, own, definitions)
    entry = definitions.pop(_name(references[(MethodEntry, "validation")]))
    return _linked({"$schema": DIALECT, **_entry_schema(entry), "title": "Entry of the OPD Zoo", "$defs": dict(sorted(definitions.items()))})


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]


def _kind_schema(schema: Json, cls: type[Component], kind: str) -> Json:
    """A component's object form: its tag is required and has one value."""
    properties = {cls.tag: {"const": kind}, **{name: rule for name, rule in schema["properties"].items() if name != cls.tag}}
    required = [cls.tag, *(name for name in schema.get("required", ()) if name != cls.tag)]
    return {**schema, "properties": properties, "required": required}


def _slot_schema(slot: str, names: dict[str, str], definitions: Json) -> Json:
    """The forms of a slot: a bare name where nothing else is required, a mapping, or `{kind: value}`."""
    objects = {kind: definitions[name] for kind, name in names.items()}
    bare = [kind for kind, schema in objects.items() if len(schema["required"]) == 1]
    forms: list[Json] = [{"enum": bare}] if bare else []
    forms += [{"$ref": REFERENCE.format(model=name)} for name in names.values()]
    for kind, cls in kinds(slot).items():
        if cls.shorthand is not None:
            value = objects[kind]["properties"][cls.shorthand]
            forms.append({"type": "object", "properties": {kind: value}, "required": [kind], "additionalProperties": False})
    return {"anyOf": forms, "description": f"A {slot}."}


def _entry_schema(schema: Json) -> Json:
    """The entry with its short forms `rollout` and `stages`, and the sections that only what never trains may leave out."""
    streams = {"rollout": {"x-slot": "rollout", "description": "Short for rollouts: {main: ...}."}}
    once: Json = {"not": {"required": ["rollout", "rollouts"]}}
    own = {name: schema["properties"][name] for name in ("rollouts", "objective")}
    stage: Json = {
        "type": "object",
        "properties": {"share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, **streams, **own},
        "required": ["share", "objective"],
        "additionalProperties": False,
        "allOf": [once],
    }
    stages = {"stages": {"type": "array", "minItems": 2, "items": stage}, "rounds": {"type": "integer", "minimum": 1}}
    written = {"anyOf": [{"required": ["rollout"]}, {"required": ["rollouts"]}]}
    trained = {"required": ["fixed_point"], "anyOf": [{"required": ["objective"], **written}, {"required": ["stages"]}]}
    idle = {"anchor": {"enum": ["student", "teacher"]}, "kind": {"const": "analysis"}, "executable": {"const": False}}
    untrained = {"anyOf": [{"properties": {name: rule}, "required": [name]} for name, rule in idle.items()]}
    return {
        **schema,
        "properties": {**schema["properties"], **streams, **stages},
        "allOf": [once, {"not": {"required": ["stages", "objective"]}}, {"if": untrained, "else": trained}],
    }


def _linked(value: Any) -> Any:
    """The schema with every `x-slot` turned into a reference to the slot's definition."""
    if isinstance(value, list):
        return [_linked(item) for item in value]
    if not isinstance(value, dict):
        return value
    linked = {key: _linked(item) for key, item in value.items() if key != "x-slot"}
    return {**linked, "$ref": f"#/$defs/slot-{value['x-slot']}"} if "x-slot" in value else linked
