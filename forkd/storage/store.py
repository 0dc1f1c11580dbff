"""Where accounts' files are kept: local disk, folders and staging on one filesystem.

    <storage>/<home>                 an account's visible files (localtree.py)
    <storage>/.forkd/<account id>/   its staging folder (partials.py)

Staged objects have names that tell what they are: "p..." resumable partials, "s..." the rest of a
process's uploads, "t..." what is being removed.
"""

from __future__ import annotations

import errno
import os

from forkd import folders, syscalls
from forkd.config import Config
from forkd.errors import Refusal, from_oserror
from forkd.storage.localtree import FOLDER_MODE, OPEN_FOLDER, LocalTree

STAGING = ".forkd"


class LocalStore:
    """Accounts' folders and staging on one local filesystem."""

    def __init__(self, path: str) -> None:
        self._path = os.path.normpath(path)

    def open_tree(self, account: int, home: str) -> LocalTree:
        staging = os.path.join(self._path, STAGING, str(account))
        try:
            os.makedirs(staging, 0o700, exist_ok=True)
            root = os.path.join(self._path, home)
            os.makedirs(root, FOLDER_MODE, exist_ok=True)
            root_fd = os.open(root, OPEN_FOLDER | os.O_CLOEXEC)
            try:
                staging_fd = os.open(staging, OPEN_FOLDER | os.O_CLOEXEC)
            except BaseException:
                os.close(root_fd)
                raise
        except OSError as error:
            raise from_oserror(error, "") from error
        tree = LocalTree(root_fd, staging_fd, self._above(root))
        if os.fstat(root_fd).st_dev != os.fstat(staging_fd).st_dev:
            tree.close()
            raise Refusal(
                "io-error",
                "the account's folder lies on another filesystem than the server's storage; "
                "only the administrator can mend this",
            )
        return tree

    def _above(self, root: str) -> tuple[str, ...]:
        """The folders that hold the account's, and those above them in the storage."""
        above = [os.path.join(self._path, STAGING)]
        while root != self._path:
            root = os.path.dirname(root)
            above.append(root)
        return tuple(above)


def prepare(config: Config) -> None:
    """Make the storage folders and see that kernel and filesystem can do what is asked of them.

    Raises OSError; EINVAL where it has no RENAME_EXCHANGE.
    """
    staging = os.path.join(config.storage.path, STAGING)
    folders.make(staging, 0o700)
    folder = _open_beneath_itself(staging)
    probes = [b"probe.%d.%d" % (os.getpid(), i) for i in range(2)]
    try:
        for probe in probes:
            os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder))
        syscalls.rename(folder, probes[0], folder, probes[1], syscalls.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            raise OSError(
                error.errno,
                "its filesystem cannot exchange names (renameat2); use ext4, xfs, btrfs or tmpfs",
            ) from None
        raise
    finally:
        for probe in probes:
            try:
                os.unlink(probe, dir_fd=folder)
            except OSError:
                pass
        os.close(folder)


def _open_beneath_itself(path: str) -> int:
    """A folder, opened by openat2(2): raises OSError with a reason for people where that fails."""
    folder = os.open(path, OPEN_FOLDER | os.O_CLOEXEC)
    try:
        return syscalls.open_beneath(folder, b".", OPEN_FOLDER | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        raise OSError(
            error.errno,
            "there is no openat2(2), which keeps paths within an account: Linux is older than 5.6, "
            "or a filter takes it away, as systemd's RestrictSUIDSGID= does",
        ) from None
    finally:
        os.close(folder)
