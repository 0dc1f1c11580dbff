"""forkd.toml -> a frozen Config, validated whole before anything acts on it.

Every problem is reported at once, each as "file:line: key: reason".
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from forkd.configlines import line_of, syntax_problem
from forkd.errors import ConfigError
from forkd.listen import ListenAddress, parse_listen
from forkd.units import Bytes, Seconds, parse_bytes, parse_seconds

DEFAULT_PATH = "/etc/forkd/forkd.toml"
UNLIMITED = "unlimited"
Limit = Bytes | Literal["unlimited"]


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    workers: Annotated[int, Meta(ge=0, le=32)] = 0
    user: str = ""
    group: str = ""
    state_dir: str = "/var/lib/forkd"
    runtime_dir: str = "/run/forkd"
    pidfile: str = "/run/forkd/forkd.pid"
    graceful_timeout: Seconds = Seconds(30)
    watchdog_timeout: Seconds = Seconds(30)


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    native: tuple[ListenAddress, ...] = (
        ListenAddress("inet", "0.0.0.0", 3675),  # noqa: S104 - a server's default
        ListenAddress("inet6", "::", 3675),
        ListenAddress("unix", "/run/forkd/forkd.sock", 0),
    )
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 1024


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["auto", "files", "off"] = "auto"
    cert: str = ""
    key: str = ""
    allow_plain_passwords: bool = False


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = "/srv/forkd"
    durability: Literal["full", "group", "none"] = "group"
    partial_expiry: Seconds = Seconds(7 * 86400)


class Quota(Struct, frozen=True, forbid_unknown_fields=True):
    default: Limit = Bytes(1024**3)
    verify_every: Seconds = Seconds(86400)


class Accounts(Struct, frozen=True, forbid_unknown_fields=True):
    max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    min_password: Annotated[int, Meta(ge=1, le=1024)] = 8


class Register(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = False
    quota: Limit | None = None
    permissions: tuple[str, ...] | None = None


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    sessions_per_worker: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    login_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    login_timeout: Seconds = Seconds(60)
    idle_timeout: Seconds = Seconds(900)
    stall_timeout: Seconds = Seconds(120)


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:9367"
    top_users: Annotated[int, Meta(ge=0, le=1000)] = 20


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    file: str = ""
    transfers: bool = True


class Command(Struct, frozen=True, forbid_unknown_fields=True):
    exec: Annotated[tuple[str, ...], Meta(min_length=1)]
    users: tuple[str, ...] = ()
    timeout: Seconds = Seconds(30)
    max_output: Bytes = Bytes(16 * 1024**2)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration.  `source` is the file it came from ('' for built-in defaults)."""

    server: Server = Server()
    listen: Listen = Listen()
    tls: Tls = Tls()
    storage: Storage = Storage()
    quota: Quota = Quota()
    accounts: Accounts = Accounts()
    register: Register = Register()
    limits: Limits = Limits()
    metrics: Metrics = Metrics()
    log: Log = Log()
    commands: dict[str, Command] = {}
    source: str = ""


RUNTIME_DIR_MAX = 86
"""Bytes: what unix(7) allows for a socket's path, less the longest name of ours."""

_COMMAND_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

PERMISSIONS = ("list", "read", "write", "replace", "delete", "mkdir", "move", "passwd")


def default_text() -> str:
    """The commented default configuration that etc/forkd.toml also holds."""
    return resources.files("forkd").joinpath("forkd.toml").read_text(encoding="utf-8")


def load(path: str) -> Config:
    """Read and validate a file.  Raises ConfigError naming file, line, key and reason."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from None
    return parse(text, path)


def parse(text: str, source: str) -> Config:
    """Validate a configuration text.  Raises ConfigError with all its problems."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([syntax_problem(source, error)]) from None
    problems: list[str] = []
    sections: dict[str, Any] = {}
    hints = get_type_hints(Config)
    for name, value in raw.items():
        if name not in hints or name == "source":
            problems.append(_unknown(text, source, "", name, [h for h in hints if h != "source"]))
        elif name == "commands":
            sections[name] = _commands(text, source, value, problems)
        else:
            sections[name] = _section(text, source, name, hints[name], value, problems)
    if problems:
        raise ConfigError(problems)
    config = Config(**sections, source=source)
    problems.extend(f"{source}:{line_of(text, key)}: {key}: {why}" for key, why in _cross(config))
    if problems:
        raise ConfigError(problems)
    return config


def _commands(text: str, source: str, value: Any, problems: list[str]) -> dict[str, Command]:
    commands: dict[str, Command] = {}
    if not isinstance(value, dict):
        problems.append(
            f"{source}:{line_of(text, 'commands')}: commands: must be tables such as [commands.df]"
        )
        return commands
    for name, table in value.items():
        command = _section(text, source, f"commands.{name}", Command, table, problems)
        if command is not None:
            commands[name] = command
    return commands


def _section(
    text: str, source: str, name: str, kind: type, value: Any, problems: list[str]
) -> Any | None:
    """Convert one table key by key, so that every problem of it is found."""
    if not isinstance(value, dict):
        problems.append(f"{source}:{line_of(text, name)}: {name}: must be a table [{name}]")
        return None
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for key, item in value.items():
        if key not in hints:
            problems.append(_unknown(text, source, name, key, list(hints)))
            continue
        try:
            fields[key] = _convert(item, hints[key])
        except (ValueError, msgspec.ValidationError) as error:
            where = f"{source}:{line_of(text, f'{name}.{key}')}"
            problems.append(f"{where}: {name}.{key}: {_reason(error)}")
    required = {f.name for f in msgspec.structs.fields(kind) if f.required}
    for key in sorted(required - value.keys()):
        problems.append(f"{source}:{line_of(text, name)}: {name}.{key}: is missing")
    if required - fields.keys():
        return None
    return kind(**fields)


def _convert(value: Any, hint: Any) -> Any:
    """One value to its type; sizes, durations and addresses have readers of their own."""
    if any(isinstance(text, str) and "\0" in text for text in _texts(value)):
        raise ValueError("contains a NUL character")
    choices = set(get_args(hint)) if get_origin(hint) is not Annotated else set()
    if hint is Seconds:
        return parse_seconds(value)
    if hint is Bytes:
        return parse_bytes(value)
    if Bytes in choices:
        return UNLIMITED if value == UNLIMITED else parse_bytes(value)
    if ListenAddress in choices:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise ValueError("must be a list of texts such as '0.0.0.0:3675' or 'unix:/path'")
        return tuple(parse_listen(v) for v in value)
    return msgspec.convert(value, hint)


def _texts(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _reason(error: Exception) -> str:
    return str(error).replace(" - at `$`", "").replace("`", "'")


def _unknown(text: str, source: str, section: str, key: str, known: list[str]) -> str:
    dotted = f"{section}.{key}" if section else key
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" ({close[0]}?)" if close else f" (known: {', '.join(known)})"
    return f"{source}:{line_of(text, dotted)}: {dotted}: unknown key{hint}"


def _cross(config: Config) -> Iterator[tuple[str, str]]:
    """What no single key can tell: (key, reason) of each contradiction."""
    yield from _cross_addresses(config)
    yield from _cross_paths(config)
    for section, key in _NEVER_ZERO:
        if not getattr(getattr(config, section), key):
            yield f"{section}.{key}", "must be longer than 0"
    if config.tls.mode == "files":
        for key in ("cert", "key"):
            if not getattr(config.tls, key):
                yield f"tls.{key}", "must name a PEM file when tls.mode is 'files'"
    if config.server.group and not config.server.user:
        yield "server.group", "is given without server.user"
    for unknown in sorted(set(config.register.permissions or ()) - set(PERMISSIONS)):
        yield "register.permissions", f"{unknown!r} is none of {', '.join(PERMISSIONS)}"
    for name, command in config.commands.items():
        yield from _cross_command(name, command)


_NEVER_ZERO = (
    ("server", "watchdog_timeout"),
    ("limits", "login_timeout"),
    ("limits", "idle_timeout"),
    ("limits", "stall_timeout"),
)


def _cross_addresses(config: Config) -> Iterator[tuple[str, str]]:
    if not config.listen.native:
        yield "listen.native", "names no address: nobody could connect"
    fixed = [
        address for address in config.listen.native if address.family == "unix" or address.port
    ]
    if len(set(fixed)) != len(fixed):
        yield "listen.native", "names the same address twice"
    if not config.metrics.listen:
        return
    try:
        address = parse_listen(config.metrics.listen)
    except ValueError as error:
        yield "metrics.listen", str(error)
        return
    if address.family == "unix":
        yield "metrics.listen", "must be host:port, or '' for no metrics"
    elif address in fixed:
        yield "metrics.listen", "is an address of listen.native"


def _cross_paths(config: Config) -> Iterator[tuple[str, str]]:
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
    for key, path in needed.items():
        if not Path(path).is_absolute():
            yield key, "must be an absolute path"
    for key, path in optional.items():
        if path and not Path(path).is_absolute():
            yield key, "must be an absolute path"
    if len(config.server.runtime_dir.encode(errors="surrogateescape")) > RUNTIME_DIR_MAX:
        yield "server.runtime_dir", f"is too long for sockets: at most {RUNTIME_DIR_MAX} bytes"


def _cross_command(name: str, command: Command) -> Iterator[tuple[str, str]]:
    program = command.exec[0]
    if not _COMMAND_NAME.fullmatch(name):
        yield f"commands.{name}", "a name is 1 to 64 letters, digits, '_', '-' or '.'"
    if not program or ("/" in program and not Path(program).is_absolute()):
        yield f"commands.{name}.exec", "must begin with a bare program name or an absolute path"
    if not command.timeout:
        yield f"commands.{name}.timeout", "must be longer than 0"
