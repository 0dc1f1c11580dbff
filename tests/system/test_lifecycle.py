"""The daemon's life: start, reload, stop, and what dies under way.  Transfers outlive all of it."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from peer import INTERIM, NOTICE, Peer, RefusedError, noise
from rig import BIN, PASSWORD, Daemon, free_port, wait_for

from forkd.client import Client, KnownHosts, Settings

MIB = 1 << 20
DOWN = noise(24 * MIB)
UP = noise(6 * MIB)


def pids(daemon: Daemon) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(found: set[int]) -> bool:
    return not any(alive(pid) for pid in found)


def reload_by(daemon: Daemon, how: str) -> None:
    """Returns when the next generation serves."""
    generation = daemon.status()["generation"]
    if how == "HUP":
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: daemon.status()["generation"] > generation)
    else:
        result = daemon.ctl("reload")
        assert result.returncode == 0, result.stderr
        assert f"generation {generation + 1}: 2 workers serving" in result.stdout
    assert daemon.status()["generation"] == generation + 1


class Upload:
    """A streamed put that is sent as slowly as the test wants."""

    def __init__(self, peer: Peer, path: str, content: bytes = UP) -> None:
        self.peer = peer
        self.content = content
        self.ident, offer = peer.begin(path, len(content), tag="v1", client=path)
        self.sent = offer["offset"]

    def send(self, count: int) -> None:
        self.peer.data(self.ident, self.content[self.sent : self.sent + count])
        self.sent += count

    def finish(self) -> None:
        self.send(len(self.content) - self.sent)
        self.peer.data(self.ident, last=True)
        meta, _ = self.peer.answer(self.ident)
        assert meta["size"] == len(self.content)


class Download:
    """A get whose content is read as slowly as the test wants."""

    def __init__(self, peer: Peer, path: str) -> None:
        self.peer = peer
        self.ident = peer.request({"op": "get", "path": path})
        kind, _, meta, _ = peer.read()
        assert kind == INTERIM
        self.left = meta["length"]
        self.content = b""

    def finish(self) -> bytes:
        _, content = self.peer.answer(self.ident)
        return content


def transfers(daemon: Daemon, count: int = 3) -> tuple[list[Upload], list[Download]]:
    """Uploads and downloads that are half done, over TCP and unix sockets."""
    first = daemon.log_in()
    Upload(first, "down", DOWN).finish()
    first.close()
    tcp = (daemon.host, daemon.port)
    ups = [Upload(daemon.log_in(address=tcp if i % 2 else None), f"up{i}") for i in range(count)]
    for up in ups:
        up.send(2 * MIB)
    downs = [Download(daemon.log_in(address=tcp if i % 2 else None), "down") for i in range(count)]
    wait_for(lambda: sum(w["transfers"] for w in daemon.status()["workers"]) == 2 * count)
    return ups, downs


def finish(daemon: Daemon, ups: list[Upload], downs: list[Download]) -> None:
    for up in ups:
        up.finish()
    assert all(down.finish() == DOWN for down in downs)
    for number in range(len(ups)):
        assert (daemon.home() / f"up{number}").read_bytes() == UP
    for transfer in (*ups, *downs):
        transfer.peer.close()


# reload


@pytest.mark.parametrize("how", ["HUP", "forkctl"])
def test_a_reload_cuts_no_transfer(daemon, how):
    ups, downs = transfers(daemon)
    old = pids(daemon)
    reload_by(daemon, how)
    new = pids(daemon)
    assert len(new) == 2
    assert not new & old
    assert {w["pid"] for w in daemon.workers("draining")} == old
    for up in ups:
        up.send(2 * MIB)
    newcomer = daemon.log_in()
    slots = {worker["slot"] for worker in daemon.workers()}
    assert int(newcomer.hello["session"].split("-")[0], 16) in slots
    newcomer.put("new", b"served")
    reload_by(daemon, how)  # two generations drain now
    finish(daemon, ups, downs)
    newcomer.close()
    wait_for(lambda: gone(old | new))
    assert [account["drift"] for account in daemon.verify()] == [0]


def test_newcomers_are_served_throughout_reloads(daemon):
    stop, failures, served = threading.Event(), [], []

    def come_and_go() -> None:
        while not stop.is_set():
            try:
                peer = Peer((daemon.host, daemon.port))
                peer.login("alice", PASSWORD)
                peer.put(f"n{len(served)}", b"x")
                peer.close()
                served.append(peer.hello["session"].split("-")[1])
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            reload_by(daemon, "HUP")
        last = {f"{pid:x}" for pid in pids(daemon)}
        wait_for(lambda: failures or last & set(served))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(set(served)) > 2


def test_a_broken_configuration_changes_nothing(daemon):
    before, session = pids(daemon), daemon.log_in()
    daemon.configure("limits", max_sesions="5")
    line = daemon.config.read_text().splitlines().index("max_sesions = 5") + 1
    problem = f"{daemon.config}:{line}: limits.max_sesions: unknown key"
    daemon.signal(signal.SIGHUP)
    by_signal = wait_for(lambda: daemon.status()["last_reload"])
    result = daemon.ctl("reload")
    assert result.returncode == 1
    assert f"forkctl: {problem}" in result.stderr
    for last in (by_signal, daemon.status()["last_reload"]):
        assert last["outcome"] == "failed"
        assert problem in last["message"]
    assert pids(daemon) == before
    assert daemon.status()["generation"] == 1
    assert session.ask({"op": "quota"})[0]["used"] == 0
    assert daemon.ctl("status").returncode == 0
    daemon.unset("limits")
    reload_by(daemon, "forkctl")
    assert daemon.status()["last_reload"]["outcome"] == "ok"


def test_an_address_in_use_changes_nothing(daemon):
    before, native = pids(daemon), daemon.setting("listen", "native")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        fresh = daemon.folder / "fresh.sock"
        daemon.configure("listen", native=f'{native[:-1]}, "unix:{fresh}", "{taken}"]')
        result = daemon.ctl("reload")
    assert result.returncode == 1
    assert f"cannot listen on {taken}" in result.stderr
    assert pids(daemon) == before
    assert len(daemon.status()["listeners"]) == 2
    assert not fresh.exists()
    daemon.log_in().put("still", b"served")


def test_a_bad_certificate_changes_nothing(daemon):
    before = pids(daemon)
    daemon.configure("tls", mode='"files"', cert=f'"{daemon.config}"', key=f'"{daemon.config}"')
    result = daemon.ctl("reload")
    assert result.returncode == 1
    assert str(daemon.config) in result.stderr
    assert pids(daemon) == before
    assert not daemon.workers("draining")
    daemon.log_in().put("still", b"served")


def test_a_changed_setting_takes_effect(daemon):
    daemon.configure("quota", default='"1 MiB"')
    daemon.configure("storage", path=f'"{daemon.folder}/elsewhere"')
    result = daemon.ctl("reload")
    assert result.returncode == 0
    assert "changed: quota.default 1.0 GiB -> 1.0 MiB" in result.stdout
    assert "needs a restart (unchanged until then): storage.path" in result.stdout
    alice = daemon.log_in()
    assert alice.ask({"op": "quota"})[0]["limit"] == MIB
    with pytest.raises(RefusedError) as refused:
        alice.begin("large", MIB + 1)
    assert refused.value.code == "quota"
    alice.put("exact", bytes(MIB))
    assert (daemon.home() / "exact").exists()


def test_listeners_are_added_and_removed(daemon):
    added, path = free_port(), daemon.folder / "added.sock"
    daemon.configure("listen", native=f'["127.0.0.1:{added}", "unix:{path}"]')
    reload_by(daemon, "forkctl")
    for address in (("127.0.0.1", added), str(path)):
        daemon.log_in(address=address).put("here", b"1")
    for closed in ((daemon.host, daemon.port), daemon.unix_path):
        with pytest.raises(OSError):
            Peer(closed)
    assert not os.path.exists(daemon.unix_path)
    assert daemon.status()["listeners"] == [f"127.0.0.1:{added}", f"unix:{path}"]


def test_an_idle_client_is_told_to_come_again(daemon):
    idle = daemon.log_in()
    reload_by(daemon, "HUP")
    kind, ident, meta, _ = idle.read()
    assert (kind, ident, meta) == (NOTICE, 0, {"notice": "going-away"})
    with pytest.raises(EOFError):
        idle.read()


def test_the_client_library_carries_on_over_reloads(daemon, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(daemon.folder / "client"))
    notes: list[object] = []
    settings = Settings(KnownHosts(), listener=notes.append)
    with Client(daemon.url(), PASSWORD, settings) as client:
        client.put_bytes(b"one", "a")
        reload_by(daemon, "HUP")
        client.move("a", "b")  # may not be repeated: it must not be lost either
        old = pids(daemon)
        reload_by(daemon, "HUP")
        wait_for(lambda: gone(old))  # the connection was closed behind the client's back
        client.move("b", "c")
        assert client.get_bytes("c") == b"one"
    assert not notes


def test_a_large_put_of_the_client_spans_reloads(daemon):
    content = noise(64 * MIB)
    source = daemon.folder / "source"
    source.write_bytes(content)
    putter = daemon.forkc_start("put", "--json", source, daemon.url("big"))
    assert putter.stdout
    seen = iter(putter.stdout.readline, "")
    assert any('"started"' in line for line in seen)
    reload_by(daemon, "HUP")
    reload_by(daemon, "forkctl")
    out, err = putter.communicate(timeout=60)
    assert putter.returncode == 0, (out, err)
    assert (daemon.home() / "big").read_bytes() == content


# the end


def test_term_lets_transfers_end(daemon):
    ups, downs = transfers(daemon)
    idle = daemon.log_in()
    daemon.signal(signal.SIGTERM)
    assert idle.read()[2] == {"notice": "going-away"}
    idle.close()
    wait_for(lambda: not_listening(daemon))
    for up in ups:
        up.send(2 * MIB)
    finish(daemon, ups, downs)
    assert daemon.process.wait(30) == 0
    assert not daemon.processes()
    assert not os.path.exists(daemon.unix_path)
    assert not (daemon.run / "control.sock").exists()


def not_listening(daemon: Daemon) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((daemon.host, daemon.port)) != 0


def test_graceful_timeout_cuts_what_takes_longer(daemon_with):
    daemon = daemon_with(server={"graceful_timeout": '"1s"'})
    up = Upload(daemon.log_in(), "up")
    up.send(2 * MIB)
    wait_for(lambda: daemon.bytes_on_disk() == 2 * MIB)
    assert daemon.stop() == 0
    assert not daemon.processes()
    assert not (daemon.home() / "up").exists()
    daemon.start()
    wait_for(lambda: daemon.verify()[0]["charged"] == 2 * MIB)
    again = Upload(daemon.log_in(), "up")
    assert again.sent == 2 * MIB
    again.finish()
    assert (daemon.home() / "up").read_bytes() == UP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_at_once(daemon_with, number):
    daemon = daemon_with(server={"graceful_timeout": '"1h"'})
    up = Upload(daemon.log_in(), "up")
    up.send(2 * MIB)
    daemon.signal(number)
    assert daemon.process.wait(60) == 0
    assert not daemon.processes()
    with pytest.raises((EOFError, ConnectionError)):
        up.finish()
    assert not (daemon.home() / "up").exists()


def test_forkctl_stop_returns_when_the_daemon_is_gone(daemon):
    result = daemon.ctl("stop")
    assert result.returncode == 0
    assert daemon.process.wait(0) == 0
    assert not daemon.processes()
    again = daemon.ctl("stop")
    assert again.returncode == 3
    assert "forkd is not running" in again.stderr


# what dies


def _without(pid: int, workers: list, count: int) -> list:
    """These workers, when they are so many and this one is not among them."""
    if len(workers) != count or pid in {worker["pid"] for worker in workers}:
        return []
    return workers


def test_a_killed_worker_is_replaced(daemon):
    peers = [daemon.log_in() for _ in range(8)]
    victim, other = daemon.workers()
    os.kill(victim["pid"], signal.SIGKILL)
    now = wait_for(lambda: _without(victim["pid"], daemon.workers(), 2))
    assert other["pid"] in {worker["pid"] for worker in now}
    assert [worker["restarts"] for worker in now if worker["pid"] != other["pid"]] == [1]
    for peer in peers:
        if int(peer.hello["session"].split("-")[0], 16) == other["slot"]:
            assert peer.ask({"op": "quota"})[0]["used"] == 0
    assert daemon.metrics()["forkd_worker_restarts_total"] == 1
    died = [event for event in daemon.events() if event["event"] == "died"]
    assert [(event["process"], event["reason"]) for event in died] == [
        (f"worker {victim['number']}", "signal 9 (SIGKILL)")
    ]


def test_a_worker_that_keeps_dying_is_started_ever_more_seldom(daemon):
    for round_ in range(5):
        victim = wait_for(lambda: [w for w in daemon.workers() if w["number"] == 1])[0]
        assert victim["restarts"] == round_
        os.kill(victim["pid"], signal.SIGKILL)
        wait_for(lambda dead=victim["pid"]: dead not in pids(daemon))
    (down,) = wait_for(lambda: daemon.status()["backing_off"])
    assert (down["what"], down["failures"]) == ("worker 1", 5)
    assert down["reason"] == "signal 9 (SIGKILL)"
    pauses = [e["next_start_in"] for e in daemon.events() if e["event"] == "died"]
    assert pauses == sorted(set(pauses))
    daemon.log_in().put("by the other worker", b"")
    wait_for(lambda: len(pids(daemon)) == 2)
    assert not daemon.status()["backing_off"]


def test_a_killed_master_leaves_its_transfers_and_its_place(daemon):
    ups, downs = transfers(daemon)
    orphans = pids(daemon)
    daemon.signal(signal.SIGKILL)
    daemon.process.wait(10)
    daemon.start()
    assert not pids(daemon) & orphans
    assert set(daemon.status()["foreign_slots"]) == {1, 2}
    newcomer = daemon.log_in(address=(daemon.host, daemon.port))
    newcomer.put("new", b"served")
    assert newcomer.ask({"op": "quota"})[0]["used"] == 3 * len(UP) + len(DOWN) + 6
    finish(daemon, ups, downs)
    wait_for(lambda: gone(orphans))
    wait_for(lambda: not daemon.status()["foreign_slots"])
    assert [account["drift"] for account in daemon.verify()] == [0]
    assert newcomer.ask({"op": "quota"})[0]["used"] == 3 * len(UP) + len(DOWN) + 6
    assert daemon.ctl("status").returncode == 0


def test_a_worker_whose_loop_stands_still_is_replaced(daemon_with):
    daemon = daemon_with(server={"watchdog_timeout": '"1s"'})
    victim, other = (worker["pid"] for worker in daemon.workers())
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: len(pids(daemon)) == 2 and victim not in pids(daemon))
    assert other in pids(daemon)
    killed = [event for event in daemon.events() if event["event"] == "killed"]
    assert len(killed) == 1
    assert "made no progress" in killed[0]["why"]


def test_killed_helpers_are_replaced(daemon_with):
    daemon = daemon_with(**{"commands.hi": {"exec": '["echo", "hi"]', "users": '["*"]'}})

    def helpers() -> dict[str, int]:
        found = daemon.status()["helpers"]
        return {h["role"]: h["pid"] for h in found if h["state"] == "serving"}

    first = helpers()
    assert set(first) == {"exporter", "keeper", "runner"}
    for pid in first.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(helpers()) == 3 and not set(helpers().values()) & set(first.values()))
    assert daemon.log_in().ask({"op": "run", "command": "hi"})[1] == b"hi\n"
    assert daemon.metrics()["forkd_worker_restarts_total"] == 3
    assert [account["drift"] for account in daemon.verify()] == [0]


@pytest.mark.parametrize("end", ["reset", "closed"])
def test_a_command_ends_with_its_client_however_much_that_sent(daemon_with, end: str) -> None:
    script = '["sh", "-c", "echo $$; exec sleep 600"]'
    command = {"exec": script, "users": '["*"]', "timeout": '"10m"'}
    daemon = daemon_with(**{"commands.wait": command})
    peer = daemon.log_in(address=(daemon.host, daemon.port) if end == "reset" else None)
    peer.request({"op": "run", "command": "wait"})
    peer.read()
    pid = int(peer.read()[3])
    send_until_nobody_reads(peer)
    if end == "reset":
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    wait_for(lambda: not alive(pid))


def send_until_nobody_reads(peer: Peer) -> None:
    peer.sock.setblocking(False)
    while select.select([], [peer.sock], [], 0.5)[1]:
        with suppress(BlockingIOError):
            peer.request({"op": "stat", "path": "x" * 1000})


# the start


def second_start(daemon: Daemon, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "forkd", "serve", *options, "-c", daemon.config],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_second_start_is_refused(daemon):
    for options in ((), ("--daemon",)):
        second = second_start(daemon, *options)
        assert second.returncode == 4
        assert "forkd is running already" in second.stderr
        assert f"process {daemon.pid} " in second.stderr
    daemon.log_in().put("still", b"served")


def test_an_address_in_use_is_told_at_the_start(folder):
    daemon = Daemon(folder)
    with socket.socket() as other:
        other.bind((daemon.host, daemon.port))
        other.listen()
        result = second_start(daemon)
    assert result.returncode == 1
    assert f"cannot listen on {daemon.host}:{daemon.port}" in result.stderr
    assert not daemon.processes()


@pytest.fixture
def detached(folder) -> Iterator[Daemon]:
    daemon = Daemon(folder, {"log": {"file": f'"{folder}/log"'}})
    try:
        yield daemon
    finally:
        daemon.destroy()


def test_serve_daemon_detaches_once_it_serves(detached):
    pidfile = detached.run / "forkd.pid"
    result = second_start(detached, "--daemon")
    assert result.returncode == 0, result.stderr
    assert detached.ctl("status").returncode == 0
    detached.add_user("alice")
    detached.log_in().put("f", b"served")
    pid = int(pidfile.read_text())
    assert pid == detached.status()["pid"]
    assert os.getsid(pid) != os.getsid(0)
    tty = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
    assert tty == "0"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    for options in ((), ("--daemon",)):
        second = second_start(detached, *options)
        assert second.returncode == 4
        assert "forkd is running already" in second.stderr
    assert detached.ctl("reload").returncode == 0
    detached.hang_up()
    assert detached.ctl("stop").returncode == 0
    assert not pidfile.exists()
    wait_for(lambda: not detached.processes())


@pytest.mark.parametrize(
    ("section", "keys", "status", "reason"),
    [
        ("listen", {"native": '["192.0.2.1:3675"]'}, 1, "cannot listen on 192.0.2.1:3675"),
        ("limits", {"login_attempts": "0"}, 3, "limits.login_attempts"),
        # found by a child, after detaching
        ("tls", {"mode": '"files"', "cert": '"/dev/null"', "key": '"/dev/null"'}, 1, "/dev/null"),
    ],
)
def test_serve_daemon_tells_why_it_cannot_start(detached, section, keys, status, reason):
    detached.configure(section, **keys)
    result = second_start(detached, "--daemon")
    assert result.returncode == status
    assert reason in result.stderr
    wait_for(lambda: not detached.processes())
    assert not (detached.run / "forkd.pid").exists()


def test_a_stale_pidfile_is_no_obstacle(detached):
    pidfile = detached.run / "forkd.pid"
    assert second_start(detached, "--daemon").returncode == 0
    for pid in detached.processes():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not detached.processes())
    stale = int(pidfile.read_text())
    assert second_start(detached, "--daemon").returncode == 0
    assert int(pidfile.read_text()) == detached.status()["pid"] != stale


INHERIT = """
import os, sys
given = [os.dup(int(fd)) for fd in sys.argv[1].split(",")]
given = [os.dup2(os.dup(fd), 100 + i) for i, fd in enumerate(given)]
for i, fd in enumerate(given):
    os.dup2(fd, 3 + i)
os.environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_inherited_sockets_are_served(folder):
    path = str(folder / "given.sock")
    daemon = Daemon(folder, {"commands.env": {"exec": '["env"]', "users": '["*"]'}})
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        fds = [tcp.fileno(), unix.fileno()]
        for sock in (tcp, unix):
            sock.listen()
        address = tcp.getsockname()
        names = {f"127.0.0.1:{address[1]}", f"unix:{path}"}
        try:
            wrapper = (sys.executable, "-c", INHERIT, ",".join(map(str, fds)))
            daemon.start(*wrapper, pass_fds=fds)
            daemon.add_user("alice")
            for _ in range(2):
                for given in (address, path, (daemon.host, daemon.port)):
                    daemon.log_in(address=given).put("f", b"served")
                assert names < set(daemon.status()["listeners"])
                reload_by(daemon, "forkctl")
            environ = daemon.log_in().ask({"op": "run", "command": "env"})[1]
            assert b"PATH=" in environ
            assert b"LISTEN_" not in environ
            daemon.hang_up()
            assert daemon.stop() == 0
        finally:
            daemon.destroy()


def test_ipv6_is_served(daemon_with):
    port = free_port()
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", port))
    except OSError as error:
        pytest.skip(f"no ::1 on this machine: {error}")
    daemon = daemon_with(listen={"native": f'["[::1]:{port}"]'})
    daemon.log_in(address=("::1", port)).put("f", b"six")
    assert daemon.status()["listeners"] == [f"[::1]:{port}"]
    got = daemon.forkc("get", f"forkd://alice@[::1]:{port}/f", "-")
    assert (got.returncode, got.stdout) == (0, "six"), got.stderr
    logins = [event for event in daemon.events() if event["event"] == "login"]
    assert all(event["address"].startswith("[::1]:") for event in logins)
