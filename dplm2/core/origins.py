"""Which commit of each hub repository this process has used; every `run.json` that it writes says so."""

_commits: dict[str, str] = {}


def note(repository: str, commit: str) -> None:
    """Note that a repository was used, at this commit."""
    _commits[repository] = commit


def noted() -> dict[str, str]:
    """The repositories used so far, with their commits."""
    return dict(sorted(_commits.items()))
