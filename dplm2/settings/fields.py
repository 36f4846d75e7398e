"""Declaration of settings: meaning, bounds, default, and effect.

A section of the configuration is one subclass of `Section`. Its fields are declared with one of three functions, from
which everything else is derived: the JSON Schema, ``config/README.md``, error messages, the ``params`` and
``resources`` of the workflow's rules, and the fingerprints of resumable state.

- `decides`: the value can change the result of a stage.
- `operates`: the value affects only how the work is done or monitored. It never triggers a rerun.
- `refers`: the value names another section, or files. Their content decides, not their name or location.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from dplm2.settings.mistakes import CONTRADICTION, HINTS, LENIENT, ROOT, validated
from dplm2.settings.spelling import plain_value

Role = Literal["decides", "operates", "refers"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def text_like(pattern: str, hint: str) -> Any:
    """The type of text that matches a pattern; ``hint`` completes the sentence "must be ..."."""
    HINTS[pattern] = hint
    return Annotated[str, StringConstraints(pattern=pattern)]


Name = Annotated[str, StringConstraints(pattern=NAME)]
Text = Annotated[str, StringConstraints(min_length=1)]
Day = text_like(r"^\d{4}-\d{2}-\d{2}$", "a day, YYYY-MM-DD")
Address = text_like(r"^https?://.*\{id\}", "an address (http or https) with {id} for the entry")


@dataclass(frozen=True)
class Meaning:
    """The part of a field's declaration in addition to type and bounds.

    Attributes
    ----------
    role
        Whether the value decides a result, operates the run, or refers to content that decides.
    readers
        The stages or tasks that read the field; None: all that read its section.
    files
        For a field that refers to files: patterns of the relevant files in a folder.
    hub
        Whether the value may also be a name other than a path, such as a hub id, which then decides.
    obtain
        How to get files that are missing.
    """

    role: Role
    readers: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    hub: bool = False
    obtain: str = ""


def decides(default: Any, text: str, *, readers: Iterable[str] | None = None, **bounds: Any) -> Any:
    """Declare a field whose value can change a result."""
    return _declared(default, text, Meaning("decides", None if readers is None else tuple(readers)), bounds)


def operates(default: Any, text: str, *, readers: Iterable[str] | None = None, **bounds: Any) -> Any:
    """Declare a field that affects only how the work is done, and never triggers a rerun."""
    return _declared(default, text, Meaning("operates", None if readers is None else tuple(readers)), bounds)


def refers(
    default: Any,
    text: str,
    *,
    files: Iterable[str] = (),
    hub: bool = False,
    obtain: str = "",
    readers: Iterable[str] | None = None,
    **bounds: Any,
) -> Any:
    """Declare a field that names another section (no ``files``) or files, whose content decides."""
    meaning = Meaning("refers", None if readers is None else tuple(readers), tuple(files), hub, obtain)
    return _declared(default, text, meaning, bounds)


def section(text: str, *, readers: Iterable[str] | None = None) -> Any:
    """Declare a section within a section; each of its fields has its own role. If omitted, its defaults are used."""
    return _declared(
        {}, text, Meaning("decides", None if readers is None else tuple(readers)), {"validate_default": True}
    )


def _declared(default: Any, text: str, meaning: Meaning, bounds: Mapping[str, Any]) -> Any:
    return Field(default, description=text, json_schema_extra=_Extra(meaning), **bounds)


class _Extra(dict):
    """The meaning of a field as pydantic metadata; it appears in the JSON Schema as ``role``."""

    def __init__(self, meaning: Meaning) -> None:
        super().__init__(role=meaning.role)
        self.meaning = meaning


def meaning_of(info: FieldInfo) -> Meaning:
    """The declared meaning of a field."""
    return info.json_schema_extra.meaning


class Section(BaseModel):
    """One section of the configuration: frozen, without unknown keys, and internally consistent."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def make(cls, **values: Any) -> Self:
        """A section with ``values``; other keys have their defaults.

        Raises
        ------
        ConfigError
            Lists all wrong keys with the allowed values.
        """
        return validated(cls, values)

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Self:
        """A section recorded by an artifact; keys without effect are accepted.

        Raises
        ------
        ConfigError
            Names each wrong key.
        """
        return validated(cls, values, lenient=True)

    def contradictions(self) -> Iterator[str]:
        """Yield one line, ``key: what is wrong``, for each contradiction within the section."""
        return iter(())

    def idle(self) -> Iterator[str]:
        """Yield one line for each key that is set but has no effect given the others."""
        return iter(())

    def unresolved(self) -> Iterator[str]:
        """Yield one line for each undefined reference; not called for the settings of a single stage."""
        return iter(())

    def without_effect(self, reader: str) -> set[str]:
        """Fields that ``reader`` reads only under a condition that is not met."""
        return set()

    def replaced(self, **values: Any) -> Self:
        """A copy with some fields replaced, checked for contradictions.

        Keys without effect are accepted, since a recorded section may contain some.
        """
        return validated(type(self), {**dict(self), **values}, lenient=True)

    def differs(self, key: str) -> bool:
        """Whether a field differs from its default."""
        value = getattr(self, key)
        default = type(self).model_fields[key].get_default()
        return value != (type(value)() if isinstance(value, Section) and default == {} else default)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        return plain_value(value, cls.model_fields[info.field_name].annotation)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        context = info.context or {}
        if context.get(ROOT) not in (None, type(self)):
            return self
        found = list(self.contradictions())
        if not context.get(LENIENT):
            found += [*self.idle(), *self.unresolved()]
        if found:
            raise PydanticCustomError(CONTRADICTION, "{lines}", {"lines": "\n".join(found)})
        return self
