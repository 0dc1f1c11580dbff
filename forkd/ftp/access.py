"""Commands of log-in and TLS (RFC 959 section 4.1.1, RFC 4217)."""

from __future__ import annotations

from forkd.ftp import arguments, requests
from forkd.ftp.arguments import Command
from forkd.ftp.replies import Negative
from forkd.ftp.requests import Request
from forkd.ftp.state import ProtocolAbuse
from forkd.ftp.talk import Talk


def on_user(talk: Talk, command: arguments.WithText) -> None:
    if talk.policy.tls == "require" and not talk.state.secure:
        raise Negative(530, "this server takes log-ins over TLS only: say AUTH TLS first")
    talk.state.forget()
    talk.state.user = command.text
    talk.say(331, "PASS tells the password.")


def on_pass(talk: Talk, command: arguments.WithText) -> Request:
    if talk.state.logged_in or talk.state.user is None:
        raise Negative(503, "USER comes first")
    user, talk.state.user = talk.state.user, None
    return requests.LogIn(user, command.text)


def on_rein(talk: Talk, _: Command) -> Request:
    talk.state.forget()
    return requests.LogOut()


def on_auth(talk: Talk, command: arguments.WithText) -> Request:
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


def on_pbsz(talk: Talk, _: Command) -> None:
    _demand_secure(talk, "PBSZ")
    if talk.state.protected_data is None:
        talk.state.protected_data = False
    talk.say(200, "PBSZ=0")


def on_prot(talk: Talk, command: arguments.WithText) -> None:
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
