"""A JSON schema of recipe files: editors that know it complete keys, show their meaning and mark mistakes."""

from __future__ import annotations

from typing import Any

from thinkling.core import shelf
from thinkling.recipes.loading import VARIABLE


def schema() -> dict[str, Any]:
    """A JSON schema of recipe files, so that editors complete and check them."""
    from pydantic.json_schema import models_json_schema

    kinds = {kind: shelf.entry("stages", kind).Config for kind in shelf.names("stages")}
    references, shared = models_json_schema([(config, "validation") for config in kinds.values()])
    definitions = shared.get("$defs", {})
    for definition in definitions.values():
        for key, setting in definition.get("properties", {}).items():
            definition["properties"][key] = {"anyOf": [setting, {"type": "string", "pattern": VARIABLE.pattern}]}
    stages = [_stage_schema(kind, references[config, "validation"]) for kind, config in kinds.items()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "thinkling recipe",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "about": {"type": "string"},
            "variables": {"type": "object"},
            "stages": {"type": "array", "minItems": 1, "items": {"anyOf": stages}},
        },
        "required": ["stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _stage_schema(kind: str, reference: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {kind: reference}, "required": [kind], "additionalProperties": False}
