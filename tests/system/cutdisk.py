"""A disk with a volatile write cache whose power can be cut, and whose writes can be made to fail.

    ext4  ->  loop device  ->  a file served by us over /dev/fuse  ->  memory

What the filesystem writes lies in the cache until it asks for a flush (fsync of the file, which is
what the loop device makes of it).  A cut keeps all that was flushed, and of the rest any part: each
block of 4 KiB may be there or not, in whatever order they were written.

The file is the root of its own FUSE mount, so half a dozen requests of the protocol are enough:
https://www.kernel.org/doc/html/latest/filesystems/fuse.html, linux/fuse.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest

BLOCK = 4096
_MAX_WRITE = 1 << 20
_IN = struct.Struct("<IIQQIIIHH")  # len, opcode, unique, node, uid, gid, pid, extensions
_OUT = struct.Struct("<IiQ")  # len, -errno, unique
_RW = struct.Struct("<QQIIQII")  # handle, offset, size, flags, lock owner, flags
_ATTR = struct.Struct("<QII QQQQQQ IIIIIIIIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI7I")
_OPEN_OUT = struct.Struct("<QII")
_GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _RELEASE = 3, 4, 14, 15, 16, 18
_FSYNC, _FLUSH, _INIT, _FORGET, _INTERRUPT, _DESTROY = 20, 25, 26, 2, 36, 38
_FOPEN_DIRECT_IO = 1
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22


class CutDisk:
    """`content` is what it holds at first."""

    def __init__(self, content: bytes) -> None:
        self.fails: Callable[[bytes], bool] = lambda data: False
        """Whether a write of this data is answered with EIO, and not done."""
        self.failed = 0
        self._seen = bytearray(content)
        self._flushed = bytearray(content)
        self._cache: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()

    def cut(self, chance: random.Random) -> bytes:
        """What a power cut at this moment leaves."""
        with self._lock:
            image, cache = bytearray(self._flushed), list(self._cache)
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for offset, data in cache:
            for at in range(0, len(data), BLOCK):
                if chance.random() < share:
                    piece = data[at : at + BLOCK]
                    image[offset + at : offset + at + len(piece)] = piece
        return bytes(image)

    def serve(self, device: int) -> None:
        """Answer the kernel's requests until the mount ends; owns the descriptor."""
        try:
            while True:
                try:
                    request = os.read(device, _MAX_WRITE + BLOCK)
                except InterruptedError:
                    continue
                except OSError:
                    return  # ENODEV: unmounted
                self._answer(device, request)
        finally:
            os.close(device)  # whoever waits for us gets an error instead

    def _answer(self, device: int, request: bytes) -> None:
        _, code, unique, *_ = _IN.unpack_from(request)
        if code in (_FORGET, _INTERRUPT):
            return
        failure, body = 0, b""
        try:
            body = self._carry_out(code, request[_IN.size :])
        except OSError as error:
            failure = error.errno or errno.EIO
        with contextlib.suppress(OSError):  # ENOENT: nobody waits for it any more
            os.write(device, _OUT.pack(_OUT.size + len(body), -failure, unique) + body)

    def _carry_out(self, code: int, body: bytes) -> bytes:
        if code == _INIT:
            flags = struct.unpack_from("<IIII", body)[3] & (_BIG_WRITES | _MAX_PAGES)
            pages = _MAX_WRITE // BLOCK
            return _INIT_OUT.pack(7, 31, 0, flags, 16, 12, _MAX_WRITE, 1, pages, *[0] * 9)
        if code in (_GETATTR, _SETATTR):
            size, mode = len(self._seen), stat.S_IFREG | 0o600
            return _ATTR.pack(
                3600, 0, 0, 1, size, size // 512, *[0] * 6, mode, 1, *[0] * 3, BLOCK, 0
            )
        if code == _OPEN:
            return _OPEN_OUT.pack(0, _FOPEN_DIRECT_IO, 0)
        if code == _READ:
            _, offset, size, *_ = _RW.unpack_from(body)
            return bytes(self._seen[offset : offset + size])
        if code == _WRITE:
            _, offset, size, *_ = _RW.unpack_from(body)
            self._write(offset, body[_RW.size : _RW.size + size])
            return struct.pack("<II", size, 0)
        if code == _FSYNC:
            self._flush()
        elif code not in (_FLUSH, _RELEASE, _DESTROY):
            raise OSError(errno.ENOSYS, "")
        return b""

    def _write(self, offset: int, data: bytes) -> None:
        with self._lock:
            if self.fails(data):
                self.failed += 1
                raise OSError(errno.EIO, "")
            self._seen[offset : offset + len(data)] = data
            self._cache.append((offset, data))

    def _flush(self) -> None:
        with self._lock:
            for offset, data in self._cache:
                self._flushed[offset : offset + len(data)] = data
            self._cache.clear()


@contextlib.contextmanager
def cut_disk(at: Path, size: int) -> Iterator[CutDisk]:
    """An ext4 of `size` bytes on such a disk, mounted at `at`.  Skips where that cannot be."""
    mounts.need("mkfs.ext4", "losetup")
    file = at.with_name(f"{at.name}.disk")
    mounts.make_ext4(file, size, "-E", "lazy_itable_init=0,lazy_journal_init=0")
    disk = CutDisk(file.read_bytes())
    file.write_bytes(b"")
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/fuse: {error.strerror}")
    options = f"fd={device},rootmode=100600,user_id=0,group_id=0"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "cutdisk", file]
    done = subprocess.run(command, pass_fds=(device,), capture_output=True, text=True, timeout=60)
    if done.returncode:
        os.close(device)
        pytest.skip(f"mount -t fuse: {done.stderr.strip()}")
    thread = threading.Thread(target=disk.serve, args=(device,), daemon=True)
    thread.start()
    try:
        with mounts.mounted(at, "-t", "ext4", "-o", "loop", file):
            yield disk
    finally:
        if mounts.call("umount", file).returncode:
            mounts.call("umount", "--lazy", file)
        thread.join(20)
        file.unlink()


@contextlib.contextmanager
def after_cut(image: bytes, at: Path) -> Iterator[Path]:
    """What is found when the machine is up again: the image mounted, its journal replayed."""
    file = at.with_name(f"{at.name}.img")
    file.write_bytes(image)
    try:
        with mounts.mounted(at, "-t", "ext4", "-o", "loop", file):
            yield at
    finally:
        file.unlink()
