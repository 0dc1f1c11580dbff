"""Folders made by root, and no root after start."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from forkd import folders
from forkd.config import Config
from forkd.errors import StartError


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom to become; `groups` are the supplementary ones."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(config: Config) -> Identity | None:
    """Whom the configuration wants the daemon to be; None: it stays who it is.

    Raises StartError for a user or group that is not there, or that only root could become.
    """
    user, group = config.server.user, config.server.group
    if not user:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise StartError(f"server.user: there is no user {user!r}") from None
    try:
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError:
        raise StartError(f"server.group: there is no group {group!r}") from None
    if os.geteuid() != 0:
        if os.geteuid() == entry.pw_uid:
            return None
        raise StartError(f"server.user: only root can become {user!r}; forkd was not started by it")
    return Identity(user, entry.pw_uid, gid, tuple(os.getgrouplist(user, gid)))


def make_folders(config: Config, owner: Identity | None) -> None:
    """Make what is missing of the state, runtime and storage folders, and give it to `owner`.

    The runtime folder can be entered by all, for a unix listener in it; what is in it has modes of
    its own.  Raises StartError naming the folder and the reason.
    """
    for path, mode in (
        (config.server.state_dir, 0o700),
        (config.server.runtime_dir, 0o755),
        (config.storage.path, 0o700),
    ):
        try:
            if os.path.isdir(path):
                continue
            folders.make(path)
            os.chmod(path, mode)
            if owner:
                os.chown(path, owner.uid, owner.gid)
        except OSError as error:
            raise StartError(f"cannot make the folder {path}: {error.strerror}") from None


def become(who: Identity | None) -> None:
    """Give up root for good: no saved id, no capability, no supplementary group is left."""
    if who is None:
        return
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)


def check_writable(config: Config) -> None:
    """Raises StartError where this process, as who it is now, cannot write what it must."""
    for key, path in (
        ("server.state_dir", config.server.state_dir),
        ("server.runtime_dir", config.server.runtime_dir),
        ("storage.path", config.storage.path),
    ):
        if not os.access(
            path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            if os.path.isdir(path) and os.statvfs(path).f_flag & os.ST_RDONLY:
                raise StartError(f"{key}: {path} is on a read-only filesystem")
            user = pwd.getpwuid(os.geteuid()).pw_name
            raise StartError(
                f"{key}: {path} cannot be written by user {user!r}: "
                "give it to that user, and let it pass through the folders above"
            )
