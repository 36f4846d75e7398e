"""Folders of models and tokenizers, by path or by the name of a repository on the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path

from dplm2.core.errors import DPLM2Error


def local_folder(source: str | os.PathLike, patterns: Sequence[str]) -> Path:
    """``source`` itself if it is a folder, else the local copy of the hub repository of that name.

    Parameters
    ----------
    source
        Folder, or ``owner/name`` on the hub.
    patterns
        Patterns of the files to get from a repository.

    Raises
    ------
    DPLM2Error
        If neither exists.
    """
    if Path(source).is_dir():
        return Path(source)
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise DPLM2Error(f"{source}: no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DPLM2Error(f"{source}: neither a folder nor an accessible Hugging Face repository ({reason})") from error
