"""forkd.toml -> a frozen Config, validated whole before anything acts on it.

Every problem is reported at once, each as "file:line: key: reason".
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct

from forkd.configlines import line_of, syntax_problem
from forkd.configread import UNLIMITED as UNLIMITED
from forkd.configread import UnfitError, read_value
from forkd.configrules import EVENTS as EVENTS
from forkd.configrules import PERMISSIONS as PERMISSIONS
from forkd.configrules import RUNTIME_DIR_MAX as RUNTIME_DIR_MAX
from forkd.configrules import Flaw, Rule, contradictions
from forkd.errors import ConfigError
from forkd.listen import ListenAddress, Masquerade, PortRange
from forkd.units import Bytes, Seconds

DEFAULT_PATH = "/etc/forkd/forkd.toml"
Limit = Bytes | Literal["unlimited"]
Count = Annotated[int | Literal["unlimited"], Meta(ge=0, le=1_000_000)]
"""How many there may be; 0 is without a limit too."""
BAN_AFTER_MOST = 32
"""As many failed log-ins are remembered of one address."""


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    workers: Annotated[int, Meta(ge=0, le=32)] = 0
    user: str = ""
    group: str = ""
    operators: str = ""
    state_dir: str = "/var/lib/forkd"
    runtime_dir: str = "/run/forkd"
    pidfile: str = ""
    graceful_timeout: Seconds = Seconds(30)
    drainers: Annotated[int, Meta(ge=1, le=32)] = 4
    watchdog_timeout: Seconds = Seconds(30)

    @property
    def pidfile_path(self) -> str:
        """Where `forkd serve --daemon` writes its process id."""
        return self.pidfile or os.path.join(self.runtime_dir, "forkd.pid")


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    native: tuple[ListenAddress, ...] = (
        ListenAddress("inet", "0.0.0.0", 3675),  # noqa: S104 - a server's default
        ListenAddress("inet6", "::", 3675),
        ListenAddress("unix", "/run/forkd/forkd.sock", 0),
    )
    ftp: tuple[ListenAddress, ...] = ()
    ftps: tuple[ListenAddress, ...] = ()
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 1024

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """All of them, each with its door."""
        doors = {"native": self.native, "ftp": self.ftp, "ftps": self.ftps}
        return tuple(
            dataclasses.replace(address, door=door)
            for door, addresses in doors.items()
            for address in addresses
        )


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["auto", "files", "off"] = "auto"
    cert: str = ""
    key: str = ""
    allow_plain_passwords: bool = False


class Ftp(Struct, frozen=True, forbid_unknown_fields=True):
    """`tls` off, allow or require; see etc/forkd.toml."""

    tls: Literal["off", "allow", "require"] = "require"
    data_session: Literal["require", "prefer", "off"] = "prefer"
    passive_ports: PortRange = PortRange()
    masquerade_address: tuple[Masquerade, ...] = ()
    resume: Literal["published", "partial"] = "published"
    quarantine: Seconds = Seconds(0)
    greeting: str = "Ready."
    fxp: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()


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
    remember: Seconds = Seconds(600)


class Register(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = False
    quota: Limit | None = None
    permissions: tuple[str, ...] | None = None


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    sessions_per_worker: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    sessions_per_user: Count = 0
    sessions_per_address: Count = 0
    user_bandwidth_up: Limit = "unlimited"
    user_bandwidth_down: Limit = "unlimited"
    login_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    ban_after: Annotated[int, Meta(ge=0, le=BAN_AFTER_MOST)] = 20
    ban_window: Seconds = Seconds(600)
    ban_time: Seconds = Seconds(600)
    login_timeout: Seconds = Seconds(60)
    idle_timeout: Seconds = Seconds(900)
    stall_timeout: Seconds = Seconds(120)
    drain_floor: Bytes = Bytes(1024)


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:9367"
    top_users: Annotated[int, Meta(ge=0, le=1000)] = 20


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json", "journal"] = "auto"
    file: str = ""
    xferlog: str = ""
    transfers: bool = True


class Command(Struct, frozen=True, forbid_unknown_fields=True):
    exec: Annotated[tuple[str, ...], Meta(min_length=1)]
    users: tuple[str, ...] = ()
    timeout: Seconds = Seconds(30)
    max_output: Bytes = Bytes(16 * 1024**2)


class Hook(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told of changes: a program or a URL, one of the two."""

    exec: tuple[str, ...] = ()
    url: str = ""
    secret: str = ""
    events: tuple[str, ...] = EVENTS
    users: tuple[str, ...] = ("*",)
    timeout: Seconds = Seconds(30)
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 4
    give_up: Seconds = Seconds(86400)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration.  `source` is the file it came from ('' for built-in defaults)."""

    server: Server = Server()
    listen: Listen = Listen()
    tls: Tls = Tls()
    ftp: Ftp = Ftp()
    storage: Storage = Storage()
    quota: Quota = Quota()
    accounts: Accounts = Accounts()
    register: Register = Register()
    limits: Limits = Limits()
    metrics: Metrics = Metrics()
    log: Log = Log()
    commands: dict[str, Command] = {}
    hooks: dict[str, Hook] = {}
    source: str = ""


SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of [commands] and [hooks] are looked for, and their own PATH."""


def default_text() -> str:
    """The commented default configuration that etc/forkd.toml also holds."""
    return resources.files("forkd").joinpath("forkd.toml").read_text(encoding="utf-8")


def load(path: str, *rules: Rule) -> Config:
    """Read and validate a file.  Raises ConfigError naming file, line, key and reason."""
    return parse(read(path), path, *rules)


def read(path: str) -> str:
    """The text of a configuration file.  Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from None


def parse(text: str, source: str, *rules: Rule) -> Config:
    """Validate a configuration text, by `rules` too.  Raises ConfigError with all its problems."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([syntax_problem(text, source, error)]) from None
    problems = _Problems(text, source)
    config = msgspec.structs.replace(_config(raw, problems), source=source)
    if "native" not in (raw["listen"] if isinstance(raw.get("listen"), dict) else {}):
        config = _with_own_socket(config)
    for rule in (contradictions, *rules):
        for flaw in rule(config):
            problems.add_flaw(flaw)
    if problems.found:
        raise ConfigError(problems.lines())
    return config


class _Problems:
    """What is wrong with a text, and which keys' values are of no use."""

    def __init__(self, text: str, source: str) -> None:
        self.found: list[tuple[int, str]] = []
        self._text = text
        self._source = source
        self._wrong: set[str] = set()

    def add(self, key: str, reason: str) -> None:
        self._wrong.add(key)
        self.say(key, f"{key}: {reason}")

    def say(self, key: str, sentence: str) -> None:
        """A sentence that names what is wrong itself, about the line of `key`."""
        line = line_of(self._text, key)
        self.found.append((line, f"{self._source}:{line}: {sentence}"))

    def add_flaw(self, flaw: Flaw) -> None:
        if not any(self._is_wrong(key) for key in (flaw.key, *flaw.others)):
            self.say(flaw.key, f"{flaw.key}: {flaw.reason}")

    def lines(self) -> list[str]:
        """In the order of the text."""
        return [problem for _, problem in sorted(self.found, key=lambda found: found[0])]

    def _is_wrong(self, key: str) -> bool:
        return any(f"{key}.".startswith(f"{wrong}.") for wrong in self._wrong)


_TABLES: dict[str, tuple[type, str]] = {"commands": (Command, "df"), "hooks": (Hook, "scan")}
_SECTIONS = {name: kind for name, kind in get_type_hints(Config).items() if name != "source"}


def _config(raw: dict[str, Any], problems: _Problems) -> Config:
    """What can be read; each key that cannot has its default."""
    sections: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in _SECTIONS:
            problems.say(name, _unknown_section(name, value))
        elif name in _TABLES:
            sections[name] = _tables(name, value, problems)
        else:
            sections[name] = _section(name, _SECTIONS[name], value, problems)
    return Config(**sections)


def _with_own_socket(config: Config) -> Config:
    """The unix socket that is there by default is in runtime_dir, wherever that is."""
    path = os.path.join(config.server.runtime_dir, "forkd.sock")
    native = tuple(
        dataclasses.replace(each, host=path) if each.family == "unix" else each
        for each in config.listen.native
    )
    listen = msgspec.structs.replace(config.listen, native=native)
    return msgspec.structs.replace(config, listen=listen)


def _tables(section: str, value: Any, problems: _Problems) -> dict[str, Any]:
    """A section of tables whose names the administrator chose."""
    kind, example = _TABLES[section]
    if not isinstance(value, dict):
        problems.add(section, f"must be tables such as [{section}.{example}]")
        return {}
    return {
        name: _section(f"{section}.{name}", kind, table, problems) for name, table in value.items()
    }


def _section(name: str, kind: type, value: Any, problems: _Problems) -> Any:
    """Read one table key by key, so that every problem of it is found."""
    table = value if isinstance(value, dict) else {}
    if table is not value:
        problems.add(name, f"must be a table [{name}]")
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for key, item in table.items():
        dotted = f"{name}.{key}"
        if key not in hints:
            problems.add(dotted, f"unknown key{_hint(key, list(hints))}")
            continue
        try:
            fields[key] = read_value(item, hints[key])
        except UnfitError as error:
            for reason in error.reasons:
                problems.add(dotted, reason)
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in fields:
            fields[field.name] = ()  # exec of a command: the only one without a default
            if table is value and field.name not in table:
                problems.add(f"{name}.{field.name}", "is missing")
    return kind(**fields)


def _unknown_section(name: str, value: Any) -> str:
    if isinstance(value, dict | list):
        return f"unknown section [{name}]{_hint(name, list(_SECTIONS), '[{}]')}"
    kinds = {known: kind for known, kind in _SECTIONS.items() if known not in _TABLES}
    homes = [known for known, kind in kinds.items() if name in kind.__struct_fields__]
    where = f" ({' or '.join(f'[{home}]' for home in homes)}?)" if homes else ""
    return f"{name}: stands in no section{where}"


def _hint(name: str, known: list[str], form: str = "{}") -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" ({form.format(close[0])}?)"
    return f" (known: {', '.join(form.format(each) for each in known)})"
