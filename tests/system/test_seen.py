"""What the daemon shows of itself: titles, status, sessions, metrics and the log tell the truth."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from peer import ERROR, INTERIM, Peer, RefusedError, noise
from rig import BIN, PASSWORD, Daemon, free_port, wait_for

import forkd

MIB = 1 << 20
COMMANDS = {"commands.hi": {"exec": '["echo", "hi"]', "users": '["*"]'}}


def code(peer: Peer, op: str, **more: Any) -> str:
    """The code with which a request is refused."""
    with pytest.raises(RefusedError) as refused:
        peer.ask({"op": op, **more})
    return refused.value.code


def slot_of(peer: Peer) -> int:
    return int(peer.hello["session"].split("-")[0], 16)


def titles(daemon: Daemon) -> dict[int, str]:
    """The command lines of the daemon's processes, by pid."""
    found = {}
    for pid in daemon.processes():
        text = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
        if text.startswith("forkd: "):
            found[pid] = text
    return found


def page(daemon: Daemon, path: str) -> tuple[int, str]:
    """Status and body of a page of the exporter; (0, "") when there is none at the moment."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{daemon.metrics_port}{path}", timeout=10
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, urllib.error.URLError):
        return 0, ""


# sessions and processes


def test_sessions_are_on_every_worker(daemon_with):
    daemon = daemon_with(server={"workers": "4"})
    peers = [daemon.log_in(address=(daemon.host, daemon.port)) for _ in range(16)]
    by_slot = Counter(slot_of(peer) for peer in peers)
    assert set(by_slot) == {1, 2, 3, 4}
    shown = json.loads(daemon.ctl("--json", "sessions").stdout)
    assert Counter(session["slot"] for session in shown) == by_slot
    wait_for(lambda: {w["slot"]: w["sessions"] for w in daemon.workers()} == dict(by_slot))
    expected = {
        w["pid"]: f"forkd: worker {w['number']} ({by_slot[w['slot']]} sessions, 0 transfers)"
        for w in daemon.workers()
    }
    wait_for(lambda: expected.items() <= titles(daemon).items())
    assert daemon.metrics()["forkd_sessions"] == 16


def test_titles_tell_what_each_process_does(daemon_with):
    daemon = daemon_with(**COMMANDS)
    up, idle = daemon.log_in(), daemon.log_in()
    assert {slot_of(up), slot_of(idle)} == {1, 2}
    up.begin("up", 2 * MIB, tag="t")
    up_on, idle_on = (
        next(w["number"] for w in daemon.workers() if w["slot"] == slot_of(peer))
        for peer in (up, idle)
    )
    expected = {
        f"forkd: master {daemon.config}",
        f"forkd: worker {up_on} (1 sessions, 1 transfers)",
        f"forkd: worker {idle_on} (1 sessions, 0 transfers)",
        "forkd: exporter",
        "forkd: keeper",
        "forkd: runner",
    }
    wait_for(lambda: sorted(titles(daemon).values()) == sorted(expected))


def test_status_tells_the_truth(daemon):
    began = time.time()
    alice = daemon.log_in(address=(daemon.host, daemon.port))
    alice.put("small", bytes(1000))
    alice.get("small")
    ident, _ = alice.begin("big", 2 * MIB, tag="t")
    alice.data(ident, bytes(2 * MIB), last=True)
    alice.answer(ident)
    code(daemon.connect(), "auth", user="alice", password="wrong")
    wait_for(lambda: sum(w["sessions"] for w in daemon.status()["workers"]) == 2)
    result = daemon.ctl("--json", "status")
    assert result.returncode == 0
    body = json.loads(result.stdout)
    assert (body["version"], body["pid"], body["state"]) == (
        *(forkd.__version__, daemon.pid, "serving"),
    )
    assert (body["config"], body["generation"], body["tls"]) == (str(daemon.config), 1, "auto")
    assert body["listeners"] == [f"127.0.0.1:{daemon.port}", f"unix:{daemon.unix_path}"]
    assert body["metrics"] == f"127.0.0.1:{daemon.metrics_port}"
    assert began - 60 < body["loaded_at"] < began
    assert 0 < body["uptime"] < 60
    assert body["last_reload"] is None
    assert not body["backing_off"]
    assert not body["foreign_slots"]
    assert not body["changed_on_disk"]
    shown = titles(daemon)
    assert {w["pid"]: w["number"] for w in body["workers"]} == {
        pid: int(title.split()[2]) for pid, title in shown.items() if "worker" in title
    }
    assert {f"forkd: {h['role']}": h["pid"] for h in body["helpers"]} == {
        title: pid for pid, title in shown.items() if title.split()[1] in ("exporter", "keeper")
    }
    for process in (*body["workers"], *body["helpers"]):
        assert parent(process["pid"]) == daemon.pid
        assert (process["state"], process["generation"], process["restarts"]) == ("serving", 1, 0)
        assert began - 60 < process["started_ms"] / 1000 < began
        assert process["rss_bytes"] > MIB
    assert body["totals"] == {
        "bytes_up": 1000 + 2 * MIB,
        "bytes_down": 1000,
        "transfers": 3,
        "sessions": 1,
        "connections": 2,
        "sessions_now": 2,
        "transfers_now": 0,
        "downloads_now": 0,
        "uploads_now": 0,
        "logins": 1,
        "logins_failed": 1,
        "restarts": 0,
    }


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_status_for_people_and_after_a_change(daemon):
    daemon.configure("limits", idle_timeout='"20m"')
    assert daemon.status()["changed_on_disk"]
    text = daemon.ctl("status").stdout
    assert f"forkd {forkd.__version__}  serving" in text
    assert "changed on disk since (forkctl reload to apply)" in text
    assert daemon.ctl("reload").returncode == 0
    body = daemon.status()
    assert not body["changed_on_disk"]
    assert body["generation"] == 2
    assert body["last_reload"]["outcome"] == "ok"
    assert {w["generation"] for w in daemon.workers()} == {2}
    text = daemon.ctl("status").stdout
    assert "generation 2" in text
    assert "last reload ok" in text
    assert daemon.stop() == 0
    down = daemon.ctl("status")
    assert down.returncode == 3
    assert f"no answer on {daemon.run}/control.sock" in down.stderr


def test_sessions_are_listed_and_one_is_kicked(daemon):
    daemon.add_user("bob")
    alice, bob = daemon.log_in(), daemon.log_in("bob", (daemon.host, daemon.port))
    stranger, up = daemon.connect(), daemon.log_in()
    up.begin("a/up", 2 * MIB, tag="t", parents=True)
    shown = {s["id"]: s for s in json.loads(daemon.ctl("--json", "sessions").stdout)}
    assert {peer.hello["session"] for peer in (alice, bob, stranger, up)} == set(shown)
    states = {
        peer.hello["session"]: (user, state, path)
        for peer, user, state, path in (
            (alice, "alice", "idle", ""),
            (bob, "bob", "idle", ""),
            (stranger, "", "login", ""),
            (up, "alice", "upload", "/a/up"),
        )
    }
    assert {i: (s["user"], s["state"], s["path"]) for i, s in shown.items()} == states
    assert {i: s["slot"] for i, s in shown.items()} == {
        peer.hello["session"]: slot_of(peer) for peer in (alice, bob, stranger, up)
    }
    port = bob.sock.getsockname()[1]
    assert shown[bob.hello["session"]]["peer"] == f"127.0.0.1:{port}"
    assert shown[alice.hello["session"]]["peer"] == f"unix:uid={os.getuid()}"
    assert shown[up.hello["session"]]["size"] == 2 * MIB
    for victim in (alice, up):
        assert daemon.ctl("kick", victim.hello["session"]).returncode == 0
    kind, ident, meta, _ = alice.read()
    assert (kind, ident, meta["code"]) == (ERROR, 0, "kicked")
    for victim in (alice, up):
        with pytest.raises((EOFError, ConnectionError)):
            victim.read()
    kicks = [event for event in daemon.events() if event["event"] == "session-kicked"]
    assert [(kick["session"], kick["user"], kick["address"]) for kick in kicks] == [
        (victim.hello["session"], "alice", f"unix:uid={os.getuid()}") for victim in (alice, up)
    ]
    again = daemon.ctl("kick", alice.hello["session"])
    assert again.returncode == 1
    assert "no such session" in again.stderr
    left = {s["id"] for s in json.loads(daemon.ctl("--json", "sessions").stdout)}
    assert left == {bob.hello["session"], stranger.hello["session"]}
    bob.put("still", b"here")
    stranger.login("alice", PASSWORD)


def test_the_shell_tells_of_a_kick_and_goes_on(daemon):
    shell = subprocess.Popen(
        [BIN / "forkc", "shell", daemon.url()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=daemon.env(),
    )
    try:
        assert shell.stdin is not None
        shell.stdin.write("mkdir first\n")
        shell.stdin.flush()
        wait_for((daemon.home() / "first").exists)
        (session,) = json.loads(daemon.ctl("--json", "sessions").stdout)
        assert daemon.ctl("kick", session["id"]).returncode == 0
        wait_for(lambda: json.loads(daemon.ctl("--json", "sessions").stdout) == [])
        _, told = shell.communicate("mkdir second\nmkdir third\n", timeout=60)
    finally:
        shell.kill()
        shell.wait()
    assert shell.returncode == 0, told
    assert (daemon.home() / "third").exists()
    about = [line for line in told.splitlines() if "kicked" in line]
    assert len(about) == 1, told
    assert session["id"] in about[0]


def test_the_number_of_workers_changes_without_cutting_a_transfer(daemon):
    content = noise(2 * MIB)
    ups = []
    for number in range(4):
        peer = daemon.log_in()
        ident, _ = peer.begin(f"f{number}", len(content), tag="t")
        peer.data(ident, content[:MIB])
        ups.append((peer, ident))
    before = {w["pid"] for w in daemon.workers()}
    for count in (4, 1, 3):
        result = daemon.ctl("workers", str(count))
        assert result.returncode == 0
        assert re.match(rf"{count} workers? until the next reload", result.stdout)
        wait_for(lambda count=count: len(daemon.workers()) == count)
    newcomers = [daemon.log_in() for _ in range(6)]
    assert {slot_of(peer) for peer in newcomers} == {w["slot"] for w in daemon.workers()}
    assert len(before & {w["pid"] for w in daemon.workers("draining")}) == 1
    for number, (peer, ident) in enumerate(ups):
        peer.data(ident, content[MIB:], last=True)
        assert peer.answer(ident)[0]["size"] == len(content)
        assert (daemon.home() / f"f{number}").read_bytes() == content
        peer.close()
    wait_for(lambda: not daemon.workers("draining"))
    assert daemon.metrics()["forkd_worker_restarts_total"] == 0
    assert daemon.ctl("workers", "33").returncode == 2
    assert daemon.ctl("reload").returncode == 0
    assert len(daemon.workers()) == 2


# metrics


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The counters that moved, and by how much; histograms by their counts and sums."""
    counters = {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if name.partition("{")[0].endswith(("_total", "_count", "_sum"))
    }
    for name in [n for n in counters if "duration_seconds_sum" in n]:
        del counters[name]  # how long it took is not to be foreseen
    return {name.removeprefix("forkd_"): count for name, count in counters.items() if count}


def test_every_counter_moves_by_the_right_amount(daemon_with):
    daemon = daemon_with(register={"enabled": "true"}, **COMMANDS)
    before = daemon.metrics()
    alice = daemon.log_in(address=(daemon.host, daemon.port))
    for number in range(3):
        alice.put(f"small{number}", bytes(1000))
    content = noise(5 * MIB)
    ident, _ = alice.begin("big", len(content), tag="t")
    alice.data(ident, content, last=True)
    alice.answer(ident)
    ident, _ = alice.begin("cut", len(content), tag="t")
    alice.data(ident, content[:MIB])
    alice.data(ident, last=True, meta={"abort": True})
    with pytest.raises(RefusedError):
        alice.answer(ident)
    for _ in range(2):
        alice.get("small0")
    assert alice.get("big") == content
    assert alice.get("big", offset=MIB, length=2 * MIB) == content[MIB : 3 * MIB]
    assert code(alice, "get", path="none") == "not-found"
    assert code(alice, "put", path="huge", size=1 << 40) == "quota"
    assert code(alice, "put", path="small0", size=0, replace=False) == "exists"
    for _ in range(2):
        assert code(alice, "mkdir", path="../x") == "outside"
    assert code(alice, "fly") == "unknown-verb"
    assert code(alice, "run", command="none") == "unknown-command"
    alice.ask({"op": "run", "command": "hi"})
    stranger = daemon.connect()
    assert code(stranger, "quota") == "auth-required"
    stranger.ask({"op": "register", "user": "bob", "password": PASSWORD})
    stranger.login("bob", PASSWORD)
    for user, password in (("bob", "wrong"), ("nobody", PASSWORD)):
        assert code(stranger, "auth", user=user, password=password) == "auth-failed"
    assert daemon.ctl("kick", stranger.hello["session"]).returncode == 0
    assert stranger.read()[0] == ERROR
    assert daemon.ctl("reload").returncode == 0
    daemon.configure("limits", typo="1")
    assert daemon.ctl("reload").returncode == 1
    expected = {
        "connections_total": 2,
        "sessions_total": 2,
        "registrations_total": 1,
        "commands_total": 1,
        'logins_total{outcome="ok"}': 2,
        'logins_total{outcome="failed"}': 2,
        'reloads_total{outcome="ok"}': 1,
        'reloads_total{outcome="failed"}': 1,
        'transfer_bytes_total{direction="up",protocol="native"}': 3000 + 6 * MIB,
        'transfer_bytes_total{direction="down",protocol="native"}': 2000 + 7 * MIB,
        'transfers_total{direction="up",outcome="ok",protocol="native"}': 4,
        'transfers_total{direction="up",outcome="failed",protocol="native"}': 2,
        'transfers_total{direction="down",outcome="ok",protocol="native"}': 4,
        'transfer_duration_seconds_count{direction="up"}': 4,
        'transfer_duration_seconds_count{direction="down"}': 4,
        "commit_duration_seconds_count": 4,
        'transfer_size_bytes_count{direction="up"}': 4,
        'transfer_size_bytes_count{direction="down"}': 4,
        'transfer_size_bytes_sum{direction="up"}': 3000 + 5 * MIB,
        'transfer_size_bytes_sum{direction="down"}': 2000 + 7 * MIB,
        **{
            f'refusals_total{{reason="{reason}"}}': count
            for reason, count in {
                "bad-request": 1,
                "not-found": 1,
                "quota": 1,
                "exists": 1,
                "outside": 2,
                "unknown-verb": 1,
                "unknown-command": 1,
                "auth-required": 1,
                "auth-failed": 2,
                "kicked": 1,
            }.items()
        },
    }
    assert moved(before, daemon.metrics()) == expected
    after = daemon.metrics()
    assert after["forkd_config_generation"] == 2
    assert after['forkd_quota_used_bytes{user="alice"}'] == 3000 + 6 * MIB
    assert after['forkd_quota_reserved_bytes{user="alice"}'] == 0
    assert after['forkd_quota_limit_bytes{user="alice"}'] == 1 << 30
    assert after['forkd_quota_used_bytes{user="bob"}'] == 0
    alice.close()


def test_no_counter_goes_backwards(daemon):
    """Over killed workers, a killed exporter, reloads, other numbers of workers and a restart."""
    highest: dict[str, float] = {}
    fell: list[tuple[str, float, float]] = []
    stop = threading.Event()

    def look() -> None:
        _, text = page(daemon, "/metrics")
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if line[0] != "#" and name.partition("{")[0].endswith(
                ("_total", "_count", "_sum", "_bucket")
            ):
                if float(value) < highest.get(name, 0):
                    fell.append((name, highest[name], float(value)))
                highest[name] = float(value)

    def watch() -> None:
        while not stop.wait(0.2):
            look()

    def traffic() -> None:
        for _ in range(3):
            peer = daemon.log_in()
            peer.put("f", bytes(1000))
            peer.get("f")
            code(peer, "get", path="none")
            peer.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        traffic()
        victim = daemon.workers()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in {w["pid"] for w in daemon.workers()})
        traffic()
        assert daemon.ctl("reload").returncode == 0
        assert daemon.ctl("workers", "3").returncode == 0
        traffic()
        assert daemon.ctl("workers", "1").returncode == 0
        exporter = next(h for h in daemon.status()["helpers"] if h["role"] == "exporter")
        os.kill(exporter["pid"], signal.SIGKILL)
        wait_for(lambda: page(daemon, "/metrics")[0] == 200)
        assert daemon.stop() == 0
        daemon.start()
        traffic()
    finally:
        stop.set()
        watcher.join()
    look()
    assert not fell
    came = sum(highest[f'forkd_logins_total{{outcome="{how}"}}'] for how in ("ok", "remembered"))
    assert came == 12
    assert highest['forkd_refusals_total{reason="not-found"}'] == 12
    assert highest['forkd_transfer_bytes_total{direction="up",protocol="native"}'] == 12000
    assert highest["forkd_worker_restarts_total"] == 2
    assert highest['forkd_reloads_total{outcome="ok"}'] == 1


def test_promtool_finds_nothing(daemon):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    alice = daemon.log_in()
    alice.put("f", b"1")
    alice.get("f")
    status, text = page(daemon, "/metrics")
    assert status == 200
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_health_and_readiness(daemon_with):
    daemon = daemon_with(server={"workers": "1"})
    assert page(daemon, "/healthz") == (200, "ok\n")
    assert page(daemon, "/readyz") == (200, "ok\n")
    assert page(daemon, "/else")[0] == 404
    for _ in range(4):  # until it is not started again at once
        (worker,) = wait_for(daemon.workers)
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: not daemon.workers())
    status, why = wait_for(lambda: unready(daemon))
    assert status == 503
    assert why.startswith("no worker")
    assert page(daemon, "/healthz") == (200, "ok\n")
    assert daemon.ctl("status").returncode == 1
    wait_for(lambda: page(daemon, "/readyz")[0] == 200)
    daemon.log_in()


def unready(daemon: Daemon) -> tuple[int, str] | None:
    answer = page(daemon, "/readyz")
    return None if answer[0] == 200 else answer


def test_metrics_may_be_switched_off(daemon_with):
    daemon = daemon_with(metrics={"listen": '""'})
    assert [h["role"] for h in daemon.status()["helpers"]] == ["keeper"]
    port = free_port()
    daemon.configure("metrics", listen=f'"127.0.0.1:{port}"')
    assert daemon.ctl("reload").returncode == 0
    daemon.metrics_port = port
    assert page(daemon, "/readyz") == (200, "ok\n")


# the log


def test_one_line_for_each_transfer(daemon):
    alice = daemon.log_in(address=(daemon.host, daemon.port))
    odd = 'odd\n"name"\x1b[31m\u202e'
    content = noise(24 * MIB)  # more than the sockets' buffers hold
    alice.put(odd, b"12345")
    alice.get(odd)
    ident, _ = alice.begin("big", len(content), tag="t")
    alice.data(ident, content, last=True)
    alice.answer(ident)
    alice.get("big")
    ident, _ = alice.begin("bad", MIB, check=True)
    alice.data(ident, content[:MIB])
    alice.data(ident, last=True, meta={"digest": "0" * 64})
    with pytest.raises(RefusedError):
        alice.answer(ident)
    assert code(alice, "get", path="none") == "not-found"
    ident, _ = alice.begin("cut", len(content), tag="t")
    alice.data(ident, content[:MIB])
    wait_for(lambda: daemon.bytes_on_disk() == len(content) + MIB + 5)
    alice.close()

    def lines() -> list[dict[str, Any]]:
        return [event for event in daemon.events() if event["event"] == "transfer"]

    wait_for(lambda: len(lines()) == 6)
    down = daemon.log_in(address=(daemon.host, daemon.port))
    down.request({"op": "get", "path": "big"})
    assert down.read()[0] == INTERIM
    down.close()
    wait_for(lambda: len(lines()) == 7)
    *of_alice, last = lines()
    assert [(e["direction"], e["path"], e["bytes"], e["outcome"]) for e in of_alice] == [
        ("up", f"/{odd}", 5, "ok"),
        ("down", f"/{odd}", 5, "ok"),
        ("up", "/big", len(content), "ok"),
        ("down", "/big", len(content), "ok"),
        ("up", "/bad", MIB, "digest-mismatch"),
        ("up", "/cut", MIB, "broken-off"),
    ]
    assert (last["direction"], last["path"], last["outcome"]) == ("down", "/big", "broken-off")
    assert last["bytes"] < len(content)
    assert last["session"] == down.hello["session"]
    assert {event["session"] for event in of_alice} == {alice.hello["session"]}
    for event in lines():
        assert (event["user"], event["door"]) == ("alice", "native")
        assert event["address"].startswith("127.0.0.1:")
        assert event["seconds"] >= 0
    assert daemon.log.read_text().replace("\n", "").isprintable()


SECRETS = ("oldSecret-zebra", "newSecret-zebra", "wrongSecret-zebra", "thirdSecret-zebra")


def test_no_password_is_seen_anywhere(daemon_with):
    daemon = daemon_with(log={"level": '"debug"'}, register={"enabled": "true"}, **COMMANDS)
    old, new, wrong, third = SECRETS
    seen: list[str] = []

    def look() -> None:
        seen.extend(titles(daemon).values())
        seen.extend(daemon.ctl(*args).stdout for args in (("status",), ("--json", "sessions")))

    def refused(peer: Peer, **request: Any) -> None:
        with pytest.raises(RefusedError) as refusal:
            peer.ask(request)
        seen.append(str(refusal.value))

    peer = daemon.connect()
    peer.ask({"op": "register", "user": "zoe", "password": old})
    refused(peer, op="register", user="zoe", password=third)
    refused(peer, op="auth", user="zoe", password=wrong)
    refused(peer, op="auth", user="zoe", password=[wrong])
    refused(peer, op="auth", user=7, password=wrong)
    refused(peer, op="auth", user="zoe", password=wrong * 100)
    peer.login("zoe", old)
    refused(peer, op="passwd", old=wrong, new=new)
    refused(peer, op="passwd", old=old, new=[new])
    look()
    peer.ask({"op": "passwd", "old": old, "new": new})
    result = daemon.ctl("user", "passwd", "zoe", "--password-stdin", stdin=third)
    seen += [result.stdout, result.stderr]
    daemon.connect().login("zoe", third)
    client = daemon.forkc("ls", daemon.url(user="zoe"), user="zoe")
    assert client.returncode == 5
    cut = daemon.connect()
    cut.sock.sendall(
        b"\xf1\0\0\x40" + bytes(12) + b'{"op":"auth","user":"zoe","password":"' + third.encode()
    )
    cut.close()
    broken = daemon.connect()
    broken.sock.sendall(third.encode() * 3)
    seen.append(str(broken.read()))
    assert daemon.ctl("reload").returncode == 0
    look()
    seen += [client.stdout, client.stderr, page(daemon, "/metrics")[1]]
    seen += [daemon.ctl("user", "show", "zoe").stdout, daemon.ctl("--json", "user", "list").stdout]
    daemon.hang_up()
    assert daemon.stop() == 0
    for folder in (daemon.state, daemon.run):
        files = [path for path in folder.rglob("*") if path.is_file()]
        seen += [path.read_bytes().decode(errors="replace") for path in files]
    assert daemon.events()
    seen.append(daemon.log.read_text())
    assert any("zoe" in text for text in seen)
    for secret in SECRETS:
        assert not [text for text in seen if secret in text]
