from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from masterrig import PATIENCE, Daemon, children_of, cmdline, gone, wait_for

from forkd.controlmessages import (
    Failed,
    KickSession,
    Progress,
    Reload,
    Sessions,
    Status,
    Stop,
    StopServing,
    TellAccountChanged,
    VerifyQuota,
    Workers,
    decode_answer,
)
from forkd.messages import encode


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


def pids(daemon: Daemon) -> list[int]:
    return [worker["pid"] for worker in daemon.status()["workers"]]


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_it_serves_and_tells_its_status(daemon: Daemon) -> None:
    daemon.serve()
    session = daemon.connect()
    wait_for(lambda: daemon.status()["totals"]["sessions_now"] == 1)
    status = daemon.status()
    assert status["pid"] == daemon.process.pid  # type: ignore[union-attr]
    assert status["generation"] == 1
    assert [w["number"] for w in status["workers"]] == [1, 2]
    assert [w["state"] for w in status["workers"]] == ["serving", "serving"]
    assert [h["role"] for h in status["helpers"]] == ["keeper"]
    assert session.pid in pids(daemon)
    assert all(w["rss_bytes"] > 0 and w["beat_age"] >= 0 for w in status["workers"])
    assert status["last_reload"] is None
    assert status["config"] == str(daemon.file)
    assert not status["changed_on_disk"]


def test_titles(daemon: Daemon) -> None:
    daemon.serve()
    status = daemon.status()
    assert cmdline(status["pid"]) == f"forkd: master {daemon.file}"
    assert cmdline(status["workers"][0]["pid"]).startswith("forkd: worker 1")


def test_a_killed_worker_is_replaced_and_its_slot_reaped(daemon: Daemon) -> None:
    daemon.serve()
    session = daemon.connect()
    wait_for(lambda: len(lines(daemon.state / "reaped")) == 64)  # what a former daemon left
    os.kill(session.pid, signal.SIGKILL)
    wait_for(lambda: session.pid not in pids(daemon) and len(pids(daemon)) == 2)
    wait_for(lambda: lines(daemon.state / "reaped")[64:] == [str(session.slot)])
    status = daemon.status()
    assert status["totals"]["restarts"] == 1
    assert sum(w["restarts"] for w in status["workers"]) == 1
    assert session.slot not in {w["slot"] for w in status["workers"]}  # least recently used first


def test_a_worker_that_hangs_is_replaced(daemon: Daemon) -> None:
    daemon.write(server='watchdog_timeout = "1s"')
    daemon.serve()
    session = daemon.connect()
    session.order(b"hang")
    assert session.ended()
    wait_for(lambda: len([p for p in pids(daemon) if p != session.pid]) == 2)
    assert "made no progress" in daemon.log.read_text()


def test_a_crash_loop_backs_off_and_shows(daemon: Daemon) -> None:
    daemon.serve()
    (daemon.state / "worker-unable").write_text("there is no moon")
    os.kill(pids(daemon)[0], signal.SIGKILL)
    wait_for(lambda: any(b["failures"] >= 3 for b in daemon.status()["backing_off"]))
    (post,) = daemon.status()["backing_off"]
    assert post["what"] == "worker 1"
    assert post["reason"] == "there is no moon"
    (daemon.state / "worker-unable").unlink()
    wait_for(lambda: len(pids(daemon)) == 2 and daemon.status()["backing_off"] == [])


def test_a_reload_keeps_transfers_and_serves_anew(daemon: Daemon) -> None:
    daemon.serve()
    old = daemon.connect()
    address = daemon.status()["listeners"]
    daemon.write('[limits]\nidle_timeout = "10m"\n')
    *progress, _ = daemon.ask(Reload())
    said = [p.line for p in progress if isinstance(p, Progress)]
    assert said[0] == f"checking {daemon.file} ... ok"
    assert "generation 2: 2 workers serving" in said[1]
    assert "generation 1: 2 workers to drain" in said[1]
    assert said[2] == "changed: limits.idle_timeout 900s -> 600s"
    status = daemon.status()
    assert status["generation"] == 2
    assert status["listeners"] == address
    assert status["last_reload"]["outcome"] == "ok"
    assert daemon.connect().generation == 2
    wait_for(lambda: {w["generation"] for w in daemon.status()["workers"]} == {1, 2})
    wait_for(lambda: len([w for w in daemon.status()["workers"] if w["generation"] == 1]) == 1)
    assert not gone(old.pid)
    old.order(b"bye")
    wait_for(lambda: {w["generation"] for w in daemon.status()["workers"]} == {2})
    wait_for(lambda: [h["generation"] for h in daemon.status()["helpers"]] == [2])
    assert daemon.status()["totals"]["restarts"] == 0


def logged(daemon: Daemon) -> list[dict[str, Any]]:
    return [json.loads(line) for line in daemon.log.read_text().splitlines()]


def test_a_reload_to_what_cannot_be_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    daemon.serve()
    before = pids(daemon)
    daemon.file.write_text(
        daemon.file.read_text().replace(str(daemon.log), f"{tmp_path}/no/log")
        + '[commands.x]\nexec = ["no-such-program"]\n'
    )
    failed = daemon.refusal(Reload())
    assert failed.code == "bad-config"
    assert "log.file: the folder" in failed.message
    assert pids(daemon) == before
    daemon.write('[commands.x]\nexec = ["no-such-program"]\n')
    notes = daemon.body(Reload())["notes"]
    assert any(note.startswith("warning: ") and "no-such-program" in note for note in notes)
    assert [e for e in logged(daemon) if e["event"] == "config" and "no-such" in e["warning"]]


@pytest.mark.parametrize("case", ["config", "bind", "prepare", "worker"])
def test_a_reload_that_fails_changes_nothing(daemon: Daemon, tmp_path: Path, case: str) -> None:
    daemon.serve()
    session, before = daemon.connect(), pids(daemon)
    why = "there is no moon"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if case == "config":
            daemon.write("[limits]\nidle_timeou = 1\n\n[sever]\n")
        elif case == "bind":
            daemon.write(listen=f'"127.0.0.1:{taken.getsockname()[1]}"')
        else:
            (daemon.state / f"{case}-unable").write_text(why)
        failed = daemon.refusal(Reload())
    if case == "config":
        assert failed.code == "bad-config"
        assert "limits.idle_timeou" in failed.message
        assert "sever" in failed.message
        assert str(daemon.file) in failed.message
    else:
        assert failed.code == "cannot-start"
        assert ("in use" if case == "bind" else why) in failed.message
    wait_for(lambda: len(daemon.status()["workers"]) == 2)
    status = daemon.status()
    assert pids(daemon) == before
    assert status["generation"] == 1
    assert status["last_reload"]["outcome"] == "failed"
    first, *others, last = failed.message.splitlines()
    assert last == "nothing was changed; generation 1 goes on serving"
    more = f" (and {len(others)} more)" if others else ""
    assert status["last_reload"]["message"] == first + more
    assert len(others) == (case == "config")
    (event,) = [e for e in logged(daemon) if e["event"] == "reload-failed"]
    assert event["problems"] == [first, *others]
    session.order(b"bye")
    assert session.ended()
    assert daemon.connect().generation == 1


def test_a_reload_moves_listeners(daemon: Daemon, tmp_path: Path) -> None:
    one, two = tmp_path / "one.sock", tmp_path / "two.sock"
    daemon.write(listen=f'"127.0.0.1:0", "unix:{one}"')
    daemon.serve()
    daemon.write(listen=f'"127.0.0.1:0", "unix:{two}"')
    daemon.body(Reload())
    assert not one.exists()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(two))
        assert sock.recv(64)


def test_hup_reloads(daemon: Daemon) -> None:
    daemon.serve()
    os.kill(daemon.status()["pid"], signal.SIGHUP)
    wait_for(lambda: daemon.status()["generation"] == 2)


def test_what_needs_a_restart_is_told_and_left(daemon: Daemon, tmp_path: Path) -> None:
    daemon.serve()
    daemon.write("[accounts]\nmax = 7\n")
    notes = daemon.body(Reload())["notes"]
    assert notes == ["needs a restart (unchanged until then): accounts.max 10000 -> 7"]


def test_a_changed_file_shows(daemon: Daemon) -> None:
    daemon.serve()
    os.utime(daemon.file, (1, 1))
    assert daemon.status()["changed_on_disk"]


def test_term_lets_transfers_finish(daemon: Daemon) -> None:
    process = daemon.serve().process
    assert process
    session = daemon.connect()
    address = session.socket.getpeername()
    process.terminate()
    wait_for(lambda: pids(daemon) == [session.pid])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    session.order(b"bye")
    assert process.wait(30) == 0
    assert not daemon.control().exists()


def test_who_waits_for_a_drain_hears_of_a_stop_by_signal(daemon: Daemon) -> None:
    process = daemon.serve().process
    assert process
    session = daemon.connect()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(daemon.control()))
        sock.sendall(encode(StopServing()) + b"\n")
        with sock.makefile("rb") as lines:
            assert isinstance(decode_answer(lines.readline()), Progress)
            process.terminate()
            assert decode_answer(lines.readline()) == Failed("busy", "forkd is stopping")
    session.order(b"bye")
    assert process.wait(30) == 0


def test_term_cuts_at_the_deadline(daemon: Daemon) -> None:
    daemon.write(server='graceful_timeout = "1s"')
    process = daemon.serve().process
    assert process
    hanging, slow = daemon.connect(), daemon.connect()
    while slow.pid == hanging.pid:
        slow = daemon.connect()
    hanging.order(b"hang")
    process.terminate()
    assert process.wait(30) == 0
    assert hanging.ended()
    assert slow.ended()
    assert "told to leave and did not in time" in daemon.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_stops_at_once(daemon: Daemon, number: int) -> None:
    process = daemon.serve().process
    assert process
    session = daemon.connect()
    children = [*children_of(process.pid)]
    process.send_signal(number)
    assert process.wait(30) == 0
    assert session.ended()
    assert all(gone(pid) for pid in children)


def test_a_second_term_hastens(daemon: Daemon) -> None:
    daemon.write(server='graceful_timeout = "1h"')
    process = daemon.serve().process
    assert process
    session = daemon.connect()
    process.terminate()
    wait_for(lambda: daemon.status()["state"] == "stopping")
    process.terminate()
    assert process.wait(30) == 0
    assert session.ended()


def test_a_signal_to_the_whole_group_stops_once_and_cleanly(daemon: Daemon) -> None:
    process = daemon.serve(start_new_session=True).process
    assert process
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    assert "died" not in daemon.log.read_text()


def test_a_killed_master_leaves_draining_workers_and_the_next_one_starts(daemon: Daemon) -> None:
    unix = daemon.folder / "u.sock"
    daemon.write(listen=f'"127.0.0.1:0", "unix:{unix}"')
    process = daemon.serve().process
    assert process
    session = daemon.connect()
    process.kill()
    process.wait()
    daemon.serve()
    assert not gone(session.pid)
    assert daemon.status()["foreign_slots"] == [session.slot]
    assert session.slot not in {worker["slot"] for worker in daemon.status()["workers"]}
    (daemon.state / "reaped").unlink(missing_ok=True)
    session.order(b"bye")
    wait_for(lambda: gone(session.pid) and daemon.status()["foreign_slots"] == [])
    wait_for(lambda: str(session.slot) in lines(daemon.state / "reaped"))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(unix))
        assert sock.recv(64)


def test_a_second_start_is_refused(daemon: Daemon) -> None:
    process = daemon.serve().process
    assert process
    second = subprocess.run(process.args, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 4
    assert second.stderr == (
        f"forkd: forkd is running already: process {process.pid} holds {daemon.state}/forkd.lock\n"
    )
    assert daemon.connect()


@pytest.mark.parametrize("case", ["prepare", "worker"])
def test_a_start_that_fails_says_why(daemon: Daemon, case: str) -> None:
    (daemon.state / f"{case}-unable").write_text("there is no moon")
    process = daemon.start()
    assert process.wait(30) == 1
    assert "there is no moon" in daemon.errors()
    assert not daemon.control().exists()


def test_stop_by_request(daemon: Daemon) -> None:
    process = daemon.serve().process
    assert process
    daemon.connect()
    assert daemon.body(Stop(now=True)) == {}
    assert process.wait(30) == 0


def test_workers_by_request(daemon: Daemon) -> None:
    daemon.serve()
    assert daemon.body(Workers(4)) == {"workers": 4}
    wait_for(lambda: [w["state"] for w in daemon.status()["workers"]] == ["serving"] * 4)
    daemon.body(Workers(1))
    wait_for(lambda: [w["number"] for w in daemon.status()["workers"]] == [1])
    assert daemon.refusal(Workers(33)).code == "bad-request"
    assert daemon.status()["totals"]["restarts"] == 0


def test_sessions_are_gathered_from_all_workers(daemon: Daemon) -> None:
    daemon.serve()
    held = [daemon.connect()]
    while len({session.pid for session in held}) < 2:
        held.append(daemon.connect())
    body = daemon.body(Sessions())
    assert len(body["sessions"]) == len(held)
    assert {s["slot"] for s in body["sessions"]} == {session.slot for session in held}
    assert body["silent_workers"] == 0


def test_a_worker_that_does_not_answer_is_left_out(daemon: Daemon) -> None:
    daemon.serve()
    hanging, other = daemon.connect(), daemon.connect()
    while other.pid == hanging.pid:
        other = daemon.connect()
    hanging.order(b"hang")
    body = daemon.body(Sessions())
    assert body["silent_workers"] == 1
    assert {s["slot"] for s in body["sessions"]} == {other.slot}


def test_kick(daemon: Daemon) -> None:
    daemon.serve()
    slot = daemon.connect().slot
    assert daemon.body(KickSession(f"{slot}-1")) == {"kicked": True}
    assert daemon.refusal(KickSession("99-1")).code == "not-found"


def test_an_account_change_reaches_every_worker(daemon: Daemon) -> None:
    daemon.serve()
    assert daemon.body(TellAccountChanged("alice")) == {"told": 2}
    wait_for(lambda: lines(daemon.state / "changed") == ["alice", "alice"])


def test_quota_verify_is_relayed_to_the_keeper(daemon: Daemon) -> None:
    daemon.serve()
    body = daemon.body(VerifyQuota("alice", True))
    assert body == {"accounts": [{"user": "alice", "fixed": True}]}


def test_the_service_manager_is_told(daemon: Daemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind(str(tmp_path / "notify"))
        daemon.start(env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(1000).startswith(b"READY=1\nMAINPID=")
        daemon.ask(Reload())
        assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(1000).startswith(b"READY=1\n")
        (daemon.state / "worker-unable").write_text("there is no moon")
        daemon.ask(Reload())
        assert manager.recv(1000).startswith(b"RELOADING=1\n")
        assert manager.recv(1000).startswith(b"READY=1\n")
        daemon.ask(Stop())
        assert manager.recv(1000).startswith(b"STOPPING=1\n")


def test_a_child_keeps_nothing_of_the_master(daemon: Daemon) -> None:
    """Beside its own selector: the link, one listener, the scoreboard, and 0, 1, 2."""
    daemon.serve()
    wait_for(lambda: len(lines(daemon.state / "reaped")) == 64)
    (keeper,) = daemon.status()["helpers"]
    kinds = sorted(
        os.readlink(f"/proc/{keeper['pid']}/fd/{fd}").split(":")[0]
        for fd in os.listdir(f"/proc/{keeper['pid']}/fd")
        if int(fd) > 2
    )
    assert kinds == sorted([str(daemon.runtime / "scoreboard"), "anon_inode", "socket"])


def test_status_while_it_stops(daemon: Daemon) -> None:
    daemon.serve()
    held = daemon.connect()
    os.kill(daemon.status()["pid"], signal.SIGTERM)
    wait_for(lambda: daemon.body(Status())["state"] == "stopping")
    assert "stopping" in daemon.refusal(Reload()).message
    held.order(b"bye")


def test_a_reload_that_finds_no_slots_is_refused_and_told_to_the_manager(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.workers = 30
    daemon.write()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(tmp_path / "notify"))
        daemon.start(env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(1000).startswith(b"READY=1\n")
        held = [daemon.connect()]
        while len({session.pid for session in held}) < 6:
            held.append(daemon.connect())
        daemon.body(Reload())
        wait_for(lambda: len(pids(daemon)) == 36)
        failed = daemon.refusal(Reload())
        assert "30 more workers need a slot each and 28 of 64 are free" in failed.message
        said = [manager.recv(1000).split(b"\n")[0] for _ in range(4)]
        assert said == [b"RELOADING=1", b"READY=1"] * 2
    assert daemon.connect().generation == 2


def test_the_log_file_can_be_moved_away(daemon: Daemon) -> None:
    daemon.serve()
    daemon.log.rename(daemon.folder / "log.1")
    daemon.body(Reload())
    wait_for(lambda: daemon.log.exists() and '"serving"' in daemon.log.read_text())
