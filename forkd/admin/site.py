"""Where the daemon is that forkctl speaks of: its configuration, its socket, its owner.

Rules
  1. A broken or changed configuration must not keep forkctl from the daemon that still serves the
     last good one.  Where the text names the socket's place, that is believed; any other place is
     taken only where a daemon answers that serves this very file.
  2. Files in state_dir stay owned by its owner: root becomes that user before it touches one.
"""

from __future__ import annotations

import os
import pwd
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from forkd import config as configuration
from forkd.admin.controlclient import ControlClient, NotRunningError
from forkd.admin.exits import CtlError, Exit
from forkd.config import Config
from forkd.controlmessages import Status
from forkd.errors import ConfigError, StartError
from forkd.supervisor import privileges

SOCKET_NAME = "control.sock"
CONFIG_VARIABLE = "FORKD_CONFIG"
_NEIGHBOURS = re.compile(r"""(?:pidfile\s*=\s*["']|["']unix:)(/[^"'\n]+)["']""")
_RUNTIME_DIR = re.compile(r"""^\s*runtime_dir\s*=\s*["']([^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Site:
    """What the global options chose; `config_path` and `socket_path` None: the usual place."""

    config_path: str | None
    socket_path: str | None
    json: bool

    def config(self) -> Config:
        """The configuration; built-in defaults where none is named and the usual file is missing.

        Raises CtlError.
        """
        path = self.path()
        if path is None:
            return Config()
        try:
            return configuration.load(path)
        except ConfigError as error:
            raise CtlError(Exit.CANNOT_TELL, *error.problems) from None

    def control(self) -> ControlClient:
        """The daemon's control socket.  Raises CtlError where its place cannot be told."""
        if self.socket_path is not None:
            inside = os.path.isdir(self.socket_path)
            return ControlClient(_socket_in(self.socket_path) if inside else self.socket_path)
        path = self.path()
        if path is None:
            return ControlClient(_socket_in(configuration.Server().runtime_dir))
        try:
            text, problems = configuration.read(path), []
            folder: str | None = configuration.parse(text, path).server.runtime_dir
        except ConfigError as error:
            text, problems = _text_of(path), error.problems
            folder = runtime_dir_in(text) if text else None
        search = _Search(path, text, problems)
        if folder is None:
            return ControlClient(search(_socket_in(configuration.Server().runtime_dir)))
        return ControlClient(_socket_in(folder), search)

    def path(self) -> str | None:
        """The configuration's file; None for the built-in defaults."""
        chosen = self.config_path or os.environ.get(CONFIG_VARIABLE)
        if chosen:
            return chosen
        return configuration.DEFAULT_PATH if os.path.exists(configuration.DEFAULT_PATH) else None


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks for the daemon of a configuration file where its usual socket does not answer."""

    path: str
    text: str
    problems: list[str]

    def __call__(self, tried: str) -> str:
        """The control socket's path.  Raises CtlError; `tried` is where nobody answered."""
        for place in dict.fromkeys((tried, *_hinted_sockets(self.text))):
            if os.path.exists(place) and self._serves(place):
                return place
        if not self.problems:
            raise NotRunningError(tried)
        raise CtlError(
            Exit.CANNOT_TELL,
            *self.problems,
            f"so it cannot be told whether forkd is running (no answer on {tried}); name its "
            "control socket, or the folder it is in, with --socket PATH",
        )

    def _serves(self, place: str) -> bool:
        try:
            served = ControlClient(place).call(Status()).get("config")
        except CtlError:
            return False
        return isinstance(served, str) and os.path.realpath(served) == os.path.realpath(self.path)


def _socket_in(folder: str) -> str:
    return os.path.join(folder, SOCKET_NAME)


def _text_of(path: str) -> str:
    """The text of a file that is no good configuration, "" where it is not for us to read.

    Raises CtlError.
    """
    try:
        return Path(path).read_text(errors="replace")
    except PermissionError:
        return ""
    except OSError as error:
        raise CtlError(
            Exit.CANNOT_TELL,
            f"{path}: cannot be read: {error.strerror}; name the configuration with -c, or the "
            "control socket with --socket",
        ) from None


def runtime_dir_in(text: str) -> str | None:
    """server.runtime_dir by a text that is no good configuration; None where it cannot be told."""
    try:
        server = tomllib.loads(text).get("server", {})
    except tomllib.TOMLDecodeError:
        match = _RUNTIME_DIR.search(text)
        return match[1] if match else None
    default = configuration.Server().runtime_dir
    found = server.get("runtime_dir", default) if isinstance(server, dict) else None
    return found if isinstance(found, str) else None


def _hinted_sockets(text: str) -> list[str]:
    """Where control sockets would be beside the pidfile and the unix listeners of a text."""
    folders = [os.path.dirname(found[1]) for found in _NEIGHBOURS.finditer(text)]
    return [_socket_in(folder) for folder in folders]


def is_owner(config: Config) -> bool:
    """Whether this process may read the files in state_dir, or make them."""
    folder = config.server.state_dir
    if os.geteuid() == 0:
        return True
    try:
        return os.stat(folder).st_uid == os.geteuid()
    except FileNotFoundError:
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        return os.access(folder, os.W_OK)
    except OSError:
        return False


def become_owner(config: Config) -> None:
    """Become the user who owns state_dir, which is made where it is missing; only root can change.

    Raises CtlError where this process may not touch it.
    """
    folder = config.server.state_dir
    try:
        if not os.path.isdir(folder):
            privileges.make_folders(config, privileges.identity(config))
        status = os.stat(folder)
    except StartError as error:
        raise CtlError(Exit.CANNOT_TELL, f"{error}; run forkctl as root") from None
    except OSError as error:
        raise CtlError(Exit.CANNOT_TELL, f"{folder}: {error.strerror}") from None
    if status.st_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        raise CtlError(
            Exit.CANNOT_TELL,
            f"{folder} belongs to {_user_name(status.st_uid)}; run forkctl as root or as that user",
        )
    os.setgroups([status.st_gid])
    os.setresgid(status.st_gid, status.st_gid, status.st_gid)
    os.setresuid(status.st_uid, status.st_uid, status.st_uid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
