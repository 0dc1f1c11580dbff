"""What a process did to disk and sockets, in order, read from a trace of its system calls.

strace writes a line when a call begins, and where another thread comes in between, a second one
when it ends: so lines tell what was over before what began.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import strace
from peer import HEADER, REPLY

CALLS = (
    "write,pwrite64,splice,sync_file_range,fdatasync,fsync,ftruncate,sendto,"
    "renameat2,rename,mkdir,mkdirat,unlinkat,openat,openat2"
)
_BEGUN = re.compile(r"^(\d+) +(\w+)\((.*)$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_UNFINISHED = " <unfinished ...>"
_RESULT = re.compile(r"\) += (-?\d+)(?:<([^>]*)>)?.*$")
_FD = re.compile(r"(?:\b\d+|AT_FDCWD)<([^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """`began` and `ended` number the lines of the trace.

    `paths` are what its descriptors are open on, `strings` its texts and data, in their order.
    """

    name: str
    began: int
    ended: int
    paths: tuple[str, ...]
    strings: tuple[bytes, ...]
    result: int
    words: str

    def before(self, other: Call) -> bool:
        """Whether it was over when the other began."""
        return self.ended < other.began

    @property
    def target(self) -> str:
        """The full path that a call gives a name to: the last descriptor and text."""
        return f"{self.paths[-1]}/{self.strings[-1].decode()}"


@dataclass
class Trace:
    """Filled when the block that made it is over.  Calls that failed are left out."""

    calls: list[Call] = field(default_factory=list)

    def named(self, *names: str) -> list[Call]:
        calls = [call for name in names for call in self._by_name.get(name, [])]
        return calls if len(names) == 1 else sorted(calls, key=lambda call: call.began)

    @functools.cached_property
    def _by_name(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.name, []).append(call)
        return found

    def on(self, name: str, path: str | Path) -> list[Call]:
        """The calls whose first descriptor is open on `path`."""
        return [call for call in self.named(name) if call.paths[:1] == (str(path),)]

    def renames_to(self, path: str | Path) -> list[Call]:
        return [call for call in self.named("renameat2") if call.target == str(path)]

    def replies(self) -> dict[int, Call]:
        """Request -> the send that carried the first byte of its REPLY.

        Of the session that was answered first.
        """
        found: dict[int, Call] = {}
        sent, sends = bytearray(), []
        calls = self.named("sendto")
        for call in self.on("sendto", calls[0].paths[0]):
            piece = call.strings[0][: call.result]
            assert len(piece) == call.result, "the trace has not all that was sent"
            sends += [call] * len(piece)
            sent += piece
        at = 0
        while at < len(sent):
            kind, _, meta, ident, payload = HEADER.unpack_from(sent, at)
            if kind == REPLY:
                found[ident] = sends[at]
            at += HEADER.size + meta + payload
        return found


@contextlib.contextmanager
def traced(
    pid: int, log: Path, nudge: Callable[[], object], data: int = 1 << 20
) -> Iterator[Trace]:
    """Trace a process during the block; up to `data` bytes of what it writes or sends are kept.

    `nudge` has its loop do something more: only then the last call of before is over for strace.
    """
    trace = Trace()
    with strace.attached(pid, *options(log, data)):
        yield trace
        nudge()
    trace.calls = read(log)


def options(log: Path, data: int = 1 << 20) -> list[str]:
    """Of strace, for a trace that `read` understands."""
    return ["-y", "-xx", "-s", str(data), "-e", f"trace={CALLS}", "-o", str(log)]


def read(log: Path) -> list[Call]:
    """The calls of a trace that succeeded, in the order in which they began."""
    begun: dict[str, tuple[int, str, str]] = {}
    calls = []
    for number, line in enumerate(log.read_text().splitlines()):
        if match := _RESUMED.match(line):
            thread, name, rest = match.groups()
            began, _, text = begun.pop(thread, (number, name, ""))
            text += rest
        elif match := _BEGUN.match(line):
            thread, name, text = match.groups()
            began = number
            if text.endswith(_UNFINISHED):
                begun[thread] = (number, name, text.removesuffix(_UNFINISHED))
                continue
        else:
            continue
        result = _RESULT.search(text)
        if result and int(result[1]) >= 0:
            calls.append(_call(name, began, number, text[: result.start()], int(result[1])))
    return sorted(calls, key=lambda call: call.began)


def _call(name: str, began: int, ended: int, text: str, result: int) -> Call:
    strings = tuple(_plain(match[1]) for match in _STRING.finditer(text))
    words = _STRING.sub('""', text)
    paths = tuple(_plain(match[1]).decode() for match in _FD.finditer(words))
    return Call(name, began, ended, paths, strings, result, words)


def _plain(text: str) -> bytes:
    r"""Of \x41\x42, and of a path that strace saw no need to escape."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()
