"""Names of proteins: unique in tables, safe and short in file names."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

LONGEST_FILE_NAME = 140  # file systems allow 255 bytes; numbers and endings follow
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")
_DIGEST = 8


def numbered(names: Sequence[str]) -> list[str]:
    """``names`` with ``-2``, ``-3``, ... appended to the second, third, ... of equal ones."""
    taken, times, result = set(names), Counter(), []
    for name in names:
        times[name] += 1
        unique = name
        while times[name] > 1 and (unique := f"{name}-{times[name]}") in taken:
            times[name] += 1
        taken.add(unique)
        result.append(unique)
    return result


def file_names(names: Sequence[str]) -> list[str]:
    """A file name without extension for each distinct name: safe, short, and unique even if case is ignored.

    Characters other than letters, digits and ``. _ + -`` become ``_``. A name that is shortened, or that coincides with
    another one, gets part of its hash, so that file names do not depend on the order.
    """
    safe = [_UNSAFE.sub("_", name).strip(".") or "_" for name in names]
    times = Counter(name.casefold() for name in safe)
    exact = Counter(own.casefold() for name, own in zip(names, safe, strict=True) if name == own)
    taken: set[str] = set()
    result = []
    for name, own in zip(names, safe, strict=True):
        alone = times[own.casefold()] == 1 or (name == own and exact[own.casefold()] == 1)
        chosen = own if alone and len(own) <= LONGEST_FILE_NAME else _with_hash(name, own)
        attempt = 0
        while chosen.casefold() in taken:
            attempt += 1
            chosen = _with_hash(f"{name}\t{attempt}", own)
        taken.add(chosen.casefold())
        result.append(chosen)
    return result


def _with_hash(name: str, safe: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:_DIGEST]
    return f"{safe[: LONGEST_FILE_NAME - _DIGEST - 1]}-{digest}"
