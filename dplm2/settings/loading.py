"""Reading a configuration: files and JSON texts, combined."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dplm2.core.errors import ConfigError
from dplm2.settings.configuration import Configuration
from dplm2.settings.mistakes import validated

MAX_BYTES = 4 << 20
MAX_DEPTH = 40
BASE = "base"  # key for the file that this one builds on
MAX_BASES = 5
SECTIONS = (
    "datasets",
    "tokenizers",
    "models",
    "generation",
    "representations",
    "proteingym",
)  # sections of named entries
UNNAMED = "config"  # a file of this name has none of its own
STAGE = "stage"  # marks the settings of one stage, which were checked as part of the whole configuration

Source = str | os.PathLike | Mapping


def load(source: Source | Iterable[Source], files: Iterable[str | os.PathLike] = ()) -> Configuration:
    """Read and check a configuration.

    Parameters
    ----------
    source
        Path of a YAML or JSON file, or a JSON text (starting with ``{``), or a mapping; or several, of which later ones
        override earlier ones: mappings are merged key by key, any other value is replaced. Sections may be omitted. A
        file may name another one that it builds on (``base: other.yaml``); ``null`` in place of a dataset, tokenizer,
        model or task removes it.
    files
        The files that a mapping was read from: its base is looked up beside them, and the last one names the report.

    Raises
    ------
    ConfigError
        Lists all wrong keys with the allowed values.
    """
    sources = [source] if isinstance(source, str | os.PathLike | Mapping) else list(source)
    files = [Path(file) for file in files]
    given: dict = {}
    for each in sources:
        given = merged(given, read(each, [file.parent for file in files]))
    given = _titled(given, [*files, *(Path(each) for each in sources if _is_file(each))])
    for kind in SECTIONS:
        if isinstance(given.get(kind), Mapping):
            given[kind] = {name: entry for name, entry in given[kind].items() if entry is not None}
    stage = given.pop(STAGE, None)
    return validated(Configuration, given, lenient=stage is not None)


def _is_file(source: Source) -> bool:
    return not isinstance(source, Mapping) and not str(source).lstrip().startswith("{")


def _titled(given: dict, files: list[Path]) -> dict:
    """The configuration with the name of its last file as the title of the report, unless it has a title."""
    report = given.get("report", {})
    name = files[-1].stem if files else UNNAMED
    if name == UNNAMED or not isinstance(report, Mapping) or report.get("title") is not None:
        return given
    return {**given, "report": {**report, "title": name}}


def merged(lower: Mapping, upper: Mapping) -> dict:
    """``lower`` with the values of ``upper``: mappings are merged key by key, any other value is replaced."""
    result = dict(lower)
    for key, value in upper.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def read(source: Source, folders: Iterable[str | os.PathLike] = (), depth: int = 0) -> dict:
    """The mapping in a file or a text, merged with its base; unchecked but limited in size and depth."""
    folders = [*map(Path, folders)]
    if isinstance(source, Mapping):
        _refuse_deep(source)
        given = dict(source)
    elif not _is_file(source):
        given = parse_yaml(str(source), "the configuration given as text")
    else:
        folders = [Path(source).parent]
        given = parse_yaml(_text_of(Path(source)), str(source))
    base = given.pop(BASE, None)
    if base is None:
        return given
    if depth == MAX_BASES:
        raise ConfigError(f"{BASE}: a chain of more than {MAX_BASES} files")
    return merged(read(_base_file(base, folders), depth=depth + 1), given)


def _base_file(base: Any, folders: list[Path]) -> Path:
    """Path of the base of another file: in the same folder, or in the working directory."""
    for folder in [*folders, Path()]:
        if isinstance(base, str) and (folder / base).is_file():
            return folder / base
    raise ConfigError(f"{BASE}: {base!r}: no such file")


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB, the maximum for a configuration")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def parse_yaml(text: str, name: str) -> dict:
    """A YAML mapping.

    Raises
    ------
    ConfigError
        If the text is not YAML, not a mapping, nested too deeply, or its aliases expand to too many values.
    """
    value = parse_value(text, name)
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    return value


def parse_value(text: str, name: str) -> Any:
    """Any YAML value; errors as of `parse_yaml`."""
    try:
        _refuse_depth(text)
        return yaml.load(text, Loader=_BoundedLoader)  # noqa: S506  (a safe loader, with bounds)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError, TypeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigError(f"{name}: not YAML ({reason[:300]})") from error


def _refuse_deep(values: Any) -> None:
    """Reject deep nesting in values from other sources before any recursion."""
    level, depth = [values], 0
    while level:
        if depth > MAX_DEPTH:
            raise ConfigError(f"the configuration given as text: nested more than {MAX_DEPTH} levels deep")
        inner = (item.values() if isinstance(item, Mapping) else item for item in level)
        level = [value for items in inner for value in items if isinstance(value, Mapping | list | tuple)]
        depth += 1


def _refuse_depth(text: str) -> None:
    """Reject deep nesting before any recursion: composing it would overflow the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")


_SafeLoader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader


class _BoundedLoader(_SafeLoader):
    """A safe loader that rejects deep nesting, repeated keys, and aliases that expand to many nodes."""

    MAX_NODES = 200_000

    def compose_document(self) -> Any:
        """Compose the tree, and count its expanded nodes before constructing anything."""
        return self._counted(super().compose_document())

    def get_single_node(self) -> Any:
        """The root node, counted."""
        node = super().get_single_node()
        return node if node is None else self._counted(node)

    def _counted(self, root: yaml.Node) -> yaml.Node:
        sizes: dict[int, int] = {}
        size = self._size(root, sizes, 0)
        if size > self.MAX_NODES:
            raise yaml.YAMLError(f"aliases expand to {size:,} values; the maximum is {self.MAX_NODES:,}")
        return root

    def _size(self, node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")
        if id(node) not in sizes:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
            sizes[id(node)] = 1 + sum(self._size(child, sizes, depth + 1) for child in children)
            if isinstance(node, yaml.MappingNode):
                self._refuse_repeated_keys(node)
        return sizes[id(node)]

    @staticmethod
    def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} is given twice")
                seen.add(key.value)
