"""An SQLite file that threads and forked processes share.

Rules
  1. WAL mode with synchronous=FULL: what was committed survives a power cut
     (https://sqlite.org/pragma.html#pragma_synchronous).
  2. A connection belongs to one thread of one process and is made when it is first needed: SQLite
     does not survive a fork (https://sqlite.org/howtocorrupt.html, section 2.6).
  3. The files have mode 0600.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from forkd.errors import Refusal, StartError

_BUSY_SECONDS = 10.0
_CODES = {sqlite3.SQLITE_FULL: "no-space", sqlite3.SQLITE_READONLY: "read-only"}
"""Primary result codes (https://sqlite.org/rescode.html) that are not just an io-error."""


class Database:
    """The file `path`, made with the table of `create` where it is missing.

    `version` is the schema's, kept as user_version; `what` names the contents in errors.  Nothing
    stays open: the object may be made before a fork and used after it.  Raises StartError.
    """

    def __init__(self, path: str, create: str, version: int, what: str) -> None:
        self._path = path
        self._what = what
        self._local = _Local()
        self._make_file()
        try:
            with closing(_connect(path)) as db:
                found = _version(db)
                if found == 0:
                    _create_table(db, create, version)
                elif found > version:
                    raise StartError(
                        f"{path}: the {what} were written by a newer forkd (schema {found}, this "
                        f"one knows {version}); install that version again"
                    )
        except sqlite3.Error as error:
            raise StartError(f"{path}: the {what} cannot be used: {error}") from None

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection.  Raises Refusal: busy, io-error."""
        with self._translated():
            yield self._connection()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is alone in writing; committed unless something is raised."""
        with self._translated():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close what this thread holds."""
        if self._local.db is not None and self._local.pid == os.getpid():
            self._local.db.close()
            self._local.db = None

    def _make_file(self) -> None:
        """Made here for its mode, which SQLite's -wal and -shm files then take over."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.close(os.open(self._path, flags, 0o600))
        except OSError as error:
            raise StartError(
                f"{self._path}: the {self._what} cannot be opened: {error.strerror}"
            ) from None

    def _connection(self) -> sqlite3.Connection:
        local = self._local
        if local.db is not None and local.pid != os.getpid():
            # Closing it here could drop files that the parent still uses.
            local.inherited.append(local.db)
            local.db = None
        if local.db is None:
            local.db, local.pid = _connect(self._path), os.getpid()
        return local.db

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Name whose fault a database error is; SQLite's own words go along."""
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise Refusal("busy", f"the {self._what} are being changed; try again") from error
            code = _CODES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "io-error")
            raise Refusal(code, f"the {self._what} cannot be reached: {error}") from error


class _Local(threading.local):
    """One thread's connection, and those a fork left behind."""

    def __init__(self) -> None:
        self.db: sqlite3.Connection | None = None
        self.pid = 0
        self.inherited: list[sqlite3.Connection] = []


def _connect(path: str) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    db = sqlite3.connect(
        f"file:{quoted}?mode=rw", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
    )
    try:
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _create_table(db: sqlite3.Connection, create: str, version: int) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    if _version(db) == 0:  # another process may have been faster
        db.execute(create)
        db.execute(f"PRAGMA user_version = {version}")
    db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
