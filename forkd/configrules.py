"""What no single key of a configuration can tell: contradictions between keys.  No I/O.

A rule answers with flaws.  It is asked about a configuration with wrong keys too, which then have
their defaults; so a flaw names every key it rests on, and is dropped where one of them is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forkd.listen import parse_listen

if TYPE_CHECKING:
    from forkd.config import Command, Config

RUNTIME_DIR_MAX = 86
"""Bytes: what unix(7) allows for a socket's path, less the longest name of ours."""

PERMISSIONS = ("list", "read", "write", "replace", "delete", "mkdir", "move", "passwd")

_COMMAND_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NEVER_ZERO = (
    ("server", "watchdog_timeout"),
    ("limits", "login_timeout"),
    ("limits", "idle_timeout"),
    ("limits", "stall_timeout"),
    ("limits", "ban_window"),
    ("limits", "ban_time"),
)
LEAST_BANDWIDTH = 1024
"""Bytes a second: with less, a client would take the server for dead."""


class Flaw(NamedTuple):
    """A key, why its value cannot be, and the other keys that the reason rests on."""

    key: str
    reason: str
    others: tuple[str, ...] = ()


Rule = Callable[["Config"], Iterator[Flaw]]


def contradictions(config: Config) -> Iterator[Flaw]:
    """All flaws that the configuration alone shows."""
    yield from _addresses(config)
    yield from _paths(config)
    for section, key in _NEVER_ZERO:
        if not getattr(getattr(config, section), key):
            yield Flaw(f"{section}.{key}", "must be longer than 0")
    for key in ("user_bandwidth_up", "user_bandwidth_down"):
        bandwidth = getattr(config.limits, key)
        if isinstance(bandwidth, int) and bandwidth < LEAST_BANDWIDTH:
            yield Flaw(f"limits.{key}", f"must be at least {LEAST_BANDWIDTH} bytes a second")
    if config.tls.mode == "files":
        for key in ("cert", "key"):
            if not getattr(config.tls, key):
                yield Flaw(
                    f"tls.{key}", "must name a PEM file when tls.mode is 'files'", ("tls.mode",)
                )
    if config.server.group and not config.server.user:
        yield Flaw("server.group", "is given without server.user", ("server.user",))
    for unknown in sorted(set(config.register.permissions or ()) - set(PERMISSIONS)):
        yield Flaw("register.permissions", f"{unknown!r} is none of {', '.join(PERMISSIONS)}")
    for name, command in config.commands.items():
        yield from _command(name, command)


def _addresses(config: Config) -> Iterator[Flaw]:
    if not config.listen.native:
        yield Flaw("listen.native", "names no address: nobody could connect")
    fixed = [
        address for address in config.listen.native if address.family == "unix" or address.port
    ]
    for twice in sorted({str(address) for address in fixed if fixed.count(address) > 1}):
        yield Flaw("listen.native", f"names the same address twice: {twice}")
    if not config.metrics.listen:
        return
    try:
        address = parse_listen(config.metrics.listen)
    except ValueError as error:
        yield Flaw("metrics.listen", str(error))
        return
    if address.family == "unix":
        yield Flaw("metrics.listen", "must be host:port, or '' for no metrics")
    elif address in fixed:
        yield Flaw("metrics.listen", "is an address of listen.native", ("listen.native",))


def _paths(config: Config) -> Iterator[Flaw]:
    needed = {
        "server.state_dir": config.server.state_dir,
        "server.runtime_dir": config.server.runtime_dir,
        "server.pidfile": config.server.pidfile,
        "storage.path": config.storage.path,
    }
    optional = {
        "tls.cert": config.tls.cert,
        "tls.key": config.tls.key,
        "log.file": config.log.file,
    }
    given = needed | {key: path for key, path in optional.items() if path}
    for key, path in given.items():
        if not Path(path).is_absolute():
            yield Flaw(key, "must be an absolute path")
    if len(config.server.runtime_dir.encode(errors="surrogateescape")) > RUNTIME_DIR_MAX:
        yield Flaw(
            "server.runtime_dir", f"is too long for sockets: at most {RUNTIME_DIR_MAX} bytes"
        )


def _command(name: str, command: Command) -> Iterator[Flaw]:
    program = command.exec[0] if command.exec else ""
    if not _COMMAND_NAME.fullmatch(name):
        yield Flaw(f"commands.{name}", "a name is 1 to 64 letters, digits, '_', '-' or '.'")
    if not program or ("/" in program and not Path(program).is_absolute()):
        yield Flaw(
            f"commands.{name}.exec", "must begin with a bare program name or an absolute path"
        )
    if not command.timeout:
        yield Flaw(f"commands.{name}.timeout", "must be longer than 0")
