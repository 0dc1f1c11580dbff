"""The FTP engine: golden conversations, every way to cut them, and any bytes at all."""

from __future__ import annotations

import pytest
from ftp_golden import FOLDER, bytewise, order, replay, whole
from hypothesis import given
from hypothesis import strategies as st

from forkd.errors import CODES
from forkd.ftp import commands, handlers, requests
from forkd.ftp.replies import FOR_REFUSAL
from forkd.ftp.session import Conversation
from forkd.ftp.state import Policy, ProtocolAbuse

GOLDEN = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.txt"))}
WORDS = st.sampled_from(
    [
        *(b"USER alice", b"PASS x", b"AUTH TLS", b"TYPE I", b"RETR f", b"STOR f", b"ABOR", b"NOOP"),
        *(
            b"STAT",
            b"QUIT",
            b"REST 5",
            b"PASV",
            b"EPSV ALL",
            b"RNFR a",
            b"RNTO b",
            b"FEAT",
            b"\xff",
        ),
        *(b"\r", b"\n", b"\r\n", b"\0", b" ", b"\xff\xf4", b"\xff\xfb", b"\xff\xfa", b"\xff\xf0"),
    ]
)
STREAM = st.lists(st.one_of(WORDS, WORDS, st.binary(max_size=6)), max_size=60).map(b"".join)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    expected = [line for line in GOLDEN[name].splitlines() if line and line[0] != "#"]
    assert replay(GOLDEN[name], whole) == [e for e in expected if not e.startswith("policy")]


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - {"tls-injected"}))
def test_golden_byte_by_byte(name: str) -> None:
    """What is said in clear behind AUTH TLS is refused by the handshake if it comes late."""
    told = replay(GOLDEN[name], bytewise)
    assert order(told) == order(replay(GOLDEN[name], whole))


def converse(pieces: list[bytes], policy: Policy) -> list[str]:
    """Everything the engine makes of a stream, where each request is ended at once."""
    talk = Conversation(policy)
    told: list[str] = []
    for piece in pieces:
        talk.receive(piece)
        try:
            while (request := talk.next_request()) is not None:
                told.append(talk.take_output().decode("latin-1"))
                told.append(str(request))
                match request:
                    case requests.LogIn(user):
                        talk.entered(user)
                    case requests.StartTls():
                        talk.secured()
                    case _ if talk.busy:
                        talk.finish(250, "ok")
        except ProtocolAbuse:
            told.append("abuse")
            return told
        told.append(talk.take_output().decode("latin-1"))
    return told


@given(STREAM, st.data())
def test_however_the_bytes_are_cut_they_mean_the_same(stream: bytes, data: st.DataObject) -> None:
    stream = b"USER alice\r\nPASS x\r\n" + stream.replace(b"AUTH", b"AUTX")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert "".join(converse(pieces, Policy())) == "".join(converse([stream], Policy()))


@given(STREAM)
def test_any_bytes_are_answered_or_refused(stream: bytes) -> None:
    for line in "".join(converse([stream], Policy("allow"))).splitlines():
        assert line.isprintable() or "\xff" in line


def test_no_byte_in_clear_is_carried_out_under_tls() -> None:
    talk = Conversation(Policy("allow"))
    talk.receive(b"AUTH TLS\r\nUSER mallory\r\nPASS x\r\n")
    with pytest.raises(ProtocolAbuse):
        talk.next_request()
    assert b"331" not in talk.take_output()


def test_every_verb_has_a_handler_and_each_handler_a_verb() -> None:
    said = {handler.partition(" ")[0] for handler in handlers.HANDLERS}
    assert said == commands.VERBS.keys()


def test_every_refusal_has_a_code() -> None:
    assert FOR_REFUSAL.keys() == CODES.keys()
    retry = {code for code, (_, again) in CODES.items() if again}
    assert {code for code, reply in FOR_REFUSAL.items() if reply < 500} == {
        *retry,
        "kicked",
        "banned",
    }


def test_implicit_tls_protects_data_at_once() -> None:
    talk = Conversation(Policy("require"))
    talk.imply_protection()
    talk.receive(b"USER alice\r\nPASS x\r\nRETR f\r\n")
    assert isinstance(talk.next_request(), requests.LogIn)
    talk.entered("alice")
    assert isinstance(talk.next_request(), requests.Retrieve)
