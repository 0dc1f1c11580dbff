"""What each command does to the conversation: a reply, a request, a parameter that changes.

A handler answers with the request it makes, or None where it answered itself.  It raises Negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forkd.ftp import access, arguments, parameters, requests
from forkd.ftp.arguments import Command
from forkd.ftp.paths import Parts, resolve
from forkd.ftp.replies import Negative
from forkd.ftp.requests import Request
from forkd.ftp.talk import Talk, demand_log_in

_X_HASHES = {
    "XCRC": "CRC32",
    "XMD5": "MD5",
    "XSHA": "SHA-1",
    "XSHA1": "SHA-1",
    "XSHA256": "SHA-256",
    "XSHA512": "SHA-512",
}


# the data connection


def _on_pasv(talk: Talk, _: Command) -> Request:
    _refuse_if_epsv_only(talk)
    return requests.OpenPassive(None, False)


def _on_epsv(talk: Talk, command: arguments.ExtendedPassive) -> Request | None:
    if command.always:
        talk.state.epsv_only = True
        talk.say(200, "EPSV alone from now on.")
        return None
    return requests.OpenPassive(command.protocol, True)


def _on_port(talk: Talk, command: arguments.WithEndpoint) -> Request:
    _refuse_if_epsv_only(talk)
    return requests.UseActive(command.endpoint)


def _refuse_if_epsv_only(talk: Talk) -> None:
    if talk.state.epsv_only:
        raise Negative(501, "after EPSV ALL there is only EPSV")


# transfers


def _begin_transfer(talk: Talk) -> tuple[int, int | None]:
    """(offset, announced size), which hold for one transfer."""
    told = talk.state.restart, talk.state.allocated
    talk.state.restart, talk.state.allocated = 0, None
    if talk.policy.tls == "require" and not talk.state.protected_data:
        raise Negative(522, "this server sends data over TLS only: say PBSZ 0 and PROT P")
    return told


def _on_retr(talk: Talk, command: arguments.WithPath) -> Request:
    offset, _ = _begin_transfer(talk)
    return requests.Retrieve(_at(talk, command.path), offset)


def _on_stor(talk: Talk, command: arguments.WithPath) -> Request:
    offset, announced = _begin_transfer(talk)
    return requests.Store(_at(talk, command.path), offset, announced)


def _on_appe(talk: Talk, command: arguments.WithPath) -> Request:
    """An offset before APPE is where the file ends anyway, or a mistake: it says nothing."""
    _, announced = _begin_transfer(talk)
    return requests.Append(_at(talk, command.path), announced)


def _on_stou(talk: Talk, command: arguments.WithPath) -> Request:
    _, announced = _begin_transfer(talk)
    path = _at(talk, command.path or b"stou")
    return requests.StoreUnique(path or (b"stou",), announced)


def _on_listing(talk: Talk, command: arguments.WithPath) -> Request:
    _begin_transfer(talk)
    return requests.Listing(command.verb, _at(talk, command.path), command.path)


def _on_stat(talk: Talk, command: arguments.WithPath) -> Request:
    if not command.path:
        return requests.Status()
    if not talk.state.logged_in:
        raise Negative(530, "log in with USER and PASS")
    return requests.Listing("STAT", _at(talk, command.path), command.path)


def _on_abor(_: Talk, __: Command) -> Request:
    return requests.Abort()


# files and folders


def _on_path(talk: Talk, command: arguments.WithPath) -> Request:
    return requests.OnPath(command.verb, _at(talk, command.path))


def _on_cwd(talk: Talk, command: arguments.WithPath) -> Request:
    return requests.OnPath("CWD", _at(talk, command.path))


def _on_cdup(talk: Talk, _: Command) -> Request:
    return requests.OnPath("CWD", talk.state.here[:-1])


def _on_size(talk: Talk, command: arguments.WithPath) -> Request:
    if talk.state.type != "I":
        raise Negative(550, "SIZE counts bytes: say TYPE I first")
    return requests.OnPath("SIZE", _at(talk, command.path))


def _on_mdtm(talk: Talk, command: Command) -> Request:
    if isinstance(command, arguments.SetTime):
        return _on_mfmt(talk, command)
    assert isinstance(command, arguments.WithPath)
    return requests.OnPath("MDTM", _at(talk, command.path))


def _on_mfmt(talk: Talk, command: arguments.SetTime) -> Request:
    return requests.SetTime(command.verb, _at(talk, command.path), command.mtime)


def _on_rnto(talk: Talk, command: arguments.WithPath) -> Request:
    source, talk.state.rename_from = talk.state.rename_from, None
    if source is None:
        raise Negative(503, "RNFR comes first")
    return requests.Rename(source, _at(talk, command.path))


def _on_hash(talk: Talk, command: arguments.WithPath) -> Request:
    algorithm = _X_HASHES.get(command.verb, talk.state.hash)
    return requests.Digest(_at(talk, command.path), algorithm, command.verb)


def _on_chmod(talk: Talk, command: arguments.ChangeMode) -> Request:
    demand_log_in(talk)
    return requests.SetMode(_at(talk, command.path), command.mode)


def _on_site(talk: Talk, command: Command) -> Request:
    demand_log_in(talk)
    return requests.Tell(command.verb.removeprefix("SITE "))


def _at(talk: Talk, path: bytes) -> Parts:
    return resolve(talk.state.here, path)


HANDLERS: dict[str, Callable[[Talk, Any], Request | None]] = {
    "ABOR": _on_abor,
    "ACCT": parameters.on_acct,
    "ALLO": parameters.on_allo,
    "APPE": _on_appe,
    "AUTH": access.on_auth,
    "AVBL": _on_path,
    "CDUP": _on_cdup,
    "CLNT": parameters.on_client,
    "CSID": parameters.on_client,
    "CWD": _on_cwd,
    "DELE": _on_path,
    "EPRT": _on_port,
    "EPSV": _on_epsv,
    "FEAT": parameters.on_feat,
    "HASH": _on_hash,
    "HELP": parameters.on_help,
    "LIST": _on_listing,
    "MDTM": _on_mdtm,
    "MFMT": _on_mfmt,
    "MKD": _on_path,
    "MLSD": _on_listing,
    "MLST": _on_path,
    "MODE": parameters.on_fixed,
    "NLST": _on_listing,
    "NOOP": parameters.on_noop,
    "OPTS": parameters.on_opts,
    "PASS": access.on_pass,
    "PASV": _on_pasv,
    "PBSZ": access.on_pbsz,
    "PORT": _on_port,
    "PROT": access.on_prot,
    "PWD": parameters.on_pwd,
    "QUIT": parameters.on_quit,
    "REIN": access.on_rein,
    "REST": parameters.on_rest,
    "RETR": _on_retr,
    "RMD": _on_path,
    "RNFR": _on_path,
    "RNTO": _on_rnto,
    "SITE CHMOD": _on_chmod,
    "SITE HELP": parameters.on_site_help,
    "SITE QUOTA": _on_site,
    "SITE WHO": _on_site,
    "SIZE": _on_size,
    "STAT": _on_stat,
    "STOR": _on_stor,
    "STOU": _on_stou,
    "STRU": parameters.on_fixed,
    "SYST": parameters.on_syst,
    "TYPE": parameters.on_type,
    "USER": access.on_user,
    "XCRC": _on_hash,
    "XMD5": _on_hash,
    "XSHA": _on_hash,
    "XSHA1": _on_hash,
    "XSHA256": _on_hash,
    "XSHA512": _on_hash,
}
