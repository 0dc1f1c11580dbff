"""What a configuration needs of this machine, looked at before anything acts on it.

Rules
  1. A flaw is what no start can succeed with.  A warning is what will not work while the rest
     does, or what this process may not look at: a start by another user may.
  2. Nothing is made, opened for writing or bound here.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from forkd import config as configuration
from forkd.config import SEARCH_PATH, Config
from forkd.configlines import problem_at
from forkd.configrules import Flaw, Rule
from forkd.errors import StartError


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration that can be served; each warning is "file:line: key: reason"."""

    config: Config
    warnings: list[str]
    text: str = ""


def load(path: str, *rules: Rule) -> Checked:
    """Read and validate a file, by `rules` too.  Raises ConfigError with all its problems."""
    return check(configuration.read(path), path, flaws, *rules)


def check(text: str, path: str, *rules: Rule) -> Checked:
    """Validate the text of a file, by `rules` alone.  Raises ConfigError with all its problems."""
    config = configuration.parse(text, path, *rules)
    return Checked(
        config,
        [problem_at(text, path, found.key, found.reason) for found in warnings(config)],
        text,
    )


def flaws(config: Config) -> Iterator[Flaw]:
    """What a start would be refused for."""
    yield from _people(config)
    for key, folder in _folders(config).items():
        if _is_absolute(folder) and (obstacle := _obstacle(folder)):
            yield Flaw(key, f"{folder} cannot be a folder: {obstacle} is none")
    for key, path in (("log.file", config.log.file), ("log.xferlog", config.log.xferlog)):
        if _is_absolute(path) and (why := _no_place_for(path)):
            yield Flaw(key, why)
    made = {os.path.normpath(folder) for folder in _folders(config).values()}
    for path in (each.host for each in config.listen.native if each.family == "unix"):
        if os.path.dirname(path) not in made and (why := _no_place_for(path)):
            yield Flaw("listen.native", why, tuple(_folders(config)))
    if config.tls.mode == "files":
        for key, path in (("tls.cert", config.tls.cert), ("tls.key", config.tls.key)):
            if _is_absolute(path) and (why := _no_file(path)):
                yield Flaw(key, why, ("tls.mode",))


def certificate(config: Config) -> Iterator[Flaw]:
    """Whether TLS can work with the certificate's files; loads them, so not for the master."""
    from forkd.serving import tlscontext

    files = tlscontext.certificate_files(config)
    if not all(os.access(path, os.R_OK) for path in (files.cert, files.key)):
        return
    try:
        tlscontext.server_context(config)
    except StartError as error:
        key = "tls.cert" if config.tls.mode == "files" else "tls.mode"
        yield Flaw(key, str(error), ("tls.mode", "tls.key", "server.state_dir"))


def warnings(config: Config) -> Iterator[Flaw]:
    """What will not work, or could not be looked at."""
    programs = {f"commands.{name}.exec": command.exec for name, command in config.commands.items()}
    programs |= {f"hooks.{name}.exec": hook.exec for name, hook in config.hooks.items()}
    for key, (program, *_) in ((key, exec) for key, exec in programs.items() if exec):
        if not shutil.which(program, path=SEARCH_PATH):
            place = "" if os.path.isabs(program) else f" in {SEARCH_PATH}"
            yield Flaw(key, f"there is no program {program!r} to be executed{place}")
    if config.tls.mode == "files":
        for key, path in (("tls.cert", config.tls.cert), ("tls.key", config.tls.key)):
            if not os.access(path, os.R_OK):
                yield Flaw(key, f"{path} cannot be read by this user, so it was not looked into")
    pidfile, made = config.server.pidfile_path, os.path.normpath(config.server.runtime_dir)
    if os.path.dirname(pidfile) != made and (why := _no_place_for(pidfile)):
        yield Flaw("server.pidfile", f"{why}; `forkd serve --daemon` needs it")


def _people(config: Config) -> Iterator[Flaw]:
    if config.server.user:
        try:
            pwd.getpwnam(config.server.user)
        except KeyError:
            yield Flaw("server.user", f"there is no user {config.server.user!r}")
    for key in ("group", "operators"):
        name = getattr(config.server, key)
        if name and not _is_group(name):
            yield Flaw(f"server.{key}", f"there is no group {name!r}")


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _folders(config: Config) -> dict[str, str]:
    """Those that a start makes where they are missing."""
    return {
        "server.state_dir": config.server.state_dir,
        "server.runtime_dir": config.server.runtime_dir,
        "storage.path": config.storage.path,
    }


def _is_absolute(path: str) -> bool:
    return os.path.isabs(path)  # what is not has been told already


def _obstacle(folder: str) -> str:
    """What stands where this folder, or one above it, should be; "" where nothing is in the way."""
    while True:
        try:
            return "" if stat.S_ISDIR(os.stat(folder).st_mode) else folder
        except (FileNotFoundError, NotADirectoryError):
            above = os.path.dirname(folder.rstrip("/"))
            if above == folder:
                return ""
            folder = above
        except OSError:
            return ""  # not ours to see


def _no_place_for(path: str) -> str:
    """Why no file can be at this path; "" where one can."""
    folder = os.path.dirname(path)
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            return f"{folder} is not a folder"
        return f"{path} is a folder" if stat.S_ISDIR(os.stat(path).st_mode) else ""
    except (FileNotFoundError, NotADirectoryError):
        return "" if os.path.isdir(folder) else f"the folder {folder} does not exist"
    except OSError:
        return ""


def _no_file(path: str) -> str:
    """Why this path is no file to be read; "" where it is one, or cannot be seen."""
    try:
        return f"{path} is a folder" if stat.S_ISDIR(os.stat(path).st_mode) else ""
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no file {path}"
    except OSError:
        return ""
