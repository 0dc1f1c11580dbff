"""What a master leaves to the program that takes its place: a document, and descriptors.

It is written by one version and read by another.  A field that is added needs a default; whatever
else changes needs another FORMAT, and then there is no way but a restart.  `Fleet` and what it
holds are part of it.

Descriptors are told by number: exec(2) keeps them where they are.  Times are seconds of
CLOCK_MONOTONIC unless a field says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Struct

from forkd import config as configuration
from forkd.config import Config
from forkd.errors import ConfigError, StartError
from forkd.listen import ListenAddress
from forkd.supervisor.fleet import Fleet
from forkd.supervisor.orders import Orders
from forkd.supervisor.reload import with_kept
from forkd.supervisor.roster import Post
from forkd.supervisor.world import LastReload, World

FORMAT = 1
VARIABLE = "FORKD_ESTATE"
"""In the environment: the descriptor of the document."""
_HEAD = b"forkd estate %d\n"


class Settings(Struct, frozen=True):
    """The configuration to go on with: the file as it was read, and the values that stay."""

    source: str
    text: str
    mtime: float
    kept: dict[str, Any]


class HeldListener(Struct, frozen=True):
    """`inherited`: the service manager gave it, for `given_door` where that is not "".

    `file` is a unix socket's (device, inode).
    """

    address: ListenAddress
    fd: int
    inherited: bool = False
    file: tuple[int, int] | None = None
    given_door: str = ""


class HeldLock(Struct, frozen=True):
    path: str
    fd: int


class HeldChild(Struct, frozen=True):
    """A child that runs.  `started` is seconds since 1970, `unsent` what it is still to be told."""

    key: int
    role: str
    slot: int
    number: int
    pid: int
    link: int
    started: float
    unable: str
    unsent: tuple[bytes, ...]


class HeldClient(Struct, frozen=True):
    """A connection to the control socket.  `asking`: who asked for the upgrade."""

    fd: int
    unread: bytes
    asking: bool


class Estate(Struct, frozen=True):
    """`trial`: the slot of a worker to be tried; then nothing is to be taken over.

    `settings` are what the next generation is to have, `served` what the one has that serves.
    `loaded_at` is seconds since 1970, `tag` the next free one of questions to children; `deaths`
    are why who held a post died last.
    """

    version: str
    settings: Settings
    serving: int
    loaded_at: float
    last: LastReload | None
    started: float
    begun: float
    tag: int
    fleet: Fleet
    trial: int = 0
    children: tuple[HeldChild, ...] = ()
    listeners: tuple[HeldListener, ...] = ()
    locks: tuple[HeldLock, ...] = ()
    detached: bool = False
    orders: Orders = msgspec.field(default_factory=Orders)
    control: int = -1
    clients: tuple[HeldClient, ...] = ()
    deaths: dict[Post, str] = msgspec.field(default_factory=dict)
    served: Settings | None = None

    @property
    def descriptors(self) -> list[int]:
        """All that must stay open over exec."""
        return [
            *([self.control] if self.control >= 0 else []),
            *(listener.fd for listener in self.listeners),
            *(lock.fd for lock in self.locks),
            *(client.fd for client in self.clients),
            *(child.link for child in self.children),
        ]


def write(estate: Estate) -> int:
    """A descriptor, closed on exec, from which the document can be read.  Raises OSError."""
    fd = os.memfd_create("forkd-estate", os.MFD_CLOEXEC)
    data = _HEAD % FORMAT + msgspec.msgpack.encode(estate)
    while data:
        data = data[os.write(fd, data) :]
    return fd


def take(environ: MutableMapping[str, str]) -> Estate | None:
    """What was left to this process; None where it was started by somebody else.

    Raises StartError where it cannot be understood.
    """
    text = environ.pop(VARIABLE, "")
    return read(int(text)) if text.isdecimal() else None


def read(fd: int) -> Estate:
    """Read the document, and close its descriptor.  Raises StartError."""
    try:
        with open(fd, "rb") as file:
            file.seek(0)
            head, data = file.readline(64), file.read()
        if head != _HEAD % FORMAT:
            raise StartError("the running version hands over in another form: restart forkd")
        return msgspec.msgpack.decode(data, type=Estate)
    except (OSError, msgspec.DecodeError) as error:
        raise StartError(f"what the running version hands over: {error}: restart forkd") from None


def configured(settings: Settings) -> Config:
    """The configuration that the version before has read.  Raises ConfigError."""
    config = configuration.parse(settings.text, settings.source) if settings.source else Config()
    return with_kept(config, settings.kept)


def world_served(left: Estate, coming: World) -> World:
    """What the generation has that serves; what this version cannot read is as the `coming` one."""
    served = left.served or left.settings
    try:
        config = configured(served)
    except ConfigError:
        return replace(coming, loaded_at=left.loaded_at)
    return World(config, coming.listeners, left.loaded_at, served.mtime, served.text)
