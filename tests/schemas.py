"""Results held against the schemas that ship with the package."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import jsonschema


def check_schema(name: str, result: Any) -> None:
    """Raise jsonschema.ValidationError where a result is not what its schema promises."""
    file = resources.files("llm_persona.domain") / "data" / "schemas" / f"{name}.schema.json"
    jsonschema.validate(result, json.loads(file.read_text(encoding="utf-8")))
