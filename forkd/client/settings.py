"""What the client keeps between runs, in $XDG_CONFIG_HOME/forkc (XDG Base Directory).

known_hosts   the servers' certificates, see trust.py
client-id     a random name: the server keeps interrupted uploads apart by it
history       what was typed in `forkc shell`
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from forkd.client.errors import LocalError


def config_dir() -> str:
    """The folder, made (mode 0700) if there is none.  Raises LocalError."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):  # the standard: relative paths are to be ignored
        base = os.path.join(os.path.expanduser("~"), ".config")
    path = os.path.join(base, "forkc")
    try:
        os.makedirs(base, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
    except OSError as error:
        raise LocalError.of(error, path) from None
    return path


def client_id() -> str:
    """This user's random id on this machine; made on first use."""
    path = os.path.join(config_dir(), "client-id")
    with suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        known = file.read(64).strip()
        if known:
            return known
    with locked(path):
        with suppress(FileNotFoundError), open(path, encoding="ascii") as file:
            if known := file.read(64).strip():
                return known
        made = os.urandom(16).hex()
        write_atomically(path, made + "\n")
        return made


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock that guards a change of `path` against other clients.  Raises LocalError."""
    try:
        fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError.of(error, path + ".lock") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_atomically(path: str, text: str) -> None:
    """Replace a small file: readers see the old or the new one.  Raises LocalError."""
    temporary = f"{path}.{os.urandom(6).hex()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise LocalError.of(error, path) from None
