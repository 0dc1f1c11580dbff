"""What is measured: the moves, and how their figures are told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SMALL_SIZE = 4 * KIB


class Speech(Enum):
    """The protocol that a client speaks."""

    NATIVE = "forkd's own, rsync's, or none"
    FTP = "FTP and FTPS"


class Kind(Enum):
    """What a client does to the server."""

    DOWN = "download"
    UP = "upload"
    CONNECT = "connect, be greeted, leave"
    LOGIN = "connect, log in, leave"
    MEMORY = "stay connected and do nothing"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much one measurement moves."""

    big: int = GIB
    """Bytes of the large file."""
    small: int = 2000
    """Files of SMALL_SIZE bytes."""
    connects: int = 200
    logins: int = 16
    sessions: int = 400
    """Idle sessions whose memory is measured."""


QUICK = Scale(big=256 * MIB, small=1000, connects=50, logins=8, sessions=100)


@dataclass(frozen=True, slots=True)
class Move:
    """One table.  `size` is the bytes of each file, `files` and `streams` how many of them go one
    after the other and at the same time; `count` is the files, connections or sessions in all."""

    name: str
    title: str
    kind: Kind
    references: tuple[str, ...]
    files: int = 1
    streams: int = 1
    size: int = 0
    durable: bool = False
    """An upload that is told to have succeeded is on the disk."""
    kept: bool = False
    """A download that ends in files; else the client throws the bytes away."""
    speech: Speech = Speech.NATIVE
    tls: bool = False
    """All of it; else what is plain and what is not stand beside each other."""

    @property
    def count(self) -> int:
        return self.files * self.streams

    @property
    def large(self) -> bool:
        """Bytes are what counts, not files."""
        return self.size > MIB

    @property
    def unit(self) -> str:
        if self.kind is Kind.MEMORY:
            return "KiB/session"
        if self.kind in (Kind.CONNECT, Kind.LOGIN):
            return "1/s"
        return "MiB/s" if self.large else "files/s"

    @property
    def cpu_unit(self) -> str:
        return "GiB" if self.large else "1,000"

    def value(self, measured: float) -> float:
        """Of seconds, a rate in `unit`; of bytes a session, KiB."""
        if self.kind is Kind.MEMORY:
            return measured / KIB
        amount = self.count * self.size / MIB if self.large else self.count
        return amount / measured

    def cost(self, cpu: float) -> float:
        """Processor seconds of the whole move -> per `cpu_unit`."""
        return cpu / (self.count * self.size / GIB if self.large else self.count / 1000)


def native_moves(scale: Scale) -> list[Move]:
    """In the order in which they are measured and shown."""
    big = f"{scale.big // MIB} MiB" if scale.big < GIB else f"{scale.big // GIB} GiB"
    part = scale.big // 8
    eight = f"8 x {part // MIB} MiB at once"
    small = f"{scale.small:,} x 4 KiB"
    both = ("raw", "rsync")
    down, up = Kind.DOWN, Kind.UP
    return [
        Move("down", f"{big} down, thrown away", down, both, size=scale.big),
        Move("down-file", f"{big} down, into a file", down, ("rsync",), size=scale.big, kept=True),
        Move("up", f"{big} up", up, both, size=scale.big),
        Move("up-durable", f"{big} up, on the disk", up, both, size=scale.big, durable=True),
        Move("down-8", f"{eight} down, thrown away", down, both, streams=8, size=part),
        Move("up-8", f"{eight} up", up, both, streams=8, size=part),
        *_small_moves(scale, small),
        Move("one", "1 x 4 KiB up", up, ("rsync",), size=SMALL_SIZE),
        Move(
            "connect",
            "connect, greeting, leave; one after the other",
            Kind.CONNECT,
            ("rsyncd",),
            files=scale.connects,
        ),
        Move("login", "log-ins, 1 client", Kind.LOGIN, ("hash",), files=scale.logins),
        Move(
            "login-8",
            "log-ins, 8 clients",
            Kind.LOGIN,
            ("hash",),
            files=max(1, scale.logins // 8),
            streams=8,
        ),
        Move(
            "memory",
            f"memory of each of {scale.sessions} idle sessions (less is better)",
            Kind.MEMORY,
            ("rsyncd",),
            files=scale.sessions,
        ),
    ]


def _small_moves(scale: Scale, small: str) -> list[Move]:
    files, size, both = scale.small, SMALL_SIZE, ("raw", "rsync")
    down, up = Kind.DOWN, Kind.UP
    return [
        Move("small-down", f"{small} down, thrown away", down, ("raw",), files, size=size),
        Move(
            "small-down-file",
            f"{small} down, into files",
            down,
            ("rsync",),
            files,
            1,
            size,
            False,
            True,
        ),
        Move("small-up", f"{small} up", up, both, files, size=size),
        Move("small-up-durable", f"{small} up, on the disk", up, both, files, 1, size, True),
    ]
