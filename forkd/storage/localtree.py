"""The confined tree: an account's visible files, and the staging folder beside them.

Rules
  1. Every path is resolved by openat2 beneath the account's folder, its last name handled by a
     dirfd call: nothing outside can be reached, whatever links a race puts in the way.
  2. A file gets its name by renameat2 out of the staging folder, complete.  Where the name was
     taken, the two are exchanged: readers see the old file or the new one, and the old one lies in
     staging, where its size is known exactly.
  3. A file loses its name by a rename into the staging folder.
  4. Nothing here knows quotas: charged.py pays for every change.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from forkd import folders, syscalls
from forkd.errors import Refusal, from_oserror
from forkd.storage.names import show, to_text
from forkd.storage.spoken import entry_of, joined, node_of, refuse_folder, rename, told
from forkd.storage.tree import Node, OpenFile, Parts
from forkd.verbs import Entry

FILE_MODE = 0o666  # less the umask
FOLDER_MODE = 0o777
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_LIST_SLICE = 512


class LocalTree:
    """See Tree."""

    def __init__(self, root_fd: int, staging_fd: int, above: tuple[str, ...]) -> None:
        """`above` are the paths of the folders that hold the account's, and those above them."""
        self.root_fd = root_fd
        self.staging_fd = staging_fd
        self._above = above

    def close(self) -> None:
        os.close(self.root_fd)
        os.close(self.staging_fd)

    def flush_above(self) -> None:
        for path in self._above:
            folders.flush(path)

    def open_read(self, parts: Parts) -> OpenFile:
        try:
            fd = syscalls.open_beneath(self.root_fd, joined(parts), _READ)
        except OSError as error:
            raise from_oserror(error, show(parts)) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            if stat.S_ISDIR(status.st_mode):
                raise Refusal("is-a-folder", f"{show(parts)!r} is a folder")
            raise Refusal("not-a-file", f"{show(parts)!r} is not a file")
        return OpenFile(fd, status.st_size, status.st_mtime)

    def stat(self, parts: Parts) -> Entry:
        with told(parts):
            fd = syscalls.open_beneath(self.root_fd, joined(parts), os.O_PATH)
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
        return entry_of(to_text(parts[-1]) if parts else "", status)

    def find(self, parts: Parts) -> Entry | None:
        with told(parts), self._parent(parts) as folder:
            try:
                status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return None
        if not stat.S_ISLNK(status.st_mode):
            return entry_of(to_text(parts[-1]), status)
        try:
            return self.stat(parts)
        except Refusal as refusal:
            if refusal.code != "not-found":
                raise
            return None

    def stat_here(self, parts: Parts) -> Entry:
        return self.identify(parts)[1]

    def identify(self, parts: Parts) -> tuple[int, Entry]:
        with told(parts), self._parent(parts) as folder:
            status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        return status.st_ino, entry_of(to_text(parts[-1]), status)

    def scan(self, parts: Parts) -> Iterator[list[Node]]:
        with told(parts):
            fd = syscalls.open_beneath(self.root_fd, joined(parts), OPEN_FOLDER)
        try:
            with told(parts), os.scandir(fd) as entries:
                part: list[Node] = []
                for found in entries:
                    node = self._scanned(parts, found)
                    if node is not None:
                        part.append(node)
                    if len(part) == _LIST_SLICE:
                        yield part
                        part = []
                yield part
        finally:
            os.close(fd)

    def _scanned(self, parts: Parts, found: os.DirEntry[str]) -> Node | None:
        name = os.fsencode(found.name)
        try:
            if found.is_symlink():
                try:
                    return self.look((*parts, name))
                except Refusal:
                    pass  # it leads nowhere, or out of here
            return node_of(name, found.stat(follow_symlinks=False))
        except FileNotFoundError:
            return None  # removed meanwhile

    def list(self, parts: Parts) -> Iterator[list[Entry]]:
        with told(parts):
            fd = syscalls.open_beneath(self.root_fd, joined(parts), OPEN_FOLDER)
        try:
            with told(parts), os.scandir(fd) as entries:
                part: list[Entry] = []
                for found in entries:
                    try:
                        status = found.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # removed meanwhile
                    part.append(entry_of(to_text(os.fsencode(found.name)), status))
                    if len(part) == _LIST_SLICE:
                        yield part
                        part = []
                yield part
        finally:
            os.close(fd)

    def look(self, parts: Parts) -> Node:
        try:
            fd = syscalls.open_beneath(self.root_fd, joined(parts), os.O_PATH)
        except OSError as error:
            raise from_oserror(error, show(parts)) from error
        try:
            return node_of(parts[-1] if parts else b"", os.fstat(fd))
        finally:
            os.close(fd)

    def set_mtime(self, parts: Parts, mtime: float) -> None:
        stamp = int(mtime * 1_000_000_000)
        with self._opened(parts) as fd:
            os.utime(fd, ns=(stamp, stamp))

    def set_mode(self, parts: Parts, mode: int) -> None:
        with self._opened(parts) as fd:
            own = 0o700 if stat.S_ISDIR(os.fstat(fd).st_mode) else 0o600
            os.fchmod(fd, mode & 0o777 | own)

    @contextmanager
    def _opened(self, parts: Parts) -> Iterator[int]:
        """A file or folder, open for changes of what is known of it."""
        with told(parts):
            fd = syscalls.open_beneath(self.root_fd, joined(parts), _READ)
            try:
                kind = stat.S_IFMT(os.fstat(fd).st_mode)
                if kind not in (stat.S_IFREG, stat.S_IFDIR):
                    raise Refusal("not-a-file", f"{show(parts)!r} is not a file")
                yield fd
            except OverflowError:
                raise Refusal("bad-request", "the storage cannot keep such a time") from None
            finally:
                os.close(fd)

    def free_bytes(self) -> int:
        with told(()):
            disk = os.fstatvfs(self.root_fd)
        return disk.f_bavail * disk.f_frsize

    def make_folder(self, parts: Parts, parents: bool) -> None:
        if parents:
            os.close(self.open_folder(parts, parents=True))
            return
        with told(parts), self._parent(parts) as folder:
            os.mkdir(parts[-1], FOLDER_MODE, dir_fd=folder)

    def open_folder(self, parts: Parts, parents: bool) -> int:
        with told(parts):
            try:
                return syscalls.open_beneath(self.root_fd, joined(parts), OPEN_FOLDER)
            except FileNotFoundError:
                if not parents:
                    raise
            return self._make_parents(parts)

    def _make_parents(self, parts: Parts) -> int:
        """Make what is missing, from the top; each level is opened beneath the root again."""
        for depth in range(1, len(parts) + 1):
            above = syscalls.open_beneath(self.root_fd, joined(parts[: depth - 1]), OPEN_FOLDER)
            try:
                os.mkdir(parts[depth - 1], FOLDER_MODE, dir_fd=above)
            except FileExistsError:
                pass
            finally:
                os.close(above)
        return syscalls.open_beneath(self.root_fd, joined(parts), OPEN_FOLDER)

    def put_in(self, ident: bytes, folder: int, name: bytes, replace: bool) -> int | None:
        while True:
            try:
                rename(self.staging_fd, ident, folder, name, syscalls.RENAME_NOREPLACE)
                return None
            except FileExistsError as error:
                if not replace:
                    raise from_oserror(error, show((name,))) from error
            except OSError as error:
                raise from_oserror(error, show((name,))) from error
            with told((name,)):
                try:
                    return self._exchange(ident, folder, name)
                except FileNotFoundError:
                    continue  # removed meanwhile: the name is free now

    def _exchange(self, ident: bytes, folder: int, name: bytes) -> int:
        refuse_folder(os.stat(name, dir_fd=folder, follow_symlinks=False), name)
        rename(self.staging_fd, ident, folder, name, syscalls.RENAME_EXCHANGE)
        old = os.stat(ident, dir_fd=self.staging_fd, follow_symlinks=False)
        if stat.S_ISDIR(old.st_mode):  # a folder took the name between the two calls
            rename(self.staging_fd, ident, folder, name, syscalls.RENAME_EXCHANGE)
            refuse_folder(old, name)
        return old.st_size if stat.S_ISREG(old.st_mode) else 0

    def take_out(self, parts: Parts, ident: bytes) -> int:
        with told(parts), self._parent(parts) as folder:
            name = parts[-1]
            refuse_folder(os.stat(name, dir_fd=folder, follow_symlinks=False), name)
            rename(folder, name, self.staging_fd, ident, syscalls.RENAME_NOREPLACE)
            taken = os.stat(ident, dir_fd=self.staging_fd, follow_symlinks=False)
            if stat.S_ISDIR(taken.st_mode):
                rename(self.staging_fd, ident, folder, name, syscalls.RENAME_NOREPLACE)
                refuse_folder(taken, name)
            return taken.st_size if stat.S_ISREG(taken.st_mode) else 0

    def move(self, parts: Parts, to: Parts, replace: bool, ident: bytes) -> int | None:
        if to[: len(parts)] == parts:
            raise Refusal("bad-name", f"{show(parts)!r} cannot be moved into itself")
        with told(parts), self._parent(parts) as source, told(to), self._parent(to) as target:
            try:
                rename(source, parts[-1], target, to[-1], syscalls.RENAME_NOREPLACE)
                return None
            except FileExistsError:
                if not replace:
                    raise
            except FileNotFoundError:
                raise Refusal("not-found", f"there is no {show(parts)!r}") from None
            refuse_folder(os.stat(parts[-1], dir_fd=source, follow_symlinks=False), parts[-1])
            old = os.stat(to[-1], dir_fd=target, follow_symlinks=False)
            refuse_folder(old, to[-1])
            rename(source, parts[-1], target, to[-1], syscalls.RENAME_EXCHANGE)
            return self._take_exchanged(source, parts[-1], old, ident)

    def _take_exchanged(self, folder: int, name: bytes, old: os.stat_result, ident: bytes) -> int:
        """Stage the replaced file, but no other that was given the name meanwhile."""
        try:
            if not os.path.samestat(old, os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return 0
            rename(folder, name, self.staging_fd, ident, syscalls.RENAME_NOREPLACE)
        except FileNotFoundError:
            return 0
        taken = os.stat(ident, dir_fd=self.staging_fd, follow_symlinks=False)
        if not os.path.samestat(old, taken):
            try:
                rename(self.staging_fd, ident, folder, name, syscalls.RENAME_NOREPLACE)
            except FileExistsError:
                pass  # it was replaced once more: nobody misses it
            else:
                return 0
        return taken.st_size if stat.S_ISREG(taken.st_mode) else 0

    def remove_folder(self, parts: Parts) -> None:
        with told(parts), self._parent(parts) as folder:
            os.rmdir(parts[-1], dir_fd=folder)

    @contextmanager
    def _parent(self, parts: Parts) -> Iterator[int]:
        if len(parts) == 1:
            yield self.root_fd
            return
        above = parts[:-1]
        with told(above):
            fd = syscalls.open_beneath(self.root_fd, joined(above), os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)
