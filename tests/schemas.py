"""Results held against the schemas that ship with the package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import jsonschema


def load_schema(name: str) -> dict[str, Any]:
    file = resources.files("llm_persona.domain") / "data" / "schemas" / f"{name}.schema.json"
    return json.loads(file.read_text(encoding="utf-8"))


def check_schema(name: str, result: Any) -> None:
    """Raise jsonschema.ValidationError where a result is not what its schema promises, AssertionError where it holds a
    field of which its schema says nothing: files may hold more, ours do not."""
    schema, plain = load_schema(name), json.loads(json.dumps(result, default=list))
    jsonschema.validate(plain, schema)
    unknown = sorted(set(undescribed(plain, [schema], schema)))
    assert not unknown, f"{name}.schema.json says nothing of {', '.join(unknown)}"


def undescribed(value: Any, said: Sequence[Any], whole: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of the fields that none of the schemas `said` of this value describes. An object without `properties` and
    `additionalProperties` describes no field."""
    known = list(resolved(said, whole))
    if isinstance(value, dict):
        for key, entry in value.items():
            of = [s["properties"][key] for s in known if key in s.get("properties", {})]
            of = of or [s["additionalProperties"] for s in known if "additionalProperties" in s]
            yield from [f"{path}.{key}"] if not of else undescribed(entry, of, whole, f"{path}.{key}")
    elif isinstance(value, list):
        of = [s["items"] for s in known if "items" in s]
        for entry in value:
            yield from undescribed(entry, of, whole, f"{path}[]")


def resolved(said: Sequence[Any], whole: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas with references followed and alternatives apart; `true` allows everything."""
    for schema in said:
        if schema is True:
            yield {"additionalProperties": True, "items": True}
            continue
        if "$ref" in schema:
            yield from resolved([whole["$defs"][schema["$ref"].rpartition("/")[2]]], whole)
        yield from resolved(schema.get("anyOf", []), whole)
        yield schema
