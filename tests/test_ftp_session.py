"""The FTP engine: golden conversations, every way to cut them, and any bytes at all."""

from __future__ import annotations

import re

import pytest
from ftp_golden import FOLDER, bytewise, order, replay, whole
from hypothesis import given
from hypothesis import strategies as st

from forkd.errors import CODES
from forkd.ftp import commands, handlers, requests
from forkd.ftp.lines import LINE_MAX
from forkd.ftp.replies import FOR_REFUSAL
from forkd.ftp.session import OUT_MAX, Conversation
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
            b"USER bob",
            b"REIN",
            b"PBSZ 0",
            b"PROT P",
            b"x" * 5000,
            b"NOOP\r\n" * 50,
            b"HELP\r\n" * 30,
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
        more = True
        while more:
            try:
                request = talk.next_request()
            except ProtocolAbuse:
                told.append("abuse")
                return told
            more = request is not None or talk.crowded
            told.append(talk.take_output().decode("latin-1"))
            if request is not None:
                told.append(str(request))
            match request:
                case requests.LogIn(user):
                    talk.entered(user)
                case requests.StartTls():
                    talk.secured()
                case _ if talk.busy:
                    talk.finish(250, "ok")
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


# interleaved with the door's answers, in any order


class Desk:
    """A door: it takes requests, and answers them when it is told to."""

    def __init__(self, policy: Policy) -> None:
        self.talk = Conversation(policy)
        self.pending: requests.Request | None = None
        self.told = b""
        self.over = False

    def say(self, data: bytes) -> None:
        """As Wire.fill: no more is read while the engine is full."""
        while data and not self.over:
            if self.talk.full:
                assert self.pending is not None, "it waits for bytes, and wants none"
                self.answer()
            piece, data = data[:4096], data[4096:]
            self.talk.receive(piece)
            self.work()

    def work(self) -> None:
        while not self.over and self._take():
            pass

    def _take(self) -> bool:
        try:
            request = self.talk.next_request()
        except ProtocolAbuse:
            self.over = True
            return False
        crowded = self.talk.crowded
        self.read()
        if request is None:
            assert crowded or self.pending is not None or not self.talk.full
            return crowded
        self.check(request)
        if isinstance(request, requests.Abort):
            self.abort()
        elif isinstance(request, requests.Status):
            self.talk.say_lines(211, "Status:", [], "End")
        elif isinstance(request, requests.Leave):
            self.over = True
        else:
            self.pending = request
        return True

    def check(self, request: requests.Request) -> None:
        """What may be asked of the door in this state."""
        state, policy = self.talk.state, self.talk.policy
        if not isinstance(request, requests.Abort | requests.Status):
            assert self.pending is None, "a request while another one runs"
        free = (requests.LogIn, requests.StartTls, requests.LogOut, requests.Leave)
        free += (requests.Abort, requests.Status)  # type: ignore[assignment]
        assert state.logged_in or isinstance(request, free), request
        if policy.tls == "require":
            assert state.secure or not isinstance(request, requests.LogIn)
            moves = requests.Retrieve | requests.Store | requests.Append | requests.Listing
            assert state.protected_data or not isinstance(request, moves)

    def abort(self) -> None:
        if self.pending is None:
            self.talk.say(226, "nothing")
        elif isinstance(self.pending, requests.Retrieve | requests.Store):
            self.answer(426)
            self.talk.say(226, "aborted")
        else:
            self.talk.say(225, "too late")

    def answer(self, code: int = 226) -> None:
        """End what runs; the reply tells which it was."""
        request, self.pending = self.pending, None
        match request:
            case None:
                return
            case requests.LogIn(user):
                self.talk.entered(user)
            case requests.StartTls():
                self.talk.secured()
            case _:
                self.talk.finish(code, repr(getattr(request, "path", None)))
        self.read()
        self.work()

    def read(self) -> None:
        said = self.talk.take_output()
        assert len(said) < OUT_MAX + 64 * 1024
        self.told += said

    def finish(self) -> bytes:
        while self.pending is not None and not self.over:
            self.answer()
        return self.told


NUMBERED = st.lists(st.sampled_from(["REST", "RETR", "MKD", "ALLO", "NOOP"]), max_size=40)
PIECES = st.lists(st.tuples(st.integers(1, 9000), st.booleans()), max_size=30)


def play(stream: bytes, pieces: list[tuple[int, bool]], policy: Policy) -> Desk:
    """Say it in pieces of these sizes; after some of them the door answers."""
    desk = Desk(policy)
    for size, answers in pieces:
        piece, stream = stream[:size], stream[size:]
        desk.say(piece)
        if answers:
            desk.answer()
    desk.say(stream)
    return desk


@given(NUMBERED, PIECES)
def test_replies_come_in_order_whenever_the_door_answers(
    verbs: list[str], pieces: list[tuple[int, bool]]
) -> None:
    """And the same ones: neither cuts nor delays change a word."""
    lines = ["USER alice", "PASS x", *(f"{verb} {n}" for n, verb in enumerate(verbs))]
    stream = "".join(line + "\r\n" for line in lines).encode()
    at_once = play(stream, [(1, True)] * len(stream), Policy()).finish()
    told = play(stream, pieces, Policy()).finish()
    assert told == at_once
    replies = told.decode().splitlines()
    assert len(replies) == len(lines)
    for number, (verb, reply_) in enumerate(zip(verbs, replies[2:], strict=True)):
        assert verb == "NOOP" or re.search(rf"\b{number}\b", reply_), (verb, reply_)


@given(st.lists(st.sampled_from(["RETR f", "MKD d", "ABOR", "STAT", "NOOP", "PWD"])), PIECES)
def test_each_command_has_one_reply_whatever_it_came_upon(
    lines: list[str], pieces: list[tuple[int, bool]]
) -> None:
    stream = "".join(line + "\r\n" for line in ["USER alice", "PASS x", *lines]).encode()
    told = play(stream, pieces, Policy()).finish().decode().splitlines()
    final = [line for line in told if line[3] == " " and line[:3].isdigit()]
    assert len(final) == 2 + len(lines)


@given(STREAM, PIECES, st.sampled_from(["off", "allow", "require"]))
def test_any_bytes_and_any_answers_keep_the_rules(
    stream: bytes, pieces: list[tuple[int, bool]], tls: str
) -> None:
    """The desk holds the engine to them."""
    prefix = b"AUTH TLS\r\n" if tls == "require" else b""
    desk = Desk(Policy(tls))
    desk.say(prefix)
    desk.answer()
    desk.say(b"USER alice\r\nPASS x\r\n")
    for size, answers in pieces:
        piece, stream = stream[:size], stream[size:]
        desk.say(piece * (1 if size < 8000 else 50))
        if answers:
            desk.answer()
    desk.say(stream)
    for line in desk.finish().decode("latin-1").splitlines():
        assert line.isprintable() or "\xff" in line


@given(st.integers(LINE_MAX - 3, LINE_MAX + 5), st.integers(1, 5), st.sampled_from(["\r\n", "\n"]))
def test_a_line_about_the_longest_is_answered_however_late_its_end_comes(
    size: int, last: int, end: str
) -> None:
    desk = Desk(Policy())
    line = b"NOOP " + b"x" * (size - 5) + end.encode()
    for piece in (line[:-last], *(line[len(line) - n :][:1] for n in range(last, 0, -1))):
        desk.say(piece)
    assert desk.told.startswith(b"200" if size <= LINE_MAX else b"500")
    assert desk.told.count(b"\n") == 1
