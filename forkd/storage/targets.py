"""Refusing an upload before its first byte for what would refuse it after the last."""

from __future__ import annotations

import os

from forkd.errors import Refusal
from forkd.storage.charged import ChargedTree
from forkd.storage.names import show
from forkd.storage.partials import Staged
from forkd.storage.tree import Parts
from forkd.units import format_bytes


def check_target(files: ChargedTree, parts: Parts, parents: bool, may_replace: bool) -> None:
    """Refuse before the first byte what would be refused after the last.  Raises Refusal."""
    try:
        entry = files.tree.find(parts)
    except Refusal as refusal:
        if refusal.code != "not-found" or not parents:
            raise
        return
    if entry is None:
        return
    if entry.type == "folder":
        raise Refusal("is-a-folder", f"{show(parts)!r} is a folder")
    if not may_replace:
        raise Refusal("exists", f"{show(parts)!r} exists already")


def refuse_full(staged: Staged, size: int) -> None:
    """Refuse before the first byte what the disk cannot hold.  Raises Refusal (no-space)."""
    disk = os.fstatvfs(staged.fd)
    free = disk.f_bavail * disk.f_frsize
    if size - staged.held > free:
        raise Refusal(
            "no-space",
            f"the storage has {format_bytes(free)} free, {format_bytes(size - staged.held)} "
            "are needed; nothing was changed",
        )
