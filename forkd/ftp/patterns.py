"""Wildcards of NLST and LIST: *, ? and [...] in the last name of a path, as mget sends them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

_MAGIC = re.compile(rb"[*?\[]")


def is_pattern(name: bytes) -> bool:
    return _MAGIC.search(name) is not None


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """Tells whether a name fits; hidden names only fit a pattern that begins with a dot."""
    text = translate(pattern.decode("latin-1"))
    fits = re.compile(text).match
    hidden = pattern.startswith(b".")

    def matches(name: bytes) -> bool:
        if name.startswith(b".") and not hidden:
            return False
        return fits(name.decode("latin-1")) is not None

    return matches
