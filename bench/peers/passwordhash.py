"""The reference of log-ins: one argon2 verification each, as forkd makes it, and nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.crew import run_together
from bench.files import Source
from bench.moves import Kind, Move, Speech
from bench.peers import Way
from bench.processes import BenchError
from forkd.accounts.passwords import Passwords

_PASSWORD = "correct horse 42"


class PasswordHash:
    """See the module."""

    name = "hash"
    speech = Speech.NATIVE

    def missing(self) -> str | None:
        return None

    def start(self, folder: Path, source: Source) -> None:
        pass

    def stop(self) -> None:
        pass

    def ways(self, move: Move) -> list[Way]:
        if move.kind is not Kind.LOGIN:
            return []
        tasks = [_Verify(move.files) for _ in range(move.streams)]
        return [Way("hash", partial(run_together, tasks))]


class _Verify:
    """See crew.Task."""

    def __init__(self, count: int) -> None:
        self._count = count

    def prepare(self) -> None:
        self._passwords = Passwords(8)
        self._hash = self._passwords.hash(_PASSWORD)

    def run(self) -> None:
        self._right = sum(
            self._passwords.matches(self._hash, _PASSWORD) for _ in range(self._count)
        )

    def verify(self) -> None:
        if self._right != self._count:
            raise BenchError("a right password was refused")
