"""What surely satisfies a JSON schema, found some twenty times faster than by a validator.

It only ever says yes: where it does not, the validator has the word. So what it does not know of a schema, or is
stricter in, costs time and changes no answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Accepts = Callable[[Any], bool]

# Says nothing about what is valid in draft 7.
_REMARKS = {"$schema", "$id", "$comment", "title", "description", "default", "definitions"}
# Nor does what Airflow's schema has of later drafts or by mistake.
_REMARKS |= {"constant", "prefixItems", "unevaluatedItems"}
_TYPES: dict[str, Accepts] = {
    "array": lambda it: isinstance(it, list),
    "boolean": lambda it: isinstance(it, bool),
    "integer": lambda it: isinstance(it, int) and not isinstance(it, bool),
    "null": lambda it: it is None,
    "number": lambda it: isinstance(it, (int, float)) and not isinstance(it, bool),
    "object": lambda it: isinstance(it, dict),
    "string": lambda it: isinstance(it, str),
}


def acceptor(schema: dict[str, Any]) -> Accepts:
    """Makes a function that says yes only to what is valid in this schema, which is of draft 7."""
    return _Schema(schema).accepts(schema)


class _Schema:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._named: dict[str, Accepts] = {}

    def accepts(self, schema: Any) -> Accepts:
        if schema is True or schema == {}:
            return lambda _: True
        if not isinstance(schema, dict):
            return _never
        if "$ref" in schema:
            # Whatever stands beside it says nothing.
            return self._reference(schema["$ref"])
        rules = [self._rule(keyword, schema) for keyword in schema if keyword not in _REMARKS]
        if "properties" in schema or "additionalProperties" in schema:
            rules.append(self._properties(schema))
        if len(rules) == 1:
            return rules[0]
        return lambda it: all(rule(it) for rule in rules)

    def _reference(self, reference: str) -> Accepts:
        if not reference.startswith("#/definitions/"):
            return _never
        name = reference.removeprefix("#/definitions/")
        if name not in self._named:
            # A definition can hold itself.
            self._named[name] = lambda it: self._named[name](it)
            self._named[name] = self.accepts(self._root.get("definitions", {}).get(name, False))
        return self._named[name]

    def _rule(self, keyword: str, schema: dict[str, Any]) -> Accepts:
        value = schema[keyword]
        match keyword:
            case "properties" | "additionalProperties":
                return lambda _: True
            case "type":
                types = [_TYPES.get(name, _never) for name in ([value] if isinstance(value, str) else value)]
                return types[0] if len(types) == 1 else lambda it: any(is_type(it) for is_type in types)
            case "required":
                return lambda it: not isinstance(it, dict) or all(name in it for name in value)
            case "allOf" | "anyOf":
                parts = [self.accepts(part) for part in value]
                decides = all if keyword == "allOf" else any
                return parts[0] if len(parts) == 1 else lambda it: decides(part(it) for part in parts)
            case "items" if isinstance(value, dict):
                item = self.accepts(value)
                return lambda it: not isinstance(it, list) or all(item(one) for one in it)
            case "const" if isinstance(value, str) or value is True:
                return lambda it: it is value or (isinstance(value, str) and isinstance(it, str) and it == value)
            case "pattern":
                search = re.compile(value).search
                return lambda it: not isinstance(it, str) or search(it) is not None
            case "minimum":
                return lambda it: not isinstance(it, (int, float)) or it >= value
            case "exclusiveMinimum":
                return lambda it: not isinstance(it, (int, float)) or it > value
            case "minItems":
                return lambda it: not isinstance(it, list) or len(it) >= value
            case "maxItems":
                return lambda it: not isinstance(it, list) or len(it) <= value
            case "minProperties":
                return lambda it: not isinstance(it, dict) or len(it) >= value
            case "maxProperties":
                return lambda it: not isinstance(it, dict) or len(it) <= value
            case "dependencies" if all(isinstance(names, list) for names in value.values()):
                needs = list(value.items())
                return lambda it: (
                    not isinstance(it, dict)
                    or all(name not in it or all(other in it for other in others) for name, others in needs)
                )
            case _:
                return _never

    def _properties(self, schema: dict[str, Any]) -> Accepts:
        known = {name: self.accepts(part) for name, part in schema.get("properties", {}).items()}
        others = schema.get("additionalProperties", True)
        if "patternProperties" in schema:
            return _never
        other = _never if others is False else self.accepts(others)

        def properties(it: Any) -> bool:
            return not isinstance(it, dict) or all(known.get(name, other)(part) for name, part in it.items())

        return properties


def _never(_: Any) -> bool:
    return False
