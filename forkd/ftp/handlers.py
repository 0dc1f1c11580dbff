"""What each command does to the conversation: a reply, a request, a parameter that changes.

A handler answers with the request it makes, or None where it answered itself.  It raises Negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from forkd.ftp import commands, requests, words
from forkd.ftp.commands import Command
from forkd.ftp.facts import wanted_facts
from forkd.ftp.paths import Parts, resolve, show
from forkd.ftp.replies import Negative, quoted
from forkd.ftp.requests import Request
from forkd.ftp.state import HASHES, Policy, ProtocolAbuse, State

_X_HASHES = {
    "XCRC": "CRC32",
    "XMD5": "MD5",
    "XSHA": "SHA-1",
    "XSHA1": "SHA-1",
    "XSHA256": "SHA-256",
    "XSHA512": "SHA-512",
}


class Talk(Protocol):
    """What a handler may use of a Conversation."""

    state: State

    @property
    def policy(self) -> Policy: ...

    @property
    def has_commands(self) -> bool: ...

    def say(self, code: int, text: str | bytes) -> None: ...

    def say_lines(self, code: int, first: str, between: list[str | bytes], last: str) -> None: ...


# log-in and TLS


def _on_user(talk: Talk, command: commands.WithText) -> None:
    if talk.policy.tls == "require" and not talk.state.secure:
        raise Negative(530, "this server takes log-ins over TLS only: say AUTH TLS first")
    talk.state.forget()
    talk.state.user = command.text
    talk.say(331, "PASS tells the password.")


def _on_pass(talk: Talk, command: commands.WithText) -> Request:
    if talk.state.logged_in or talk.state.user is None:
        raise Negative(503, "USER comes first")
    user, talk.state.user = talk.state.user, None
    return requests.LogIn(user, command.text)


def _on_rein(talk: Talk, _: Command) -> Request:
    talk.state.forget()
    return requests.LogOut()


def _on_auth(talk: Talk, command: commands.WithText) -> Request:
    if talk.policy.tls == "off":
        raise Negative(502, "TLS is not offered")
    if command.text.upper() not in ("TLS", "TLS-C", "SSL", "TLS-P"):
        raise Negative(504, "AUTH is TLS here")
    if talk.state.secure:
        raise Negative(503, "this connection is under TLS already")
    if talk.has_commands:
        raise ProtocolAbuse("commands came in clear behind AUTH TLS")
    talk.state.forget()
    talk.state.protected_data = True if command.text.upper() in ("SSL", "TLS-P") else None
    talk.say(234, "TLS it is.")
    return requests.StartTls()


def _on_pbsz(talk: Talk, _: Command) -> None:
    _demand_secure(talk, "PBSZ")
    if talk.state.protected_data is None:
        talk.state.protected_data = False
    talk.say(200, "PBSZ=0")


def _on_prot(talk: Talk, command: commands.WithText) -> None:
    _demand_secure(talk, "PROT")
    if talk.state.protected_data is None:
        raise Negative(503, "PBSZ comes first")
    if command.text == "C" and talk.policy.tls == "require":
        raise Negative(534, "this server protects data: PROT P")
    talk.state.protected_data = command.text == "P"
    talk.say(200, f"PROT is {command.text}.")


def _demand_secure(talk: Talk, verb: str) -> None:
    if not talk.state.secure:
        raise Negative(503, f"{verb} comes after AUTH TLS")


# words


def _on_quit(talk: Talk, _: Command) -> Request:
    talk.say(221, "Goodbye.")
    return requests.Leave()


def _on_noop(talk: Talk, _: Command) -> None:
    talk.say(200, "NOOP ok.")


def _on_acct(talk: Talk, _: Command) -> None:
    talk.say(202, "no account but the user is needed")


def _on_syst(talk: Talk, _: Command) -> None:
    talk.say(215, "UNIX Type: L8")


def _on_client(talk: Talk, command: Command) -> None:
    talk.say(200, "Name=forkd;" if command.verb == "CSID" else "Noted.")


def _on_help(talk: Talk, command: commands.WithText) -> None:
    verb = command.text.upper()
    if verb == "SITE":
        _on_site_help(talk, command)
        return
    if verb in commands.VERBS:
        talk.say(214, f"{verb} {commands.VERBS[verb].help}")
        return
    talk.say_lines(
        214, "These commands are known:", words.verbs(), "HELP and a command tells more."
    )


def _on_site_help(talk: Talk, _: Command) -> None:
    talk.say_lines(214, "These SITE commands are known:", words.SITE_COMMANDS, "That is all.")


def _on_feat(talk: Talk, _: Command) -> None:
    talk.say_lines(211, "Features:", words.features(talk.policy, talk.state), "End")


def _on_opts(talk: Talk, command: commands.Options) -> None:
    value = command.value.strip()
    match command.about:
        case "UTF8" | "UTF-8" if value.upper() in (b"", b"ON", b"NLST"):
            talk.say(200, "Names are bytes, UTF-8 where they are text.")
        case "MLST":
            talk.state.facts = wanted_facts(value)
            told = "".join(f"{fact};" for fact in talk.state.facts)
            talk.say(200, f"MLST OPTS {told}".rstrip())
        case "HASH":
            wanted = value.decode("ascii", "replace").upper()
            if wanted and wanted not in HASHES:
                raise Negative(501, f"HASH is one of {', '.join(HASHES)}")
            talk.state.hash = wanted or talk.state.hash
            talk.say(200, talk.state.hash)
        case _:
            raise Negative(501, "there is no such option")


def _on_pwd(talk: Talk, _: Command) -> None:
    talk.say(257, quoted(show(talk.state.here)) + b" is the folder worked in.")


# parameters


def _on_type(talk: Talk, command: commands.WithText) -> None:
    talk.state.type = command.text
    talk.say(200, f"TYPE is {command.text}.")


def _on_fixed(talk: Talk, command: commands.WithText) -> None:
    talk.say(200, f"{command.verb} is {command.text}.")


def _on_rest(talk: Talk, command: commands.WithNumber) -> None:
    talk.state.restart = command.number
    talk.say(350, f"The next transfer starts at byte {command.number}.")


def _on_allo(talk: Talk, command: commands.WithNumber) -> None:
    talk.state.allocated = command.number
    talk.say(200, f"The next upload has {command.number} bytes.")


# the data connection


def _on_pasv(talk: Talk, _: Command) -> Request:
    _refuse_if_epsv_only(talk)
    return requests.OpenPassive(None, False)


def _on_epsv(talk: Talk, command: commands.ExtendedPassive) -> Request | None:
    if command.always:
        talk.state.epsv_only = True
        talk.say(200, "EPSV alone from now on.")
        return None
    return requests.OpenPassive(command.protocol, True)


def _on_port(talk: Talk, command: commands.WithEndpoint) -> Request:
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


def _on_retr(talk: Talk, command: commands.WithPath) -> Request:
    offset, _ = _begin_transfer(talk)
    return requests.Retrieve(_at(talk, command.path), offset)


def _on_stor(talk: Talk, command: commands.WithPath) -> Request:
    offset, announced = _begin_transfer(talk)
    return requests.Store(_at(talk, command.path), offset, announced)


def _on_appe(talk: Talk, command: commands.WithPath) -> Request:
    """An offset before APPE is where the file ends anyway, or a mistake: it says nothing."""
    _, announced = _begin_transfer(talk)
    return requests.Append(_at(talk, command.path), announced)


def _on_stou(talk: Talk, command: commands.WithPath) -> Request:
    _, announced = _begin_transfer(talk)
    path = _at(talk, command.path or b"stou")
    return requests.StoreUnique(path or (b"stou",), announced)


def _on_listing(talk: Talk, command: commands.WithPath) -> Request:
    _begin_transfer(talk)
    return requests.Listing(command.verb, _at(talk, command.path), command.path)


def _on_stat(talk: Talk, command: commands.WithPath) -> Request:
    if not command.path:
        return requests.Status()
    if not talk.state.logged_in:
        raise Negative(530, "log in with USER and PASS")
    return requests.Listing("STAT", _at(talk, command.path), command.path)


def _on_abor(_: Talk, __: Command) -> Request:
    return requests.Abort()


# files and folders


def _on_path(talk: Talk, command: commands.WithPath) -> Request:
    return requests.OnPath(command.verb, _at(talk, command.path))


def _on_cwd(talk: Talk, command: commands.WithPath) -> Request:
    return requests.OnPath("CWD", _at(talk, command.path))


def _on_cdup(talk: Talk, _: Command) -> Request:
    return requests.OnPath("CWD", talk.state.here[:-1])


def _on_size(talk: Talk, command: commands.WithPath) -> Request:
    if talk.state.type != "I":
        raise Negative(550, "SIZE counts bytes: say TYPE I first")
    return requests.OnPath("SIZE", _at(talk, command.path))


def _on_mdtm(talk: Talk, command: Command) -> Request:
    if isinstance(command, commands.SetTime):
        return _on_mfmt(talk, command)
    assert isinstance(command, commands.WithPath)
    return requests.OnPath("MDTM", _at(talk, command.path))


def _on_mfmt(talk: Talk, command: commands.SetTime) -> Request:
    return requests.SetTime(command.verb, _at(talk, command.path), command.mtime)


def _on_rnto(talk: Talk, command: commands.WithPath) -> Request:
    source, talk.state.rename_from = talk.state.rename_from, None
    if source is None:
        raise Negative(503, "RNFR comes first")
    return requests.Rename(source, _at(talk, command.path))


def _on_hash(talk: Talk, command: commands.WithPath) -> Request:
    algorithm = _X_HASHES.get(command.verb, talk.state.hash)
    return requests.Digest(_at(talk, command.path), algorithm, command.verb)


def _on_chmod(talk: Talk, command: commands.ChangeMode) -> Request:
    _demand_log_in(talk)
    return requests.SetMode(_at(talk, command.path), command.mode)


def _on_site(talk: Talk, command: Command) -> Request:
    _demand_log_in(talk)
    return requests.Tell(command.verb.removeprefix("SITE "))


def _demand_log_in(talk: Talk) -> None:
    if not talk.state.logged_in:
        raise Negative(530, "log in with USER and PASS")


def _at(talk: Talk, path: bytes) -> Parts:
    return resolve(talk.state.here, path)


HANDLERS: dict[str, Callable[[Talk, Any], Request | None]] = {
    "ABOR": _on_abor,
    "ACCT": _on_acct,
    "ALLO": _on_allo,
    "APPE": _on_appe,
    "AUTH": _on_auth,
    "AVBL": _on_path,
    "CDUP": _on_cdup,
    "CLNT": _on_client,
    "CSID": _on_client,
    "CWD": _on_cwd,
    "DELE": _on_path,
    "EPRT": _on_port,
    "EPSV": _on_epsv,
    "FEAT": _on_feat,
    "HASH": _on_hash,
    "HELP": _on_help,
    "LIST": _on_listing,
    "MDTM": _on_mdtm,
    "MFMT": _on_mfmt,
    "MKD": _on_path,
    "MLSD": _on_listing,
    "MLST": _on_path,
    "MODE": _on_fixed,
    "NLST": _on_listing,
    "NOOP": _on_noop,
    "OPTS": _on_opts,
    "PASS": _on_pass,
    "PASV": _on_pasv,
    "PBSZ": _on_pbsz,
    "PORT": _on_port,
    "PROT": _on_prot,
    "PWD": _on_pwd,
    "QUIT": _on_quit,
    "REIN": _on_rein,
    "REST": _on_rest,
    "RETR": _on_retr,
    "RMD": _on_path,
    "RNFR": _on_path,
    "RNTO": _on_rnto,
    "SITE CHMOD": _on_chmod,
    "SITE HELP": _on_site_help,
    "SITE QUOTA": _on_site,
    "SITE WHO": _on_site,
    "SIZE": _on_size,
    "STAT": _on_stat,
    "STOR": _on_stor,
    "STOU": _on_stou,
    "STRU": _on_fixed,
    "SYST": _on_syst,
    "TYPE": _on_type,
    "USER": _on_user,
    "XCRC": _on_hash,
    "XMD5": _on_hash,
    "XSHA": _on_hash,
    "XSHA1": _on_hash,
    "XSHA256": _on_hash,
    "XSHA512": _on_hash,
}
