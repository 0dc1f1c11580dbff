"""Conversations of tests/golden/ftp: how they are read, and replayed on the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from forkd.ftp.session import Conversation
from forkd.ftp.state import Policy, ProtocolAbuse

FOLDER = Path(__file__).parent / "golden" / "ftp"
Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterable[bytes]:
    return (data,)


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def replay(text: str, cut: Cut) -> list[str]:
    """The conversation as the engine has it, in the form of the file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    policy = Policy()
    if lines[0].startswith("policy "):
        policy = Policy(tls=lines.pop(0).removeprefix("policy "))
    talk = Conversation(policy)
    told: list[str] = []
    packet = b""
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind in ("C:", "C+"):
            told.append(line)
            packet += rest.encode().decode("unicode_escape").encode("latin-1") + b"\r\n"
            if kind == "C+":
                continue
            pieces, packet = cut(packet), b""
            for piece in pieces:
                talk.receive(piece)
                if not _drain(talk, told):
                    return told
        elif kind == "<":
            told.append(line)
            _tell(talk, rest)
            if not _drain(talk, told):
                return told
    return told


def _tell(talk: Conversation, what: str) -> None:
    verb, _, rest = what.partition(" ")
    match verb:
        case "entered":
            talk.entered(rest)
        case "secured":
            talk.secured()
        case "moved-to":
            talk.moved_to(tuple(part.encode() for part in rest.split("/") if part))
        case "renaming":
            talk.renaming(tuple(part.encode() for part in rest.split("/") if part))
        case "finish":
            code, _, text = rest.partition(" ")
            talk.finish(int(code), text)
        case _:
            raise ValueError(what)


def _drain(talk: Conversation, told: list[str]) -> bool:
    while True:
        try:
            request = talk.next_request()
        except ProtocolAbuse as error:
            told.append(f"= {error}")
            return False
        for line in talk.take_output().split(b"\r\n")[:-1]:
            told.append("S: " + line.decode("utf-8", "backslashreplace"))
        if request is None:
            return True
        told.append(f"> {request}")


def order(told: list[str]) -> list[str]:
    """A conversation that does not depend on how packets were cut: C+ lines come first."""
    said = [line for line in told if line.startswith(("C:", "C+"))]
    return said + [line for line in told if not line.startswith(("C:", "C+"))]
