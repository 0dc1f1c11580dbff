"""What is measured of FTP servers.

Plain and TLS are moves of their own, so that like stands beside like.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.moves import GIB, MIB, SMALL_SIZE, Kind, Move, Scale, Speech

_STREAMS = 8
_REFERENCES = ("vsftpd", "pure-ftpd", "pyftpdlib")


def ftp_moves(scale: Scale) -> list[Move]:
    """In the order in which they are measured and shown."""
    return [*_large(scale), *_small(scale), *_rest(scale)]


def _move(
    name: str, title: str, kind: Kind, files: int = 1, streams: int = 1, size: int = 0
) -> Move:
    move = Move(name, f"FTP: {title}", kind, _REFERENCES, files, streams, size)
    return replace(move, speech=Speech.FTP, tls=name.endswith("-tls"))


def _large(scale: Scale) -> Iterator[Move]:
    whole = f"{scale.big // MIB} MiB" if scale.big < GIB else f"{scale.big // GIB} GiB"
    part = scale.big // _STREAMS
    parts = f"{_STREAMS} x {part // MIB} MiB at once"
    for suffix, under in ("", ""), ("-tls", ", TLS"):
        for kind, name in (Kind.DOWN, "ftp-down"), (Kind.UP, "ftp-up"):
            way = "down, thrown away" if kind is Kind.DOWN else "up"
            yield _move(f"{name}{suffix}", f"{whole} {way}{under}", kind, size=scale.big)
            title = f"{parts} {way}{under}"
            yield _move(f"{name}-8{suffix}", title, kind, size=part, streams=_STREAMS)


def _small(scale: Scale) -> Iterator[Move]:
    for kind, name in (Kind.DOWN, "ftp-small-down"), (Kind.UP, "ftp-small-up"):
        title = f"{scale.small:,} x 4 KiB {kind.name.lower()}"
        yield _move(name, f"{title}, 1 session", kind, files=scale.small, size=SMALL_SIZE)
        share = scale.small // _STREAMS
        yield _move(
            f"{name}-8",
            f"{title}, {_STREAMS} sessions",
            kind,
            files=share,
            streams=_STREAMS,
            size=SMALL_SIZE,
        )


def _rest(scale: Scale) -> Iterator[Move]:
    title = "connect, log in, leave"
    yield _move("ftp-login", f"{title}; 1 client", Kind.LOGIN, files=scale.connects)
    share = scale.connects // _STREAMS
    title = f"{title}; {_STREAMS} clients"
    yield _move("ftp-login-8", title, Kind.LOGIN, files=share, streams=_STREAMS)
    title = f"memory of each of {scale.sessions} idle sessions (less is better)"
    yield _move("ftp-memory", title, Kind.MEMORY, files=scale.sessions)
    yield _move("ftp-memory-tls", f"{title}, TLS", Kind.MEMORY, files=scale.sessions)
