"""Roles of a section's values: deciding a result, only operating the run, or naming files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dplm2.settings.fields import Meaning, Role, Section, meaning_of


def deciding(part: Section, reader: str | None = None) -> dict[str, Any]:
    """The values of a section that can change a result, as plain JSON values, including nested sections.

    Parameters
    ----------
    part
        The section.
    reader
        The stage or task that reads it; fields that only others read are omitted. None: all fields.
    """
    return _selected(part, reader, "decides")


def operating(part: Section, reader: str | None = None) -> dict[str, Any]:
    """The other non-default values of a section: how the work is done, and names of its inputs.

    Parameters
    ----------
    part, reader
        See `deciding`.
    """
    return _selected(part, reader, "operates")


def _selected(part: Section, reader: str | None, wanted: Role) -> dict[str, Any]:
    values = {}
    for key, meaning, value in fields_read(part, reader):
        if isinstance(value, Section):
            inner = _selected(value, reader, wanted)
            if inner or wanted == "decides":
                values[key] = inner
        elif _role_of(meaning, value) == wanted and (wanted == "decides" or part.differs(key)):
            values[key] = plain(value)
    return values


def fields_read(part: Section, reader: str | None) -> Iterator[tuple[str, Meaning, Any]]:
    """Name, meaning and value of each field that is read."""
    idle = part.without_effect(reader) if reader is not None else set()
    for key, info in type(part).model_fields.items():
        meaning = meaning_of(info)
        read = reader is None or meaning.readers is None or reader in meaning.readers
        if read and key not in idle:
            yield key, meaning, getattr(part, key)


def _role_of(meaning: Meaning, value: Any) -> Role:
    """Role of a value; a name that is not a file decides by itself, files decide by their content."""
    if meaning.role != "refers":
        return meaning.role
    return "decides" if meaning.hub and isinstance(value, str) and not Path(value).exists() else "operates"


def plain(value: Any) -> Any:
    """A value of a section as a plain JSON value."""
    if isinstance(value, Section):
        return {key: plain(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class FileReference:
    """Files named by a setting: path of the key, path of the file, declared meaning."""

    place: str
    path: str
    meaning: Meaning = field(repr=False)


def files_named(part: Section, reader: str | None = None, place: str = "") -> Iterator[FileReference]:
    """The files and folders named by a section, including nested sections; without hub ids."""
    for key, meaning, value in fields_read(part, reader):
        here = f"{place}.{key}" if place else key
        if isinstance(value, Section):
            yield from files_named(value, reader, here)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, Section):
                    yield from files_named(inner, reader, f"{here}.{name}")
        elif meaning.files and value is not None:
            for path in [value] if isinstance(value, str) else value:
                if not meaning.hub or Path(path).exists() or looks_like_path(path):
                    yield FileReference(here, path, meaning)


def looks_like_path(text: str) -> bool:
    """Whether a text can only be a path, not a hub id (``owner/name``) or the name of released weights."""
    return (
        text.startswith((".", "/", "~")) or text.count("/") > 1 or Path(text).suffix in (".pt", ".safetensors", ".ckpt")
    )
