"""Command line of this stage."""


def register(subparsers) -> None:
    """Add this stage's subcommands."""
