"""Errors that a user can act on: printed as one line, without a traceback."""


class DPLM2Error(Exception):
    """A problem with the input or the machine: what, where, and what to do. The command exits with status 1."""


class ConfigError(DPLM2Error):
    """The configuration or the command line is wrong; the message names the key. The command exits with status 2."""


class Preempted(DPLM2Error):
    """The work was stopped (by a signal or a time limit) and has saved its state; running it again resumes from there.

    The command exits with status 75, sysexits' "temporary failure; try again".
    """

    EXIT_STATUS = 75
