"""Whose files are in storage.path: those of one state folder, whose accounts and ledger know them.

A second daemon, or the same one with another state_dir, would take the interrupted uploads of the
first one's accounts for its own, by their numbers, and drop them.  So each side has the other's
mark: a random text in both.
"""

from __future__ import annotations

import os
import secrets

from forkd import folders
from forkd.config import Config
from forkd.errors import StartError
from forkd.storage.store import STAGING

STATE_MARK = "storage-id"
"""In server.state_dir."""
STORAGE_MARK = f"{STAGING}-belongs-to"
"""In storage.path, where no account's folder has such a name: the mark, and the state folder."""


def claim(config: Config) -> None:
    """Mark the storage as ours where nobody did; nothing where there is none yet.

    Raises StartError where it is another state folder's.
    """
    storage = config.storage.path
    if not os.path.isdir(os.path.join(storage, STAGING)):
        return
    state = config.server.state_dir
    ours, theirs = os.path.join(state, STATE_MARK), os.path.join(storage, STORAGE_MARK)
    try:
        mark, (told, *path) = _read(ours), _read(theirs).split("\n", 1)
        if told and told != mark:
            raise StartError(
                f"storage.path {storage}: its files belong to the accounts in "
                f"{path[0] if path else 'another state folder'}, not to those in {state}: change "
                "server.state_dir or storage.path.  (To give them to new accounts, remove "
                f"{theirs}.)"
            )
        if not told:
            mark = mark or secrets.token_hex(16)
            _write(ours, mark)
            folders.flush(state)  # a power cut that leaves theirs alone would shut us out
            _write(theirs, f"{mark}\n{os.path.abspath(state)}")
    except OSError as error:
        raise StartError(f"{error.filename or storage}: {error.strerror}") from None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    """Whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
