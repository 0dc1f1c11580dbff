"""Where the daemon is that forkctl speaks of: its configuration, its socket, its owner.

Rules
  1. A broken configuration must not keep forkctl from the daemon that still serves the last good
     one: the socket's place is found in it as well as can be.
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
from forkd import privileges
from forkd.admin.controlclient import ControlClient
from forkd.admin.exits import CtlError, Exit
from forkd.config import Config
from forkd.errors import ConfigError, StartError

SOCKET_NAME = "control.sock"
CONFIG_VARIABLE = "FORKD_CONFIG"
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
        path = self._path()
        if path is None:
            return Config()
        try:
            return configuration.load(path)
        except ConfigError as error:
            raise CtlError(Exit.CANNOT_TELL, *error.problems) from None

    def control(self) -> ControlClient:
        """The daemon's control socket.  Raises CtlError where its place cannot be told."""
        if self.socket_path is not None:
            return ControlClient(self.socket_path)
        return ControlClient(os.path.join(self._runtime_dir(), SOCKET_NAME))

    def _path(self) -> str | None:
        chosen = self.config_path or os.environ.get(CONFIG_VARIABLE)
        if chosen:
            return chosen
        return configuration.DEFAULT_PATH if os.path.exists(configuration.DEFAULT_PATH) else None

    def _runtime_dir(self) -> str:
        try:
            return self.config().server.runtime_dir
        except CtlError:
            path = self._path()
            assert path is not None  # the built-in defaults are not refused
            try:
                text = Path(path).read_text()
            except (OSError, UnicodeDecodeError):
                raise CtlError(
                    Exit.CANNOT_TELL,
                    f"{path}: cannot be read; name the daemon's with -c or --socket",
                ) from None
            return _runtime_dir_of(text)


def _runtime_dir_of(text: str) -> str:
    """server.runtime_dir in a text that is no good configuration."""
    found: object = None
    try:
        server = tomllib.loads(text).get("server")
        found = server.get("runtime_dir") if isinstance(server, dict) else None
    except tomllib.TOMLDecodeError:
        match = _RUNTIME_DIR.search(text)
        found = match[1] if match else None
    return found if isinstance(found, str) else configuration.Server().runtime_dir


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
