"""The files that are moved: made once of random bytes, and compared with what arrived."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.moves import GIB, SMALL_SIZE, Move, Scale
from bench.processes import BenchError

_SAMPLE = 4 << 20
_SAMPLED_FILES = 20
_PIECE = 64 << 20


class Source:
    """`big`, `part` (an eighth of it), `one` and the folder `small`, below `folder`."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.big, self.part = folder / "big", folder / "part"
        self.one, self.small = folder / "one", folder / "small"
        self.names = [f"{number:05d}" for number in range(scale.small)]
        self.small.mkdir(parents=True)
        _random_file(self.big, scale.big)
        _random_file(self.part, scale.big // 8)
        _random_file(self.one, SMALL_SIZE)
        for name in self.names:
            _random_file(self.small / name, SMALL_SIZE)

    def of(self, move: Move) -> Path:
        """The file or folder that each stream of a move moves."""
        if move.files > 1:
            return self.small
        if not move.large:
            return self.one
        return self.part if move.streams > 1 else self.big

    def serve_from(self, folder: Path) -> None:
        """Have a server find all of it in `folder`: links, so that the page cache has it once."""
        shutil.copytree(self.folder, folder, copy_function=os.link, dirs_exist_ok=True)

    def warm(self) -> None:
        """Read all of it once."""
        for path in (self.big, self.part):
            with path.open("rb") as file:
                while file.read(_PIECE):
                    pass


def refresh_memory(folder: Path, size: int) -> None:
    """Write a file of `size` bytes and drop it: what is written next gets the memory it had.

    The host of a virtual machine takes back what is free for some seconds, and who writes then
    waits until there is memory again.
    """
    piece = bytes(1 << 20)  # as large as any server's, so that pages of all orders are used
    fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o600)
    try:
        for _ in range(0, size, len(piece)):
            os.write(fd, piece)
    finally:
        os.close(fd)


def _random_file(path: Path, size: int) -> None:
    assert size <= GIB
    with path.open("wb") as file:
        while size:
            file.write(os.urandom(min(size, _PIECE)))
            size -= min(size, _PIECE)


def must_equal(arrived: Path, source: Path, names: Sequence[str] = ()) -> None:
    """A file: its size, and the SHA-256 of its beginning, its end and a piece in between.
    A folder: all names, or those that are given, and some of the files.  Raises BenchError."""
    if source.is_dir():
        names = sorted(names or os.listdir(source))
        if not arrived.is_dir() or sorted(os.listdir(arrived)) != names:
            raise BenchError(f"{arrived} has not the files of {source}")
        sizes = {os.stat(arrived / name).st_size for name in names}
        if sizes != {SMALL_SIZE}:
            raise BenchError(f"{arrived} has files of {sizes} bytes")
        for name in random.sample(names, min(_SAMPLED_FILES, len(names))):
            must_equal(arrived / name, source / name)
        return
    size = source.stat().st_size
    if not arrived.is_file() or arrived.stat().st_size != size:
        raise BenchError(f"{arrived} has not the {size} bytes of {source}")
    last = max(0, size - _SAMPLE)
    for offset in {0, random.randint(0, last), last}:
        if digest(arrived, offset) != digest(source, offset):
            raise BenchError(f"{arrived} differs from {source} after byte {offset}")


def digest(path: Path, offset: int, size: int = _SAMPLE) -> str:
    """SHA-256 of a piece of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(size)).hexdigest()


def clear(folder: Path, attic: Path) -> None:
    """Empty a folder, and make it where it is missing: files are removed, folders moved away.

    ext4 makes files slowly for a minute after many were removed (it does not use their inodes again
    so soon and looks at each), so thousands of small files must stay until the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    attic.mkdir(exist_ok=True)
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            entry.rename(attic / str(len(os.listdir(attic))))
        else:
            entry.unlink()
