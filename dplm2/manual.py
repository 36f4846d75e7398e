"""The manual of every configuration key, written from the schema: ``python -m dplm2.manual > config/README.md``."""

import json
from collections.abc import Iterator, Mapping

from dplm2 import config

INTRODUCTION = """\
# The configuration, key by key

This page is written from the schema that every run is checked against (`python -m dplm2.manual > config/README.md`).
An unknown key, a wrong type or an impossible value stops a run before any job, with the key's path and what is allowed.
`config.yaml` at the top of the repository is the demo; `--configfile FILE` replaces it, `--config key=value` changes a
key of it.
"""


def manual() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for key, child in config.schema()["properties"].items():
        parts.append(f"## `{key}`\n\n{child['description']}{_default(child)}\n")
        named = child.get("additionalProperties")
        target, prefix = (named, f"{key}.<name>") if isinstance(named, Mapping) else (child, key)
        rows = list(_rows(_resolved(target), prefix))
        if rows:
            parts.append("| key | values | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _resolved(node: Mapping) -> Mapping:
    return config.schema(node["$ref"].removesuffix(".json")) if "$ref" in node else node


def _rows(node: Mapping, path: str) -> Iterator[str]:
    for key, child in node.get("properties", {}).items():
        place = f"{path}.{key}"
        inner = _resolved(child)
        default = f"`{json.dumps(child['default'])}`" if "default" in child else ""
        if key in node.get("required", ()):
            default = "required"
        meaning = child.get("description") or inner.get("description", "")
        yield f"| `{place}` | {_values(inner)} | {default} | {meaning} |".replace("\n", " ")
        yield from _rows(inner, place)


def _values(node: Mapping) -> str:
    if "enum" in node:
        return ", ".join(f"`{json.dumps(value)}`" for value in node["enum"])
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    for branch in ("oneOf", "anyOf"):
        if branch in node and "properties" not in node:
            return " or ".join(_values(option) for option in node[branch])
    kinds = node.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    bounds = [
        f"{sign} {node[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in node
    ]
    return f"{text} {', '.join(bounds)}".strip()


def _default(node: Mapping) -> str:
    return f" Default: `{json.dumps(node['default'])}`." if node.get("default") not in (None, {}) else ""


if __name__ == "__main__":
    print(manual(), end="")
