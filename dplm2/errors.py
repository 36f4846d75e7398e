"""Errors that a user can act on: printed as one line, without a traceback."""


class DPLM2Error(Exception):
    """Something is wrong with the input or the machine: what, where, and what to do. The command exits with 1."""


class ConfigError(DPLM2Error):
    """The configuration or the command line is wrong; the message names the key. The command exits with 2."""
