"""What a session sees of an account's files: the seam between the core and a kind of storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from forkd.verbs import Entry

Parts = tuple[bytes, ...]
"""A path below the account's folder, checked by names.py; () is the folder itself."""


class OpenFile(Struct, frozen=True, gc=False):
    """A file open for reading; the owner closes `fd`.  Bytes, seconds since 1970."""

    fd: int
    size: int
    mtime: float


class Node(Struct, frozen=True, gc=False):
    """What is known of an entry: Entry and more.  `type` is file, folder, link or other."""

    name: bytes
    type: str
    size: int
    mtime: float
    mode: int
    device: int
    inode: int


class Tree(Protocol):
    """One account's files.  Every method raises Refusal; parts are checked by names.py."""

    staging_fd: int

    def close(self) -> None: ...

    def flush_above(self) -> None:
        """Bring to the disk that the account has a folder.  Raises OSError, the only one to."""

    def open_read(self, parts: Parts) -> OpenFile: ...

    def stat(self, parts: Parts) -> Entry: ...

    def find(self, parts: Parts) -> Entry | None:
        """Like `stat`; None where the folder is there and has nothing of that name."""

    def stat_here(self, parts: Parts) -> Entry:
        """Like `stat`, of a symbolic link itself."""

    def identify(self, parts: Parts) -> tuple[int, Entry]:
        """Like `stat_here`, with the inode's number."""

    def scan(self, parts: Parts) -> Iterator[list[Node]]:
        """Like `list`, with all that is known; a link is told as what it leads to, if anything."""

    def list(self, parts: Parts) -> Iterator[list[Entry]]:
        """The entries of a folder, in slices."""

    def look(self, parts: Parts) -> Node:
        """Like `stat`, with all that is known."""

    def set_mtime(self, parts: Parts, mtime: float) -> None:
        """Seconds since 1970."""

    def set_mode(self, parts: Parts, mode: int) -> None:
        """Permission bits; those that we need ourselves stay."""

    def free_bytes(self) -> int:
        """What the disk has left for us."""

    def make_folder(self, parts: Parts, parents: bool) -> None: ...

    def open_folder(self, parts: Parts, parents: bool) -> int:
        """A descriptor of the folder, fit for `put_in` and fsync; the caller closes it."""

    def put_in(self, ident: bytes, folder: int, name: bytes, replace: bool) -> int | None:
        """Give the staged object its name; bytes of the old file now staged as `ident`, or None."""

    def take_out(self, parts: Parts, ident: bytes) -> int:
        """Move a file into staging as `ident`; its size in bytes."""

    def move(self, parts: Parts, to: Parts, replace: bool, ident: bytes) -> int | None:
        """Rename; like `put_in`, the replaced file is staged as `ident`."""

    def remove_folder(self, parts: Parts) -> None: ...


class Store(Protocol):
    """The seam: local disk here, shared storage elsewhere."""

    def open_tree(self, account: int, home: str) -> Tree:
        """The tree of an account; its folders are made where they are missing."""
