"""Log-ins that succeeded, so that the next one of the same kind needs no slow hash.

Rules
  1. Nothing here holds a password or leads to one without the key, which lives in the memory of
     this process alone and dies with it.
  2. An entry says: this password belongs to the mark that the account had when the password was
     verified.  Who uses it looks the account up as it is now (`recall`): with another mark, or
     disabled, or gone, it is worth nothing.  So nobody has to be told to forget.
  3. The mark is that of the password that was verified.  One that is changed meanwhile is
     remembered for its old mark, which never comes back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict

from forkd.accounts import Accounts, Credential

ENTRIES = 4096
"""Log-ins that one process remembers: about 1 MiB."""


class Remembered:
    """Any thread may use it."""

    def __init__(self, accounts: Accounts, seconds: float, entries: int = ENTRIES) -> None:
        self._accounts = accounts
        self._seconds = seconds
        self._most = entries
        self._key = os.urandom(32)
        self._entries: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, name: str, password: str) -> Credential | None:
        """The enabled account whose password this was and is.  Raises Refusal: busy, io-error."""
        if not self._entries:
            return None
        entry = self._entries.get(self._digest(name, password))
        if entry is None or time.monotonic() >= entry[1]:
            return None
        known = self._accounts.credential(name)
        if known is None or not known.account.enabled:
            return None
        return known if hmac.compare_digest(known.mark, entry[0]) else None

    def authenticate(self, name: str, password: str) -> Credential:
        """Verify a password, slowly, and remember it.  Raises as Accounts.authenticate does."""
        proved = self._accounts.authenticate(name, password)
        if self._seconds:
            self._keep(self._digest(name, password), proved.mark)
        return proved

    def _keep(self, digest: bytes, mark: str) -> None:
        with self._lock:
            self._entries[digest] = mark, time.monotonic() + self._seconds
            self._entries.move_to_end(digest)  # the one verified longest ago is dropped first
            if len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def _digest(self, name: str, password: str) -> bytes:
        text = f"{len(name)}:{name}{password}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=32, key=self._key).digest()
