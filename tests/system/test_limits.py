"""Limits over all workers of the real daemon: sessions, bandwidth, log-ins."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from peer import DATA, ERROR, HEADER, REPLY, Peer, RefusedError, noise
from rig import PASSWORD, Daemon, running, wait_for
from torture import FULL, Tell, scale

from forkd.accounts.passwords import Passwords
from forkd.digest import digest_of

Start = Callable[..., Daemon]
WORKERS = {"workers": "4"}


def connect_from(daemon: Daemon, host: str, *, tls: bool = False) -> Peer:
    """A connection from an address of 127.0.0.0/8, as if from another machine."""
    sock = socket.create_connection((daemon.host, daemon.port), 60, (host, 0))
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    return daemon.adopt(Peer.over(sock))


def slot_of(peer: Peer) -> int:
    return int(peer.hello["session"].partition("-")[0], 16)


def on_each_worker(connect: Callable[[], Peer], count: int = 4) -> dict[int, Peer]:
    """A connection to each of `count` workers, by slot."""
    found: dict[int, Peer] = {}
    for _ in range(60 * count):
        peer = connect()
        if slot_of(peer) in found:
            peer.close()
        else:
            found[slot_of(peer)] = peer
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} workers take connections")


def code_of(what: Callable[[], Any]) -> str:
    """ "ok", or the code of the refusal."""
    try:
        what()
    except RefusedError as refused:
        return str(refused.code)
    return "ok"


def sessions_of(daemon: Daemon, user: str = "alice") -> list[dict[str, Any]]:
    return [s for s in json.loads(daemon.ctl("sessions", "--json").stdout) if s["user"] == user]


# sessions


def race(daemon: Daemon, clients: int) -> tuple[list[Peer], Counter[str]]:
    """So many clients of alice log in at one time: those that got in, and how it went."""
    peers = [daemon.connect() for _ in range(clients)]
    gate = threading.Barrier(clients)

    def log_in(peer: Peer) -> str:
        gate.wait()
        return code_of(lambda: peer.login("alice", PASSWORD))

    with ThreadPoolExecutor(clients) as pool:
        outcomes = list(pool.map(log_in, peers))
    inside = [peer for peer, outcome in zip(peers, outcomes, strict=True) if outcome == "ok"]
    return inside, Counter(outcomes)


@pytest.mark.torture
def test_a_race_of_log_ins_ends_with_exactly_the_limit(daemon_with: Start, tell: Tell) -> None:
    daemon = daemon_with(server=WORKERS, limits={"sessions_per_user": "10"})
    rounds, slots = scale(1, 10), set[int]()
    for _ in range(rounds):
        inside, outcomes = race(daemon, 40)
        assert outcomes == {"ok": 10, "too-many": 30}
        assert len(sessions_of(daemon)) == 10
        slots |= {slot_of(peer) for peer in inside}
        inside.pop().close()  # one place is free, for one
        last = daemon.connect()
        wait_for(lambda peer=last: code_of(lambda: peer.login("alice", PASSWORD)) == "ok")
        assert code_of(lambda: daemon.log_in()) == "too-many"
        daemon.hang_up()
        wait_for(lambda: not sessions_of(daemon))
    assert len(slots) > 1
    tell(rounds=rounds, clients=40, limit=10, most_seen=10, workers_met=len(slots))


@pytest.mark.torture
def test_a_killed_worker_gives_back_its_sessions(daemon_with: Start, tell: Tell) -> None:
    limits = {"sessions_per_user": "10", "sessions_per_address": "12"}
    daemon = daemon_with(server=WORKERS, limits=limits)
    kills = scale(3, 20)
    inside, _ = race(daemon, 12)
    for _ in range(kills):
        assert len(inside) == 10
        slots = Counter(map(slot_of, inside))
        victim, lost = slots.most_common(1)[0]
        pid = next(w["pid"] for w in daemon.workers() if w["slot"] == victim)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda dead=pid: len(daemon.workers()) == 4 and _all_but(daemon, dead))
        inside = [peer for peer in inside if slot_of(peer) != victim]
        for peer in daemon.peers:  # those without a log-in count for the address
            if peer not in inside:
                peer.close()
        while len(inside) < 10:
            peer = wait_for(lambda: _get_in(daemon))
            inside.append(peer)
            lost -= 1
        assert lost == 0
        peer = wait_for(lambda: _connected(daemon))
        assert code_of(lambda peer=peer: peer.login("alice", PASSWORD)) == "too-many"
        peer.close()
    tell(kills=kills, sessions_lost_for_ever=0)


def _all_but(daemon: Daemon, pid: int) -> bool:
    return all(worker["pid"] != pid for worker in daemon.workers())


def _connected(daemon: Daemon) -> Peer | None:
    try:
        return daemon.connect()
    except RefusedError as refused:
        if refused.code != "too-many":
            raise
        return None


def _get_in(daemon: Daemon) -> Peer | None:
    """A further session, None while what was lost is still counted."""
    peer = _connected(daemon)
    if peer is not None and code_of(lambda: peer.login("alice", PASSWORD)) == "ok":
        return peer
    if peer is not None:
        peer.close()
    return None


@pytest.mark.parametrize("tls", [False, True])
def test_connections_per_address(daemon_with: Start, tls: bool) -> None:
    daemon = daemon_with(server=WORKERS, limits={"sessions_per_address": "5"})

    def outcome(host: str) -> str:
        return code_of(lambda: connect_from(daemon, host, tls=tls))

    with ThreadPoolExecutor(20) as pool:
        outcomes = Counter(pool.map(outcome, ["127.0.0.2"] * 20))
    assert outcomes == {"ok": 5, "too-many": 15}
    assert outcome("127.0.0.3") == "ok"
    daemon.log_in()  # over the unix socket
    wait_for(lambda: daemon.metrics()['forkd_refusals_total{reason="too-many"}'] == 15)
    daemon.hang_up()
    wait_for(lambda: outcome("127.0.0.2") == "ok")


def test_a_session_that_logs_in_again_keeps_its_place(daemon_with: Start) -> None:
    daemon = daemon_with(limits={"sessions_per_user": "1"})
    daemon.add_user("bob")
    peer = daemon.log_in()
    for user in ("alice", "bob", "bob", "alice"):
        peer.login(user, PASSWORD)
    other = daemon.log_in("bob")
    assert code_of(lambda: peer.login("bob", PASSWORD)) == "too-many"
    assert peer.put("still-alice", b"x")["size"] == 1
    other.close()
    wait_for(lambda: code_of(lambda: peer.login("bob", PASSWORD)) == "ok")
    assert code_of(lambda: daemon.log_in("alice")) == "ok"


def test_forkc_tells_of_too_many_and_goes_on_when_there_is_room(daemon_with: Start) -> None:
    limits = {"sessions_per_user": "1", "sessions_per_address": "2"}
    daemon = daemon_with(limits=limits)
    tcp = (daemon.host, daemon.port)
    for fill in (lambda: [daemon.log_in()], lambda: [daemon.connect(tcp) for _ in range(2)]):
        held = fill()
        client = daemon.forkc_start("ls", daemon.url())
        assert client.stderr is not None
        told = ""
        while "too-many" not in told:
            line = client.stderr.readline()
            assert line, told
            told += line
        assert "trying again" in told
        for peer in held:
            peer.close()
        assert client.wait(60) == 0
        wait_for(lambda: not sessions_of(daemon))


def test_forkc_makes_do_with_the_connections_it_gets(daemon_with: Start, folder: Path) -> None:
    daemon = daemon_with(limits={"sessions_per_user": "2"})
    source = folder / "many"
    source.mkdir()
    for number in range(4):
        (source / f"f{number}").write_bytes(noise(2 << 20))
    done = daemon.forkc("put", "-r", "-j", "4", source, daemon.url())
    assert done.returncode == 0, done.stderr
    assert len(list((daemon.home() / "many").iterdir())) == 4


# bandwidth

RATE = 4 << 20


def download(peer: Peer, path: str, ends: float) -> None:
    peer.request({"op": "get", "path": path})
    while time.monotonic() < ends:
        peer.sock.recv(1 << 16)


def upload(peer: Peer, path: str, ends: float) -> None:
    size = 1 << 30
    ident, _ = peer.begin(path, size, tag="t")
    peer.sock.sendall(HEADER.pack(DATA, 0, 0, ident, size))
    peer.sock.settimeout(0.2)
    while time.monotonic() < ends:
        with contextlib.suppress(TimeoutError):
            peer.sock.send(b"x" * (1 << 16))


def small_uploads(peer: Peer, path: str, ends: float) -> None:
    content = b"x" * 16384
    _pipelined(peer, {"op": "put", "path": path, "size": len(content)}, content, ends)


def small_downloads(peer: Peer, path: str, ends: float) -> None:
    _pipelined(peer, {"op": "get", "path": "small"}, b"", ends)


def _pipelined(peer: Peer, meta: dict[str, Any], payload: bytes, ends: float) -> None:
    """The same request again and again, eight ahead."""
    for _ in range(8):
        peer.request(meta, payload)
    while time.monotonic() < ends:
        assert peer.read()[0] == REPLY
        peer.request(meta, payload)


MOVES: dict[str, tuple[Callable[[Peer, str, float], None], str]] = {
    "download": (download, "down"),
    "upload": (upload, "up"),
    "small-downloads": (small_downloads, "down"),
    "small-uploads": (small_uploads, "up"),
}
SHORT = [
    ("download", False, 4),
    ("download", True, 1),
    ("upload", False, 1),
    ("upload", True, 4),
    ("small-downloads", True, 4),
    ("small-uploads", False, 4),
]
CASES = list(itertools.product(MOVES, (False, True), (1, 4))) if FULL else SHORT


@pytest.fixture(scope="module")
def throttled() -> Iterator[Daemon]:
    settings = {
        "server": WORKERS,
        "storage": {"durability": '"none"'},
        "quota": {"default": '"unlimited"'},
        "limits": {"user_bandwidth_up": f"{RATE}", "user_bandwidth_down": f"{RATE}"},
    }
    with (
        tempfile.TemporaryDirectory(prefix="forkd-") as folder,
        running(Path(folder), settings) as daemon,
    ):
        yield daemon


@pytest.mark.torture
@pytest.mark.parametrize(("kind", "tls", "sessions"), CASES)
def test_bandwidth_is_shared_by_all_sessions_of_a_user(
    throttled: Daemon, tell: Tell, kind: str, tls: bool, sessions: int
) -> None:
    move, direction = MOVES[kind]
    user = f"{kind}{sessions}{'tls' if tls else ''}"
    throttled.add_user(user)
    throttled.home(user).mkdir(exist_ok=True)
    with open(throttled.home(user) / "download", "wb") as large:
        large.truncate(1 << 30)
    (throttled.home(user) / "small").write_bytes(b"x" * 16384)
    found = on_each_worker(lambda: connect_from(throttled, "127.0.0.1", tls=tls))
    peers = list(found.values())[:sessions]
    for peer in peers:
        peer.login(user, PASSWORD)
    seconds = scale(2, 10)
    counter = f'forkd_transfer_bytes_total{{direction="{direction}",protocol="native"}}'
    with ThreadPoolExecutor(sessions) as pool:
        ends = time.monotonic() + seconds + 1.5
        paths = ["download" if kind == "download" else f"f{i}" for i in range(sessions)]
        moving = [pool.submit(move, *one, ends) for one in zip(peers, paths, strict=True)]
        time.sleep(0.5)
        first, at = throttled.metrics()[counter], time.monotonic()
        time.sleep(seconds)
        last, to = throttled.metrics()[counter], time.monotonic()
        for one in moving:
            one.result()
    throttled.hang_up()
    wait_for(lambda: not sessions_of(throttled, user))  # what it has sent still comes in, throttled
    ratio = (last - first) / (to - at) / RATE
    tell(ratio=round(ratio, 4))
    bound = 0.05 if FULL else 0.5
    assert abs(ratio - 1) <= bound, f"{ratio:.3f} of the bandwidth"


def test_throttled_sessions_do_not_hold_up_others(daemon_with: Start) -> None:
    """There are more of them than a worker has threads; the others need some."""
    limits = {"user_bandwidth_down": '"1 KiB"', "user_bandwidth_up": '"1 KiB"'}
    daemon = daemon_with(server={"workers": "1"}, limits=limits)
    daemon.home().mkdir(exist_ok=True)
    (daemon.home() / "f").write_bytes(noise(4 << 20))
    daemon.add_user("bob")
    for number in range(40):
        peer = daemon.log_in()
        if number % 2:
            peer.request({"op": "get", "path": "f"})
        else:
            peer.request({"op": "put", "path": f"g{number}", "size": 9000}, noise(9000))
    bob = daemon.log_in("bob")
    bob.put("note", b"hello")
    assert bob.ask({"op": "list", "path": ""})[1].count(b"\n") == 1
    assert len(list(daemon.home().iterdir())) < 10  # nearly all still wait
    daemon.hang_up()
    wait_for(lambda: not sessions_of(daemon))


def test_no_file_is_cut_by_a_throttle(daemon_with: Start) -> None:
    daemon = daemon_with(limits={"user_bandwidth_down": '"2 MiB"', "user_bandwidth_up": '"2 MiB"'})
    content = noise(1 << 20)
    peer = daemon.log_in()
    ident, _ = peer.begin("stream", len(content), check=True, digest=digest_of(content))
    for at in range(0, len(content), 5000):
        peer.data(ident, content[at : at + 5000], last=at + 5000 >= len(content))
    assert peer.answer(ident)[0]["size"] == len(content)
    assert peer.get("stream") == content
    assert peer.get("stream", check=True) == content
    waiting = [
        peer.request({"op": "put", "path": f"s{i}", "size": 60000}, content[:60000])
        for i in range(20)
    ]
    for ident in waiting:
        peer.answer(ident)
    assert peer.get("s19") == content[:60000]
    assert daemon.verify()[0]["drift"] == 0


# failed log-ins


def failing(daemon: Daemon, host: str, user: str = "alice") -> tuple[str, float]:
    """A wrong password from an address: the code, and the seconds until it came."""
    peer = None
    try:
        peer = connect_from(daemon, host)
        began = time.monotonic()
        peer.login(user, "wrong")
    except RefusedError as refused:
        return refused.code, time.monotonic() - began if peer else 0.0
    finally:
        if peer is not None:
            peer.close()
    raise AssertionError("a wrong password was taken")


def bans(daemon: Daemon) -> dict[str, dict[str, Any]]:
    found = daemon.ctl("bans", "--json")
    assert found.returncode == 0, found.stderr
    return {one["address"]: one for one in json.loads(found.stdout)}


def test_answers_to_failures_come_later_and_later(daemon_with: Start) -> None:
    daemon = daemon_with(server=WORKERS)
    times = [failing(daemon, "127.0.0.9", "nobody")[1] for _ in range(4)]
    for number, seconds in enumerate(times):
        assert seconds >= 0.25 * 2**number
    # the owner comes from elsewhere and waits for nothing but the hash
    assert code_of(lambda: daemon.log_in()) == "ok"
    assert bans(daemon)["127.0.0.9"]["failures"] == 4
    assert bans(daemon)["127.0.0.9"]["until"] is None


def test_a_name_under_attack_is_slow_to_guess_and_open_to_its_owner(daemon_with: Start) -> None:
    daemon = daemon_with(server=WORKERS, limits={"ban_after": "2"})
    hosts = [f"127.0.1.{number}" for number in range(1, 7)]
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda host: failing(daemon, host), hosts))
    assert {code for code, _ in outcomes} == {"auth-failed"}
    assert failing(daemon, "127.0.2.1")[1] >= 2.0  # by the name: the address is a new one
    owner = connect_from(daemon, "127.0.3.1")
    assert owner.login("alice", PASSWORD)["user"] == "alice"
    assert all(one["until"] is None for one in bans(daemon).values())


def test_a_ban_holds_on_every_worker_comes_and_goes(daemon_with: Start) -> None:
    limits = {"ban_after": "3", "ban_time": '"6s"', "ban_window": '"4s"'}
    daemon = daemon_with(server=WORKERS, limits=limits)
    host = "127.0.0.7"
    held = on_each_worker(lambda: connect_from(daemon, host))
    with ThreadPoolExecutor(3) as pool:  # so that they are all within the window
        assert {c for c, _ in pool.map(lambda _: failing(daemon, host), range(3))} == {
            "auth-failed"
        }
    banned_at = time.time()
    for peer in held.values():  # who is connected cannot log in
        assert code_of(lambda peer=peer: peer.login("alice", PASSWORD)) == "banned"
        assert peer.sock.recv(1) == b""
    for _ in range(20):  # nobody else connects; 20 tries meet every worker
        assert code_of(lambda: connect_from(daemon, host)) == "banned"
    assert code_of(lambda: connect_from(daemon, host, tls=True)) == "banned"
    entry = bans(daemon)[host]
    assert banned_at < entry["until"] <= banned_at + 7
    assert daemon.metrics()["forkd_bans_in_force"] == 1
    assert wait_for(lambda: daemon.metrics()["forkd_bans_total"]) == 1
    other = connect_from(daemon, "127.0.0.8")
    other.login("alice", PASSWORD)
    wait_for(lambda: code_of(lambda: connect_from(daemon, host)) == "ok")
    connect_from(daemon, host).login("alice", PASSWORD)
    assert host not in bans(daemon)
    assert daemon.metrics()["forkd_bans_in_force"] == 0


def test_a_ban_can_be_lifted(daemon_with: Start) -> None:
    daemon = daemon_with(server=WORKERS, limits={"ban_after": "1", "ban_time": '"1h"'})
    failing(daemon, "127.0.0.7")
    assert code_of(lambda: connect_from(daemon, "127.0.0.7")) == "banned"
    client = daemon.forkc("ls", daemon.url())
    assert client.returncode == 0, client.stderr
    assert "127.0.0.7" in daemon.ctl("bans").stdout
    lifted = daemon.ctl("bans", "lift", "127.0.0.7")
    assert lifted.returncode == 0, lifted.stderr
    for _ in range(2):
        connect_from(daemon, "127.0.0.7").login("alice", PASSWORD)
    assert bans(daemon) == {}
    assert daemon.ctl("bans", "lift", "127.0.0.7").returncode == 1
    assert daemon.ctl("bans", "lift", "here").returncode == 2


def test_a_banned_forkc_is_told_so(daemon_with: Start) -> None:
    daemon = daemon_with(limits={"ban_after": "1", "ban_time": '"1h"'})
    failing(daemon, "127.0.0.1")
    client = daemon.forkc("ls", daemon.url())
    assert client.returncode != 0
    assert "banned" in client.stderr
    assert "trying again" not in client.stderr


def test_bans_outlive_reloads_restarts_and_killed_workers(daemon_with: Start) -> None:
    daemon = daemon_with(limits={"ban_after": "1", "ban_time": '"1h"'})
    failing(daemon, "127.0.0.7")
    assert daemon.ctl("reload").returncode == 0
    assert code_of(lambda: connect_from(daemon, "127.0.0.7")) == "banned"
    for worker in daemon.workers():
        os.kill(worker["pid"], signal.SIGKILL)
    wait_for(lambda: len(daemon.workers()) == 2)
    assert code_of(lambda: connect_from(daemon, "127.0.0.7")) == "banned"
    daemon.stop()
    daemon.start()
    assert code_of(lambda: connect_from(daemon, "127.0.0.7")) == "banned"


def test_answers_that_wait_do_not_hold_up_others(daemon_with: Start) -> None:
    """There are more of them than a worker has threads; a log-in needs one."""
    daemon = daemon_with(server={"workers": "1"}, limits={"ban_after": "0"})
    peers = [connect_from(daemon, "127.0.0.7") for _ in range(26)]
    for peer in peers:
        peer.request({"op": "auth", "user": "nobody", "password": "wrong"})
    wait_for(lambda: bans(daemon).get("127.0.0.7", {}).get("failures", 0) >= 26, 60)
    assert code_of(lambda: daemon.log_in()) == "ok"
    for peer in peers[-3:]:
        assert peer.read()[0] == ERROR


# remembered log-ins


@pytest.fixture
def four(daemon_with: Start) -> Daemon:
    """Four workers; failures are soon forgotten, so that answers to them come soon."""
    return daemon_with(server=WORKERS, limits={"ban_window": '"100ms"'})


def remembered(daemon: Daemon) -> float:
    return daemon.metrics()['forkd_logins_total{outcome="remembered"}']


def test_what_changes_an_account_is_known_at_once_in_each_worker(four: Daemon) -> None:
    peers = on_each_worker(four.connect)
    for peer in peers.values():
        peer.login("alice", PASSWORD)
    for peer in peers.values():
        peer.login("alice", PASSWORD)
    assert remembered(four) == 4
    four.hang_up()
    fresh = on_each_worker(four.connect)
    four.change_behind_its_back("UPDATE account SET enabled = 0")
    for peer in fresh.values():
        assert code_of(lambda peer=peer: peer.login("alice", PASSWORD)) == "auth-failed"
    four.change_behind_its_back("UPDATE account SET enabled = 1")
    for peer in fresh.values():
        peer.login("alice", PASSWORD)
    hashed = Passwords(8).hash("another one")
    four.change_behind_its_back(f"UPDATE account SET hash = '{hashed}'")
    for peer in fresh.values():
        assert code_of(lambda peer=peer: peer.login("alice", PASSWORD)) == "auth-failed"
        peer.login("alice", "another one")
    four.change_behind_its_back("DELETE FROM account")
    for peer in fresh.values():
        assert code_of(lambda peer=peer: peer.login("alice", "another one")) == "auth-failed"
    assert remembered(four) == 8


def test_a_changed_password_is_forgotten_through_the_front_door_too(four: Daemon) -> None:
    peers = on_each_worker(four.connect)
    for peer in peers.values():
        peer.login("alice", PASSWORD)
    next(iter(peers.values())).ask({"op": "passwd", "old": PASSWORD, "new": "quite another"})
    for peer in peers.values():
        assert code_of(lambda peer=peer: peer.login("alice", PASSWORD)) == "auth-failed"
    changed = four.ctl("user", "passwd", "alice", "--password-stdin", stdin="and a third")
    assert changed.returncode == 0, changed.stderr
    for peer in peers.values():
        assert code_of(lambda peer=peer: peer.login("alice", "quite another")) == "auth-failed"
        peer.login("alice", "and a third")


def test_nothing_is_remembered_unless_wanted(daemon_with: Start) -> None:
    daemon = daemon_with(server={"workers": "1"}, accounts={"remember": "0"})
    for _ in range(2):
        daemon.log_in()
    assert remembered(daemon) == 0
    assert daemon.metrics()['forkd_logins_total{outcome="ok"}'] == 2


@pytest.mark.torture
def test_remembered_log_ins_are_quick(daemon_with: Start, tell: Tell) -> None:
    """Against one hash for each, on the very same daemon."""
    daemon = daemon_with(server={"workers": "1"}, accounts={"remember": "0"})
    rates = {}
    for name, setting, count in (("hashed", "0", scale(5, 50)), ("remembered", '"10m"', 1000)):
        daemon.configure("accounts", remember=setting)
        assert daemon.ctl("reload").returncode == 0
        peer = daemon.log_in()
        began = time.monotonic()
        for _ in range(count):
            peer.login("alice", PASSWORD)
        rates[name] = count / (time.monotonic() - began)
    tell(**{f"{name}_a_second": rate for name, rate in rates.items()})
    assert rates["remembered"] >= 5 * rates["hashed"]
