"""Durable means durable: the order of writes, flushes, names and answers, on traced system calls.

For every file: its data is written, then flushed, then named; then its folder is flushed, and only
then the reply is sent.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import strace
from calltrace import Call, Trace, options, read, traced
from peer import REPLY, Peer, noise
from rig import Daemon, running
from torture import Tell, scale

from forkd.digest import digest_of


@pytest.fixture(scope="module")
def daemons() -> Iterator[Callable[[str], Daemon]]:
    """A daemon with one worker for each durability, made when it is first asked for."""
    strace.need()
    with ExitStack() as stack:

        @functools.cache
        def started(durability: str) -> Daemon:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="forkd-"))
            settings = {
                "server": {"workers": "1"},
                "storage": {"durability": f'"{durability}"'},
            }
            return stack.enter_context(running(Path(folder), settings))

        yield started


@dataclass
class Account:
    """Somebody new, logged in, on a daemon whose only worker can be traced."""

    daemon: Daemon
    user: str
    number: int
    home: Path

    def log_in(self) -> Peer:
        return self.daemon.log_in(self.user)

    def trace(self) -> AbstractContextManager[Trace]:
        daemon = self.daemon
        return traced(daemon.workers()[0]["pid"], daemon.folder / "trace", daemon.connect)


@pytest.fixture
def account(daemons) -> Iterator[Callable[..., Account]]:
    """account("group", "--home", "a/b"): options are those of `forkctl user add`."""
    started: list[Daemon] = []

    def make(durability: str, *options: str) -> Account:
        daemon = daemons(durability)
        user = f"user{len(daemon.users)}"
        daemon.add_user(user, *options)
        started.append(daemon)
        return Account(daemon, user, len(daemon.users), daemon.home(user))

    yield make
    for daemon in started:
        daemon.hang_up()


def pipelined(peer: Peer, names: list[str], content: bytes = b"hello", **more) -> dict[str, int]:
    """Put small files without waiting in between: name -> request."""
    sent = {
        name: peer.request({"op": "put", "path": name, "size": len(content), **more}, content)
        for name in names
    }
    assert [peer.read()[:2] for _ in names] == [(REPLY, ident) for ident in sent.values()]
    return sent


def streamed(peer: Peer, name: str, content: bytes, **more) -> int:
    ident, _ = peer.begin(name, len(content), **more)
    peer.data(ident, content)
    end = {"digest": digest_of(content)} if more.get("check") else None
    peer.data(ident, last=True, meta=end)
    kind, about, meta, _ = peer.read()
    assert (kind, about) == (REPLY, ident), meta
    return ident


def one(calls: list[Call]) -> Call:
    assert len(calls) == 1, calls
    return calls[0]


def flushed_between(trace: Trace, folder: Path, change: Call, reply: Call) -> bool:
    flushes = [*trace.on("fsync", folder), *trace.on("fdatasync", folder)]
    return any(change.before(flush) and flush.before(reply) for flush in flushes)


def check_file(trace: Trace, path: Path, reply: Call) -> Call:
    """Everything about one upload that was acknowledged; the call that named it."""
    named = one(trace.renames_to(path))
    staged = f"{named.paths[0]}/{named.strings[0].decode()}"
    for earlier in trace.renames_to(staged):  # a partial, before it takes an old file's place
        staged = f"{earlier.paths[0]}/{earlier.strings[0].decode()}"
    writes = [
        call for call in trace.named("write", "pwrite64", "splice") if call.paths[-1] == staged
    ]
    flush = one(trace.on("fdatasync", staged))
    assert writes
    assert all(write.before(flush) for write in writes), "written after its flush"
    assert flush.before(named), "named before its data was on the disk"
    assert flushed_between(trace, path.parent, named, reply), "answered before its name was"
    return named


def check_made(trace: Trace, folder: Path, reply: Call) -> None:
    """A folder that was made is on the disk by the time of the reply."""
    made = [call for call in trace.named("mkdir", "mkdirat") if _made(call) == str(folder)]
    assert flushed_between(trace, folder.parent, one(made), reply), folder


def _made(call: Call) -> str:
    return os.path.normpath(
        os.path.join(*call.paths[:1], call.strings[0].decode())
        if call.paths
        else call.strings[0].decode()
    )


def test_full_flushes_each_upload_by_itself(account):
    owner, names = account("full"), [f"f{number}" for number in range(20)]
    alice = owner.log_in()
    alice.put("before", b"x")
    with owner.trace() as trace:
        sent = pipelined(alice, names)
    replies, home = trace.replies(), owner.home
    renames = [check_file(trace, home / name, replies[sent[name]]) for name in names]
    assert len(trace.on("fsync", home)) == len(names)
    for named, following in itertools.pairwise(renames):
        assert any(
            named.before(flush) and flush.before(following) for flush in trace.on("fsync", home)
        )


@pytest.mark.torture
def test_a_group_shares_the_flushes_and_every_file_has_them(account, tell: Tell):
    owner, count = account("group"), scale(400, 2000)
    names = [f"d{number % 4}/f{number}" for number in range(count)]
    alice = owner.log_in()
    for number in range(4):
        alice.put(f"d{number}/before", b"x", parents=True)
    with owner.trace() as trace:
        sent = pipelined(alice, names)
    replies, home = trace.replies(), owner.home
    for name in names:
        check_file(trace, home / name, replies[sent[name]])
    flushes = trace.named("fsync")
    assert 4 * len(flushes) < count
    tell(files=count, data_flushes=len(trace.named("fdatasync")), folder_flushes=len(flushes))


def test_none_flushes_nothing(account):
    owner, names = account("none"), [f"new/f{number}" for number in range(50)]
    with owner.trace() as trace:
        alice = owner.log_in()
        pipelined(alice, names, parents=True)
        streamed(alice, "stream", noise(1 << 20), tag="t")
        alice.ask({"op": "remove", "path": names[0]})
        alice.ask({"op": "move", "path": names[1], "to": "moved"})
    assert trace.named("renameat2")
    assert not trace.named("fsync", "fdatasync", "sync_file_range")


STREAMS = {
    "spliced": {},
    "resumable": {"tag": "t"},
    "digest": {"check": True},
    "resumable digest": {"tag": "t", "check": True},
}


@pytest.mark.parametrize("durability", ["group", "full"])
def test_streams_new_and_over_an_old_file(account, durability):
    owner = account(durability)
    alice, home = owner.log_in(), owner.home
    sent = {}
    with owner.trace() as trace:
        for name, declared in STREAMS.items():
            sent[name] = streamed(alice, name, noise(1 << 20), **declared)
    replies = trace.replies()
    for name in STREAMS:
        assert "RENAME_NOREPLACE" in check_file(trace, home / name, replies[sent[name]]).words
    with owner.trace() as trace:
        for name, declared in STREAMS.items():
            sent[name] = streamed(alice, name, noise(1 << 20), **declared)
    replies = trace.replies()
    for name in STREAMS:
        assert "RENAME_EXCHANGE" in check_file(trace, home / name, replies[sent[name]]).words


def test_every_folder_that_is_made_is_flushed_in_the_one_above(account):
    owner = account("group")
    alice, home = owner.log_in(), owner.home
    with owner.trace() as trace:
        plain = alice.request({"op": "mkdir", "path": "a"})
        alice.answer(plain)
        deep = alice.request({"op": "mkdir", "path": "b/c/d", "parents": True})
        alice.answer(deep)
        put = pipelined(alice, ["e/f/g"], parents=True)["e/f/g"]
    replies = trace.replies()
    check_made(trace, home / "a", replies[plain])
    for folder in ("b", "b/c", "b/c/d"):
        check_made(trace, home / folder, replies[deep])
    for folder in ("e", "e/f"):
        check_made(trace, home / folder, replies[put])
    check_file(trace, home / "e/f/g", replies[put])


def test_removing_and_moving_flush_every_folder_they_change(account):
    owner = account("group")
    alice, home = owner.log_in(), owner.home
    pipelined(alice, ["a/f", "a/g", "b/f", "c/d/e"], parents=True)
    with owner.trace() as trace:
        move = alice.request({"op": "move", "path": "a/f", "to": "b/new"})
        alice.answer(move)
        over = alice.request({"op": "move", "path": "a/g", "to": "b/f", "replace": True})
        alice.answer(over)
        remove = alice.request({"op": "remove", "path": "b/new"})
        alice.answer(remove)
        whole = alice.request({"op": "remove", "path": "c", "recursive": True})
        alice.answer(whole)
    replies = trace.replies()
    for path, request in (("b/new", move), ("b/f", over)):
        moved = one(trace.renames_to(home / path))
        for folder in ("a", "b"):
            assert flushed_between(trace, home / folder, moved, replies[request])
    removed = [call for call in trace.named("renameat2") if call.strings[0] == b"new"]
    assert flushed_between(trace, home / "b", one(removed), replies[remove])
    gone = [call for call in trace.named("unlinkat") if call.strings[0] == b"c"]
    assert flushed_between(trace, home, one(gone), replies[whole])


def test_the_first_upload_of_an_account_has_its_folders_on_the_disk(account):
    owner = account("group", "--home", "partners/north/bob")
    data = owner.daemon.data
    with owner.trace() as trace:
        bob = owner.log_in()
        put = pipelined(bob, ["first"])["first"]
        again = pipelined(bob, ["second"])["second"]
    replies = trace.replies()
    home, staging = data / "partners" / "north" / "bob", data / ".forkd" / str(owner.number)
    for folder in (data / "partners", home.parent, home, staging):
        check_made(trace, folder, replies[put])
    check_file(trace, home / "first", replies[put])
    check_file(trace, home / "second", replies[again])
    assert len(trace.on("fsync", data)) == 1, "flushed once, not for every upload"


def test_what_a_start_makes_is_on_the_disk_before_it_serves(folder):
    strace.need()
    daemon, log = Daemon(folder), folder / "trace"
    try:
        daemon.start("strace", "-D", "-f", *options(log, 4096))
        daemon.stop()
    finally:
        daemon.destroy()
    trace = Trace(read(log))
    lines = [call for call in trace.named("write") if call.paths == (str(daemon.log),)]
    serving = next(call for call in lines if b'"serving"' in call.strings[0])
    for made in (daemon.state, daemon.data, daemon.data / ".forkd", daemon.state / "tls"):
        check_made(trace, made, serving)
    for name in ("ledger", "accounts.db"):
        path = daemon.state / name
        opened = next(
            call
            for call in trace.named("openat")
            if call.strings[0] == os.fsencode(path) and "O_CREAT" in call.words
        )
        flushes = [f for f in trace.named("fsync", "fdatasync") if f.paths == (str(path),)]
        assert any(opened.before(f) and f.before(serving) for f in flushes), name
        assert flushed_between(trace, daemon.state, opened, serving), name
    for name in ("cert.pem", "key.pem"):
        path = daemon.state / "tls" / name
        named = one([c for c in trace.named("rename") if c.strings[-1] == os.fsencode(path)])
        flushes = [f for f in trace.named("fsync") if f.paths == (named.strings[0].decode(),)]
        assert one(flushes).before(named)
        assert flushed_between(trace, path.parent, named, serving)
