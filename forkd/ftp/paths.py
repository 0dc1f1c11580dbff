"""Paths as FTP writes them: absolute or from the working folder, with '.' and '..'.

They are resolved by their text: '..' takes the name before away, and there is nothing above the
account's folder.  Whether a name may exist is for the storage to say.
"""

from __future__ import annotations

Parts = tuple[bytes, ...]


def resolve(here: Parts, path: bytes) -> Parts:
    """The parts of `path` as seen from the folder `here`; () is the account's folder."""
    parts = [] if path.startswith(b"/") else list(here)
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


def show(parts: Parts) -> bytes:
    """A path with a leading slash."""
    return b"/" + b"/".join(parts)
