"""The switch between the lean and the plain form of the arithmetic on processors."""

import os

from dplm2.core.errors import ConfigError

VARIABLE = "DPLM2_CPU"


def choice(variable: str, allowed: tuple[str, ...]) -> str:
    """The value of an environment variable; the first allowed one if it is not set.

    Raises
    ------
    ConfigError
        If it is set to anything else.
    """
    value = os.environ.get(variable, allowed[0])
    if value not in allowed:
        raise ConfigError(f"{variable}: {value!r} is not one of {', '.join(allowed)}")
    return value


def is_lean() -> bool:
    """Whether processors compute in the lean form (the default) or, with ``DPLM2_CPU=plain``, in the plain one.

    A language model takes its layers in one form or the other when it is made; everything else asks at each call.
    """
    return choice(VARIABLE, ("lean", "plain")) == "lean"
