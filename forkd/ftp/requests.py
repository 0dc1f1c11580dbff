"""What the engine asks of the door: the requests that need more than words.

Paths are absolute, by their parts below the account's folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.ftp.address import Endpoint
from forkd.ftp.paths import Parts


@dataclass(frozen=True, slots=True)
class LogIn:
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """234 is said; the handshake comes next."""


@dataclass(frozen=True, slots=True)
class LogOut:
    """REIN."""


@dataclass(frozen=True, slots=True)
class Leave:
    """QUIT; 221 is said."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Break off what runs, if anything does."""


@dataclass(frozen=True, slots=True)
class Status:
    """STAT without a path, perhaps during a transfer."""


@dataclass(frozen=True, slots=True)
class OpenPassive:
    """`protocol` None: that of the control connection."""

    protocol: int | None
    extended: bool


@dataclass(frozen=True, slots=True)
class UseActive:
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Retrieve:
    path: Parts
    offset: int


@dataclass(frozen=True, slots=True)
class Store:
    """`announced` is what ALLO said, in bytes."""

    path: Parts
    offset: int
    announced: int | None


@dataclass(frozen=True, slots=True)
class Append:
    path: Parts
    announced: int | None


@dataclass(frozen=True, slots=True)
class StoreUnique:
    """In the folder of `path`, under a name made of its last one."""

    path: Parts
    announced: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """`form` is LIST, NLST, MLSD or STAT, whose lines go over the control connection.

    `shown` is the path as the client wrote it, for the names NLST gives.
    """

    form: str
    path: Parts
    shown: bytes


@dataclass(frozen=True, slots=True)
class OnPath:
    """What a verb does with one path: MLST SIZE MDTM CWD MKD RMD DELE RNFR AVBL."""

    verb: str
    path: Parts


@dataclass(frozen=True, slots=True)
class Rename:
    path: Parts
    to: Parts


@dataclass(frozen=True, slots=True)
class SetTime:
    verb: str
    path: Parts
    mtime: float


@dataclass(frozen=True, slots=True)
class SetMode:
    path: Parts
    mode: int


@dataclass(frozen=True, slots=True)
class Digest:
    """`algorithm` is a name of HASHES or CRC32; `form` HASH or that of an X command."""

    path: Parts
    algorithm: str
    verb: str


@dataclass(frozen=True, slots=True)
class Tell:
    """SITE QUOTA, SITE WHO."""

    what: str


Request = (
    LogIn
    | StartTls
    | LogOut
    | Leave
    | Abort
    | Status
    | OpenPassive
    | UseActive
    | Retrieve
    | Store
    | Append
    | StoreUnique
    | Listing
    | OnPath
    | Rename
    | SetTime
    | SetMode
    | Digest
    | Tell
)
