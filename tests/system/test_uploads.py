"""Uploads against the real daemon: whole or not at all, resumed, never mixed, never over quota."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import pytest
from peer import ERROR, REPLY, Peer, RefusedError, noise
from rig import PASSWORD, wait_for

BLOCK = 4 << 20


def tree_digest(content: bytes) -> str:
    blocks = [
        hashlib.sha256(content[at : at + BLOCK]).digest() for at in range(0, len(content), BLOCK)
    ]
    if len(blocks) < 2:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(b"".join(blocks)).hexdigest()


@pytest.fixture
def alice(daemon):
    peer = Peer(daemon.unix_path)
    peer.login("alice", PASSWORD)
    yield peer
    peer.close()


def log_in(daemon) -> Peer:
    peer = Peer(daemon.unix_path)
    peer.login("alice", PASSWORD)
    return peer


def send_all(peer: Peer, ident: int, content: bytes, **end) -> dict:
    peer.data(ident, content)
    peer.data(ident, last=True, meta=end or None)
    kind, _, meta, _ = peer.read()
    if kind == ERROR:
        raise RefusedError(meta)
    assert kind == REPLY
    return meta


def test_a_thousand_small_puts_without_waiting(daemon, alice):
    idents = [
        alice.request({"op": "put", "path": f"many/{i}", "size": 5, "parents": True}, b"%05d" % i)
        for i in range(1000)
    ]
    order = [alice.read()[:2] for _ in idents]
    assert order == [(REPLY, ident) for ident in idents]
    for i in (0, 499, 999):
        assert (daemon.home() / "many" / str(i)).read_bytes() == b"%05d" % i
    assert alice.ask({"op": "quota"})[0]["used"] == 5000
    assert daemon.bytes_on_disk() == 5000


def test_an_empty_file(daemon, alice):
    assert alice.put("nothing", b"")["size"] == 0
    assert (daemon.home() / "nothing").read_bytes() == b""
    assert alice.get("nothing") == b""


def test_what_a_request_sees_includes_the_puts_before_it(alice):
    put = alice.request({"op": "put", "path": "x", "size": 3}, b"one")
    get = alice.request({"op": "get", "path": "x"})
    assert alice.answer(put)[0]["size"] == 3
    assert alice.answer(get)[1] == b"one"


def test_digest_mismatch_leaves_the_old_file(daemon, alice):
    alice.put("f", b"old")
    with pytest.raises(RefusedError) as refused:
        alice.put("f", b"new", digest="0" * 64)
    assert refused.value.code == "digest-mismatch"
    ident, _ = alice.begin("f", 3, check=True)
    with pytest.raises(RefusedError) as refused:
        send_all(alice, ident, b"new", digest="0" * 64)
    assert refused.value.code == "digest-mismatch"
    assert (daemon.home() / "f").read_bytes() == b"old"
    assert daemon.bytes_on_disk() == 3
    assert alice.ask({"op": "quota"})[0]["used"] == 3


def test_a_stream_shows_nothing_until_it_is_complete(daemon, alice):
    content = noise(3 << 20)
    ident, offer = alice.begin("big", len(content), tag="v1")
    assert offer == {"offset": 0, "proof": None}
    alice.data(ident, content[: 2 << 20])
    wait_for(lambda: daemon.bytes_on_disk() == 2 << 20)
    assert not (daemon.home() / "big").exists()
    send_all(alice, ident, content[2 << 20 :])
    assert (daemon.home() / "big").read_bytes() == content


@pytest.mark.parametrize("check", [False, True])
def test_an_interrupted_stream_goes_on_where_it_stopped(daemon, alice, check):
    content = noise(10 << 20)
    declared = {"tag": "v1", "client": "c", "check": check}
    ident, _ = alice.begin("big", len(content), **declared)
    alice.data(ident, content[: 9 << 20])
    wait_for(lambda: daemon.bytes_on_disk() == 9 << 20)
    alice.close()
    wait_for(lambda: not daemon.status()["totals"]["sessions_now"])
    again = log_in(daemon)
    assert again.ask({"op": "quota"})[0]["used"] == 9 << 20
    ident, offer = again.begin("big", len(content), **declared)
    held = 8 << 20 if check else 9 << 20
    assert offer["offset"] == held
    assert offer["proof"] == (tree_digest(content[:held]) if check else None)
    end = {"digest": tree_digest(content)} if check else {}
    send_all(again, ident, content[held:], **end)
    assert (daemon.home() / "big").read_bytes() == content
    assert again.ask({"op": "quota"})[0]["used"] == len(content) == daemon.bytes_on_disk()
    again.close()


def test_a_changed_source_is_refused_until_the_client_restarts(daemon, alice):
    ident, _ = alice.begin("f", 4 << 20, tag="v1", client="c")
    alice.data(ident, noise(1 << 20))
    alice.data(ident, last=True, meta={"abort": True})
    assert alice.read()[0] == ERROR
    for other in ({"tag": "v2"}, {"tag": "v1", "size": 5 << 20}, {"tag": "v1", "check": True}):
        with pytest.raises(RefusedError) as refused:
            alice.begin("f", **{"size": 4 << 20, "client": "c", **other})
        assert refused.value.code == "source-changed"
    ident, offer = alice.begin("f", 5, tag="v2", client="c", restart=True)
    assert offer["offset"] == 0
    send_all(alice, ident, b"fresh")
    assert (daemon.home() / "f").read_bytes() == b"fresh"
    assert alice.ask({"op": "quota"})[0]["used"] == 5 == daemon.bytes_on_disk()


def test_two_clients_that_upload_one_name_do_not_mix(daemon, alice):
    other = log_in(daemon)
    mine, his = noise(2 << 20), noise(2 << 20)
    first, _ = alice.begin("same", len(mine), tag="t", client="c")
    second, offer = other.begin("same", len(his), tag="t", client="c")
    assert offer["offset"] == 0
    for at in range(0, 2 << 20, 1 << 18):
        alice.data(first, mine[at : at + (1 << 18)])
        other.data(second, his[at : at + (1 << 18)])
    alice.data(first, last=True)
    assert alice.read()[0] == REPLY
    assert (daemon.home() / "same").read_bytes() == mine
    other.data(second, last=True)
    kind, _, meta, _ = other.read()
    assert (kind, meta["replaced"]) == (REPLY, True)
    assert (daemon.home() / "same").read_bytes() == his
    assert other.ask({"op": "quota"})[0]["used"] == 2 << 20 == daemon.bytes_on_disk()
    other.close()


def test_a_killed_worker_loses_no_byte_of_an_upload(daemon, alice):
    content = noise(12 << 20)
    ident, _ = alice.begin("big", len(content), tag="v1", check=True)
    alice.data(ident, content[: 9 << 20])
    wait_for(lambda: daemon.bytes_on_disk() == 9 << 20)
    slot = int(alice.hello["session"].split("-")[0], 16)
    victim = next(w for w in daemon.workers() if w["slot"] == slot)
    os.kill(victim["pid"], signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionError)):
        alice.read()
    others = {w["pid"] for w in daemon.workers()} - {victim["pid"]}
    wait_for(lambda: len({w["pid"] for w in daemon.workers()} - {victim["pid"]} - others) == 1)
    again = log_in(daemon)
    wait_for(lambda: again.ask({"op": "quota"})[0]["used"] == 9 << 20)
    ident, offer = again.begin("big", len(content), tag="v1", check=True)
    assert offer["offset"] == 8 << 20
    send_all(again, ident, content[8 << 20 :], digest=tree_digest(content))
    assert (daemon.home() / "big").read_bytes() == content
    assert [a["drift"] for a in daemon.verify()] == [0]
    again.close()


def test_the_quota_is_refused_before_the_first_byte_and_its_last_byte_is_usable(daemon):
    assert daemon.ctl("user", "set", "alice", "--quota", "1 MiB").returncode == 0
    alice = log_in(daemon)
    with pytest.raises(RefusedError) as refused:
        alice.begin("f", (1 << 20) + 1, tag="t")
    assert refused.value.code == "quota"
    alice.put("half", bytes(1 << 19))
    with pytest.raises(RefusedError) as refused:
        alice.put("more", bytes((1 << 19) + 1))
    assert refused.value.code == "quota"
    alice.put("exact", bytes(1 << 19))
    assert alice.ask({"op": "quota"})[0] == {"used": 1 << 20, "limit": 1 << 20}
    alice.ask({"op": "remove", "path": "half"})
    alice.put("again", bytes(1 << 19))
    assert daemon.bytes_on_disk() == 1 << 20
    alice.close()


def test_racing_uploads_over_four_workers_stop_at_the_limit_exactly(daemon_with):
    daemon = daemon_with(server={"workers": "4"})
    limit = 8 << 20
    assert daemon.ctl("user", "set", "alice", "--quota", str(limit)).returncode == 0
    sizes = [(300 + 37 * i) << 10 for i in range(32)]
    assert sum(sizes) > 2 * limit
    slots, outcomes, failures = set(), [], []

    def upload(number: int) -> None:
        peer = log_in(daemon)
        slots.add(peer.hello["session"].split("-")[0])
        content = noise(sizes[number])
        try:
            if number % 2:
                ident, _ = peer.begin(f"f{number}", len(content), tag="t")
                for at in range(0, len(content), 1 << 16):
                    peer.data(ident, content[at : at + (1 << 16)])
                peer.data(ident, last=True)
                kind, _, meta, _ = peer.read()
                outcomes.append("ok" if kind == REPLY else meta["code"])
            else:
                peer.put(f"f{number}", content[: 1 << 20])
                outcomes.append("ok")
        except RefusedError as refused:
            outcomes.append(refused.code)
        except Exception as error:
            failures.append(error)
        finally:
            peer.close()

    threads = [threading.Thread(target=upload, args=(i,)) for i in range(len(sizes))]
    most = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, daemon.bytes_on_disk())
        time.sleep(0.005)
    assert not failures
    assert len(slots) == 4
    assert most <= limit
    assert set(outcomes) == {"ok", "quota"}
    left = limit - daemon.bytes_on_disk()
    peer = log_in(daemon)
    assert peer.ask({"op": "quota"})[0]["used"] == limit - left
    with pytest.raises(RefusedError):
        peer.begin("one too many", left + 1, tag="t")
    ident, _ = peer.begin("the rest", left, tag="t")
    send_all(peer, ident, bytes(left))
    assert daemon.bytes_on_disk() == limit
    assert [a["drift"] for a in daemon.verify()] == [0]
    peer.close()


def test_partials_that_nobody_resumes_give_their_bytes_back(daemon_with):
    daemon = daemon_with(storage={"partial_expiry": '"1s"'})
    alice = log_in(daemon)
    ident, _ = alice.begin("f", 4 << 20, tag="v1")
    alice.data(ident, noise(1 << 20))
    wait_for(lambda: daemon.bytes_on_disk() == 1 << 20)
    alice.close()
    other = log_in(daemon)
    wait_for(lambda: other.ask({"op": "quota"})[0]["used"] == 0, 60)
    assert daemon.bytes_on_disk() == 0
    assert daemon.metrics()["forkd_partials_expired_total"] == 1
    other.close()
