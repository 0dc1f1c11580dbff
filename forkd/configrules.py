"""What no single key of a configuration can tell: contradictions between keys.  No I/O.

A rule answers with flaws.  It is asked about a configuration with wrong keys too, which then have
their defaults; so a flaw names every key it rests on, and is dropped where one of them is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from forkd.listen import parse_listen

if TYPE_CHECKING:
    from forkd.config import Command, Config, Hook

RUNTIME_DIR_MAX = 86
"""Bytes: what unix(7) allows for a socket's path, less the longest name of ours."""

PERMISSIONS = ("list", "read", "write", "replace", "delete", "mkdir", "move", "passwd")

EVENTS = ("published", "removed", "renamed")

_HOOK_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
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
    yield from _ftp(config)
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
    for name, hook in config.hooks.items():
        yield from _hook(name, hook)


def _addresses(config: Config) -> Iterator[Flaw]:
    if not config.listen.addresses:
        reason = "names no address, and neither do ftp and ftps: nobody could connect"
        yield Flaw("listen.native", reason, ("listen.ftp", "listen.ftps"))
    fixed = [
        address for address in config.listen.addresses if address.family == "unix" or address.port
    ]
    for twice in sorted({str(address) for address in fixed if fixed.count(address) > 1}):
        doors = sorted({f"listen.{address.door}" for address in fixed if str(address) == twice})
        what = "the same address twice" if len(doors) == 1 else "what another door has"
        yield Flaw(doors[-1], f"names {what}: {twice}", tuple(doors[:-1]))
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
        key = f"listen.{fixed[fixed.index(address)].door}"
        yield Flaw("metrics.listen", f"is an address of {key}", (key,))


def _ftp(config: Config) -> Iterator[Flaw]:
    for key, addresses in (("ftp", config.listen.ftp), ("ftps", config.listen.ftps)):
        if any(address.family == "unix" for address in addresses):
            yield Flaw(f"listen.{key}", "FTP needs host:port: it opens connections for data")
    if config.tls.mode != "off":
        return
    if config.listen.ftp and config.ftp.tls != "off":
        yield Flaw("ftp.tls", "must be 'off' where tls.mode is 'off'", ("tls.mode", "listen.ftp"))
    if config.listen.ftps:
        yield Flaw("listen.ftps", "needs TLS, and tls.mode is 'off'", ("tls.mode",))


def _paths(config: Config) -> Iterator[Flaw]:
    needed = {
        "server.state_dir": config.server.state_dir,
        "server.runtime_dir": config.server.runtime_dir,
        "storage.path": config.storage.path,
    }
    optional = {
        "server.pidfile": config.server.pidfile,
        "tls.cert": config.tls.cert,
        "tls.key": config.tls.key,
        "log.file": config.log.file,
        "log.xferlog": config.log.xferlog,
    }
    given = needed | {key: path for key, path in optional.items() if path}
    for key, path in given.items():
        if not Path(path).is_absolute():
            yield Flaw(key, "must be an absolute path")
    if config.log.file and config.log.format == "journal":
        yield Flaw("log.file", "must be empty where log.format is 'journal'", ("log.format",))
    if len(config.server.runtime_dir.encode(errors="surrogateescape")) > RUNTIME_DIR_MAX:
        yield Flaw(
            "server.runtime_dir", f"is too long for sockets: at most {RUNTIME_DIR_MAX} bytes"
        )


def _command(name: str, command: Command) -> Iterator[Flaw]:
    if not _COMMAND_NAME.fullmatch(name):
        yield Flaw(f"commands.{name}", "a name is 1 to 64 letters, digits, '_', '-' or '.'")
    yield from _program(f"commands.{name}.exec", command.exec)
    if not command.timeout:
        yield Flaw(f"commands.{name}.timeout", "must be longer than 0")


def _program(key: str, exec: tuple[str, ...]) -> Iterator[Flaw]:
    program = exec[0] if exec else ""
    if not program or ("/" in program and not Path(program).is_absolute()):
        yield Flaw(key, "must begin with a bare program name or an absolute path")


def _hook(name: str, hook: Hook) -> Iterator[Flaw]:
    table = f"hooks.{name}"
    if not _HOOK_NAME.fullmatch(name):
        yield Flaw(table, "a name is 1 to 64 letters, digits, '_' or '-'")
    if bool(hook.exec) == bool(hook.url):
        both = (f"{table}.exec", f"{table}.url")
        yield Flaw(table, "must have either `exec` or `url`", both)
    if hook.exec:
        yield from _program(f"{table}.exec", hook.exec)
    if hook.url:
        yield from _url(f"{table}.url", hook.url)
    if hook.secret and not hook.url:
        yield Flaw(f"{table}.secret", "signs what is posted: it needs `url`", (f"{table}.url",))
    if not hook.events:
        yield Flaw(f"{table}.events", f"must name some of {', '.join(EVENTS)}")
    for unknown in sorted(set(hook.events) - set(EVENTS)):
        yield Flaw(f"{table}.events", f"{unknown!r} is none of {', '.join(EVENTS)}")
    if not hook.users:
        yield Flaw(f"{table}.users", "must name somebody; '*' is everybody")
    for key in ("timeout", "give_up"):
        if not getattr(hook, key):
            yield Flaw(f"{table}.{key}", "must be longer than 0")


def _url(key: str, url: str) -> Iterator[Flaw]:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or " " in url:
        yield Flaw(key, "must be such as https://host:port/path")
