"""Errors that a user can act on: printed as one line, without a traceback."""


class DPLM2Error(Exception):
    """Something is wrong with the input or the machine: what, where, and what to do. The command exits with 1."""


class ConfigError(DPLM2Error):
    """The configuration or the command line is wrong; the message names the key. The command exits with 2."""


class Preempted(DPLM2Error):
    """The work was told to stop (a signal, a time limit) and has saved its state; running it again goes on from there.

    The command exits with 75, sysexits' "temporary failure; try again".
    """

    EXIT_STATUS = 75
