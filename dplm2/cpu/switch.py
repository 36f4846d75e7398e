"""The switch between the lean and the plain form of arithmetic on CPUs."""

import os

from dplm2.core.errors import ConfigError

VARIABLE = "DPLM2_CPU"


def choice(variable: str, allowed: tuple[str, ...]) -> str:
    """The value of an environment variable; by default the first allowed one.

    Raises
    ------
    ConfigError
        If it has another value.
    """
    value = os.environ.get(variable, allowed[0])
    if value not in allowed:
        raise ConfigError(f"{variable}: {value!r} is not one of {', '.join(allowed)}")
    return value


def is_lean() -> bool:
    """Whether CPUs use the lean form (the default) or, with ``DPLM2_CPU=plain``, the plain one; read at each call."""
    return choice(VARIABLE, ("lean", "plain")) == "lean"
