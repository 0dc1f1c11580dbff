"""Passwords: what is accepted, hashed and verified.

Argon2id with the library's defaults: RFC 9106, section 4, second recommended option (64 MiB).  A
hash keeps its own parameters, so they may be raised later: `stale` then tells which to renew.
"""

from __future__ import annotations

import base64
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError

from forkd.errors import Refusal

MAX_LENGTH = 1024
"""Characters; what the wire protocol carries."""


class Passwords:
    """Hashes and verifies.  Each call takes tens of milliseconds, without the GIL."""

    def __init__(self, min_length: int, hasher: PasswordHasher | None = None) -> None:
        self._min_length = min_length
        self._hasher = hasher or PasswordHasher()
        self.nobody = _unmatchable(self._hasher)
        """A hash no password has; it costs as much to verify as one made now."""

    def hash(self, password: str) -> str:
        """Raises Refusal: weak-password, busy."""
        if len(password) < self._min_length:
            raise Refusal(
                "weak-password",
                f"the password is too short: at least {self._min_length} characters are needed",
            )
        if len(password) > MAX_LENGTH:
            raise Refusal(
                "weak-password", f"the password is too long: at most {MAX_LENGTH} characters"
            )
        try:
            return self._hasher.hash(_octets(password))
        except HashingError:
            raise _no_memory() from None

    def matches(self, hashed: str, password: str) -> bool:
        """Raises Refusal busy."""
        try:
            return self._hasher.verify(hashed, _octets(password))
        except (VerifyMismatchError, InvalidHashError):
            return False
        except VerificationError:
            raise _no_memory() from None

    def stale(self, hashed: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(hashed)


def _octets(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")  # a lone surrogate is just a wrong password


def _unmatchable(hasher: PasswordHasher) -> str:
    """Random bytes in the place of salt and hash: nothing has to be computed for it."""

    def base64_of(count: int) -> str:
        return base64.b64encode(secrets.token_bytes(count)).decode().rstrip("=")

    kind = f"argon2{hasher.type.name.lower()}"
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"${kind}$v=19${cost}${base64_of(hasher.salt_len)}${base64_of(hasher.hash_len)}"


def _no_memory() -> Refusal:
    return Refusal("busy", "the server has no memory left to check a password; try again")
