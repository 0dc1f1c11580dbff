"""forkctl against the real daemon: every command, its JSON, its exit code, and who may ask."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from crowd import Crowd
from peer import Peer, RefusedError, noise
from rig import BIN, PASSWORD, QUICK, Daemon, free_port, running, wait_for
from torture import Tell, scale

from forkd import ctl
from forkd.admin import schema

MIB = 1 << 20
SOMEBODY = 12345
"""A user that nothing belongs to."""


def answer(daemon: Daemon, *words: str, code: int = 0, kind: str = "", stdin: str = "") -> Any:
    """What a command prints with --json, which has the fields and types that docs/schema tells."""
    result = daemon.ctl(*words, "--json", stdin=stdin)
    assert result.returncode == code, result.stderr
    raw = json.loads(result.stdout)
    typed = msgspec.convert(raw, schema.COMMANDS[kind or words[0]])
    assert msgspec.to_builtins(typed) == raw
    return raw


def fed(daemon: Daemon, peer: Peer, path: str, size: int = 64 * MIB) -> int:
    """Begin an upload that has got its first MiB; its id."""
    ident, _ = peer.begin(path, size, tag="t", parents=True)
    peer.data(ident, noise(MIB))
    return ident


def read_to_the_end(peer: Peer) -> None:
    """Fails where the connection goes on."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            peer.read()


def refused(daemon: Daemon) -> str:
    """The code with which a newcomer is turned away."""
    with pytest.raises((RefusedError, EOFError, ConnectionError)) as caught:
        daemon.log_in()
    return getattr(caught.value, "code", "")


# what every command answers


def test_every_command_answers_as_its_schema_says(daemon_with):
    daemon = daemon_with(limits={"sessions_per_user": "7"})
    asked = {}

    def ask(*words: str, code: int = 0, kind: str = "", stdin: str = "") -> Any:
        asked[kind or words[0]] = found = answer(daemon, *words, code=code, kind=kind, stdin=stdin)
        return found

    made = ask("user", "add", "bob", "--generate", kind="user add")
    assert len(made["password"]) > 20
    daemon.users["bob"] = made["password"]
    assert ask("user", "passwd", "bob", "--password-stdin", kind="user passwd", stdin=PASSWORD) == {
        "name": "bob",
        "password": "",
    }
    daemon.users["bob"] = PASSWORD
    assert ask("user", "set", "bob", "--quota", "1 MiB", kind="user set")["limit"] == MIB
    alice = daemon.log_in()
    daemon.log_in("bob", (daemon.host, daemon.port))
    ident = fed(daemon, alice, "in/big")
    with Crowd() as crowd:
        crowd.start(lambda: feed(alice, ident, lambda: crowd.going))
        shown = {session["user"]: session for session in ask("sessions", "--interval", "0.5")}
        assert (shown["alice"]["state"], shown["alice"]["path"]) == ("upload", "/in/big")
        assert shown["alice"]["rate_up"] > 0
        assert shown["alice"]["eta"] > 0
        assert shown["bob"]["rate_up"] == shown["alice"]["rate_down"] == 0
        (moving,) = ask("transfers", "--interval", "0.5")
        assert moving["user"] == "alice"
        (line,) = daemon.ctl("top", "--json", "-n", "1", "-d", "0.5").stdout.splitlines()
        frame = json.loads(line)
        assert msgspec.to_builtins(msgspec.convert(frame, schema.COMMANDS["top"])) == frame
        asked["top"] = frame
        assert (frame["users"][0]["user"], frame["rate_up"] > 0) == ("alice", True)
    wait_for(lambda: daemon.status()["rates"]["bytes_up"] > 0)
    status = ask("status")
    assert status["sessions_limit"] == 20_000
    assert (status["totals"]["uploads_now"], status["totals"]["downloads_now"]) == (1, 0)
    users = {user["name"]: user for user in ask("users")}
    assert users == {user["name"]: user for user in ask("user", "list", kind="user list")}
    assert (users["bob"]["sessions"], users["bob"]["sessions_limit"]) == (1, 7)
    assert ask("user", "show", "bob", kind="user show") == users["bob"]
    assert ask("quota", "alice")[0]["reserved"] == 64 * MIB
    assert ask("quota", "verify", kind="quota verify")[0]["exact"]
    assert ask("kick", "--user", "bob") == {"kicked": 1}
    assert answer(daemon, "kick", "--user", "bob", code=1) == {"kicked": 0}
    ask("user", "remove", "bob", kind="user remove")
    with pytest.raises(RefusedError):
        daemon.connect().login("alice", "wrong")
    (ban,) = ask("bans")
    assert ban["failures"] == 1
    assert ask("bans", "lift", ban["address"], kind="bans lift") == {"lifted": ban["address"]}
    assert ask("loglevel", "warning")["level"] == "warning"
    assert ask("check")["daemon"]["problems"] == []
    assert ask("reload")["generation"] == 2
    assert ask("upgrade")["generation"] == 3
    assert ask("workers", "1") == {"workers": 1}
    assert ask("drain", "--timeout", "0.1")["took"] > 0
    assert answer(daemon, "status", code=1)["state"] == "drained"
    assert ask("undrain") == {"drained": False}
    assert ask("stop", "--now") == {"stopped": True}
    assert set(asked) == set(schema.COMMANDS)


def feed(peer: Peer, ident: int, going: Callable[[], bool]) -> None:
    """A little more of an upload, again and again."""
    while going():
        peer.data(ident, bytes(4096))
        time.sleep(0.02)


def test_exit_codes_are_those_of_the_page(daemon_with):
    daemon = daemon_with(server={"workers": "1"})
    assert daemon.ctl("status").returncode == 0
    assert daemon.ctl("kick", "no-such-1").returncode == 1
    assert daemon.ctl("drain", "--slot", "9").returncode == 1
    for wrong in (("kick",), ("kick", "1", "--user", "a"), ("top", "-d", "0"), ("loglevel", "x")):
        assert daemon.ctl(*wrong).returncode == 2
    assert daemon.ctl("drain").returncode == 0
    assert daemon.ctl("status").returncode == 1
    assert daemon.ctl("undrain").returncode == 0
    daemon.configure("limits", typo="1")
    assert daemon.ctl("check").returncode == 1
    assert daemon.ctl("reload").returncode == 1
    daemon.unset("limits")
    daemon.stop()
    for needs_it in ("status", "sessions", "transfers", "top", "drain", "undrain", "reload"):
        assert daemon.ctl(needs_it).returncode == 3
    for does_not in ("users", "quota", "bans", "check"):
        assert daemon.ctl(does_not).returncode == 0
    daemon.config.unlink()
    assert daemon.ctl("status").returncode == 4


# drain


def test_drain_lets_transfers_end_and_turns_newcomers_away(daemon):
    idle, up = daemon.log_in(), daemon.log_in()
    content = noise(3 * MIB)
    ident, _ = up.begin("f", len(content), tag="t")
    up.data(ident, content[:MIB])
    drain = subprocess.Popen(
        [BIN / "forkctl", "-c", daemon.config, "drain"], stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: daemon.status()["state"] == "drained")
        assert idle.read()[2] in ({"notice": "going-away"},)
        wait_for(lambda: refused(daemon) == "busy")
        status, reason = page_of(daemon)
        assert (status, reason.startswith("no worker")) == (503, True)
        text = daemon.ctl("status").stdout
        assert "forkd 0.1.0  drained" in text
        assert "no new sessions (forkctl undrain to serve again)" in text
        os.kill(daemon.workers("draining")[0]["pid"], signal.SIGKILL)  # who comes is closed, too
        wait_for(lambda: len(daemon.workers("draining")) == 2)
        assert refused(daemon) == "busy"
        with contextlib.suppress(ConnectionError, EOFError):
            up.data(ident, content[MIB:], last=True)
            assert up.answer(ident)[0]["size"] == len(content)
        idle.close()
        up.close()
        assert drain.wait(60) == 0
        assert drain.stdout is not None
        told = drain.stdout.read()
        assert told.startswith("draining 2 workers: ")
        assert told.endswith("no new ones until forkctl undrain\n")
    finally:
        drain.kill()
        drain.wait()
    assert daemon.ctl("reload").returncode == 0
    assert daemon.status()["state"] == "drained"
    assert refused(daemon) == "busy"
    assert daemon.ctl("undrain").returncode == 0
    daemon.log_in().put("after", b"x")
    assert daemon.ctl("status").returncode == 0


def page_of(daemon: Daemon) -> tuple[int, str]:
    """The exporter's /readyz."""
    with socket.create_connection(("127.0.0.1", daemon.metrics_port), 10) as connection:
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def test_drain_waits_for_who_came_a_moment_ago(daemon):
    """The counts on the scoreboard are up to a second old."""
    for _ in range(3):
        up = daemon.log_in()
        ident, _ = up.begin("f", 2 * MIB, tag="t")
        drain = subprocess.Popen([BIN / "forkctl", "-c", daemon.config, "drain"])
        try:
            wait_for(lambda: daemon.status()["state"] == "drained")
            wait_for(lambda: len(daemon.workers("draining")) == 2)
            time.sleep(0.5)
            assert drain.poll() is None
            up.data(ident, bytes(2 * MIB), last=True)
            assert up.answer(ident)[0]["size"] == 2 * MIB
            up.close()
            assert drain.wait(60) == 0
        finally:
            drain.kill()
            drain.wait()
        assert daemon.ctl("undrain").returncode == 0


def test_ftp_clients_are_told_too(folder):
    port = free_port()
    settings = {"listen": {"ftp": f'["127.0.0.1:{port}"]'}, "ftp": {"tls": '"allow"'}}
    with running(folder, settings) as daemon:
        assert first_line(port).startswith("220")
        assert daemon.ctl("drain", "--timeout", "1").returncode == 0
        assert first_line(port).startswith("421")
        assert daemon.ctl("undrain").returncode == 0
        assert first_line(port).startswith("220")


def first_line(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        return connection.makefile().readline()


def test_a_worker_that_drains_says_until_when(daemon):
    up = daemon.log_in()
    fed(daemon, up, "f")
    slot = int(up.hello["session"].split("-")[0], 16)
    drain = subprocess.Popen(
        [BIN / "forkctl", "-c", daemon.config, "drain", "--slot", str(slot), "--timeout", "600"]
    )
    try:
        (leaving,) = wait_for(lambda: daemon.workers("draining"))
        assert 500 < leaving["until"] - time.time() < 601
        assert "draining until " in daemon.ctl("status").stdout
    finally:
        drain.kill()
        drain.wait()


def test_drain_cuts_what_is_left_when_its_time_is_over(daemon):
    up = daemon.log_in()
    fed(daemon, up, "f")
    assert daemon.ctl("drain", "--timeout", "0.5").returncode == 0
    read_to_the_end(up)
    assert daemon.ctl("undrain").returncode == 0
    assert daemon.log_in().begin("f", 64 * MIB, tag="t")[1]["offset"] == MIB


def test_drain_of_a_slot_replaces_its_worker(daemon):
    up = daemon.log_in()
    content = noise(2 * MIB)
    ident, _ = up.begin("f", len(content), tag="t")
    up.data(ident, content[:MIB])
    slot = int(up.hello["session"].split("-")[0], 16)
    drain = subprocess.Popen([BIN / "forkctl", "-c", daemon.config, "drain", "--slot", str(slot)])
    try:
        wait_for(lambda: [w["slot"] for w in daemon.workers("draining")] == [slot])
        wait_for(lambda: len(daemon.workers()) == 2)
        daemon.log_in().put("other", b"x")
        up.data(ident, content[MIB:], last=True)
        assert up.answer(ident)[0]["size"] == len(content)
        up.close()
        assert drain.wait(60) == 0
    finally:
        drain.kill()
        drain.wait()
    assert slot not in {w["slot"] for w in daemon.status()["workers"]}
    assert daemon.status()["totals"]["restarts"] == 0
    assert (daemon.home() / "f").read_bytes() == content


# the rest of what changes


def test_kick_of_a_user_ends_all_his_sessions_on_every_worker(daemon):
    daemon.add_user("bob")
    alice = daemon.log_in()
    bobs = [daemon.log_in("bob", (daemon.host, daemon.port)) for _ in range(6)]
    assert len({peer.hello["session"].split("-")[0] for peer in bobs}) == 2
    assert daemon.ctl("kick", "--user", "bob").stdout == "6 sessions of bob ended\n"
    for bob in bobs:
        read_to_the_end(bob)
    alice.put("still", b"here")


def test_a_log_level_holds_for_all_processes_until_the_reload(daemon):
    def debugging() -> set[str]:
        return {event["process"] for event in daemon.events() if event["level"] == "debug"}

    def infos() -> int:
        return sum(event["event"] == "login" for event in daemon.events())

    daemon.log_in()
    assert infos() == 1
    assert daemon.ctl("loglevel", "error").returncode == 0
    assert "log level   error until the next reload" in daemon.ctl("status").stdout
    daemon.log_in()
    victim = daemon.workers()[0]["pid"]
    os.kill(victim, signal.SIGKILL)  # who takes its place has the level too
    wait_for(lambda: victim not in {w["pid"] for w in daemon.workers()})
    wait_for(lambda: len(daemon.workers()) == 2)
    for _ in range(4):
        daemon.log_in()
    assert infos() == 1
    assert daemon.ctl("reload").returncode == 0
    level = daemon.status()["log"]
    assert level == {"level": "info", "configured": "info"}
    wait_for(lambda: len(daemon.workers()) == 2)
    daemon.log_in()
    wait_for(lambda: infos() == 2)


def test_check_says_what_a_reload_would_do_and_does_nothing(daemon):
    port = free_port()
    daemon.configure("limits", idle_timeout='"20m"')
    daemon.configure("listen", native=f'["127.0.0.1:{daemon.port}", "127.0.0.1:{port}"]')
    result = daemon.ctl("check")
    assert result.returncode == 0
    assert "the running daemon would accept it" in result.stdout
    assert "limits.idle_timeout 900s -> 1200s" in result.stdout
    assert daemon.status()["generation"] == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        result = daemon.ctl("check")
        assert result.returncode == 1
        assert "the running daemon would refuse it" in result.stdout
        assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
    daemon.configure("server", workers="-1")
    result = daemon.ctl("check")
    assert result.returncode == 1
    assert result.stderr.count("server.workers") == 1
    assert daemon.log_in().put("f", b"x")
    elsewhere = daemon.folder / "other.toml"
    elsewhere.write_text(daemon.config.read_text().replace("workers = -1", "workers = 1"))
    other = daemon.ctl("-c", str(elsewhere), "check")
    assert other.returncode == 0
    assert "no running daemon serves it" in other.stdout


def test_every_change_is_logged_with_who_asked_for_it(daemon):
    daemon.ctl("status")
    daemon.ctl("sessions")
    daemon.ctl("workers", "2")
    daemon.ctl("kick", "none-1")
    asked = [event for event in daemon.events() if event["event"] == "asked"]
    assert [event["what"] for event in asked] == ["account-changed", "workers", "kick"]
    assert asked[1]["details"] == ["count=2"]
    assert asked[2]["details"] == ["session=none-1"]
    assert {event["uid"] for event in asked} == {os.getuid()}


def test_status_tells_why_a_worker_was_replaced(daemon):
    os.kill(daemon.workers()[0]["pid"], signal.SIGKILL)
    wait_for(lambda: daemon.status()["totals"]["restarts"] == 1 and len(daemon.workers()) == 2)
    (replaced,) = (w for w in daemon.workers() if w["restarts"])
    assert replaced["last_death"] == "signal 9 (SIGKILL)"
    said = f"worker {replaced['number']} 1 time, last: signal 9 (SIGKILL)"
    assert said in daemon.ctl("status").stdout


# top


def test_top_is_quit_by_a_key_and_leaves_the_terminal_as_it_was(daemon):
    daemon.log_in()
    pid, terminal = pty.fork()
    if not pid:
        command = ["forkctl", "-c", str(daemon.config), "top", "-d", "0.2"]
        os.execv(BIN / "forkctl", command)
    try:
        before = termios.tcgetattr(terminal)
        shown = read_until(terminal, b"1 session")
        assert b"forkd serving" in shown
        os.write(terminal, b"xq")
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while os.read(terminal, 65536):
                pass
        status = os.waitpid(pid, 0)[1]
        pid = 0
        assert status == 0
        assert termios.tcgetattr(terminal)[3] == before[3]
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, mark: bytes) -> bytes:
    shown = b""
    while mark not in shown:
        assert select.select([terminal], [], [], 60)[0]
        shown += os.read(terminal, 65536)
    return shown


def test_top_into_a_pipe_is_one_look_after_the_other(daemon):
    daemon.log_in()
    result = daemon.ctl("top", "-n", "2", "-d", "0.2")
    assert result.returncode == 0
    assert result.stdout.count("forkd serving") == 2
    assert "\x1b" not in result.stdout
    lines = daemon.ctl("top", "--json", "-n", "3", "-d", "0.2", "--user", "bob").stdout.splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["sessions"] == 1
    assert json.loads(lines[-1])["busiest"] == []


# who may ask


@pytest.fixture
def shared_with_operators(folder) -> Iterator[Daemon]:
    """A daemon whose folders all may enter, and whose configuration nobody else may read."""
    os.chmod(folder, 0o755)
    settings = {"server": {"operators": '"nogroup"'}}
    with running(folder, settings) as daemon:
        os.chmod(daemon.config, 0o600)
        yield daemon


class Somebody:
    """Runs forkctl as another user, in a fork: he may not reach the interpreter."""

    def __init__(self, daemon: Daemon, groups: list[int]) -> None:
        self.daemon = daemon
        self.groups = groups

    def ctl(self, *words: str) -> tuple[int, str, str]:
        said = [self.daemon.folder / name for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                for number, file in enumerate(said, 1):
                    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                os.setgroups(self.groups)
                os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
                os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
                code = run_ctl("--socket", str(self.daemon.run), *words)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out, err = (file.read_text() for file in said)
        return code, out, err


def run_ctl(*words: str) -> int:
    """forkctl in this process, which pytest has given other standard streams."""
    sys.stdout, sys.stderr = (os.fdopen(fd, "w") for fd in (1, 2))
    try:
        return ctl.main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
def test_operators_may_look_and_only_look(shared_with_operators: Daemon) -> None:
    daemon = shared_with_operators
    gid = grp.getgrnam("nogroup").gr_gid
    status = os.stat(daemon.run / "control.sock")
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, gid)
    operator = Somebody(daemon, [gid])
    peer = daemon.log_in()
    with pytest.raises(RefusedError):
        daemon.connect().login("alice", "wrong")
    for words, said in (
        (("status",), "forkd 0.1.0  serving"),
        (("sessions",), "alice"),
        (("transfers",), "no transfers"),
        (("top", "-b", "-n", "1", "-d", "0.2"), "alice"),
        (("users",), "alice"),
        (("user", "show", "alice"), "alice"),
        (("quota",), "alice"),
        (("bans",), "unix:uid="),
    ):
        code, out, err = operator.ctl(*words)
        assert (code, err) == (0, ""), words
        assert said in out
    for words in (
        *(("reload",), ("stop",), ("kick", "--user", "alice"), ("drain",), ("undrain",)),
        *(("workers", "1"), ("loglevel", "debug"), ("quota", "verify", "--fix")),
        ("bans", "lift", "unix:uid=0"),
    ):
        code, out, err = operator.ctl(*words)
        assert (code, out) == (4, ""), words
        assert err == (
            "forkctl: members of the group nogroup may look; only root and the daemon's own user "
            "may change anything\n"
        )
    assert operator.ctl("user", "set", "alice", "--disable")[0] == 4
    peer.put("still", b"here")
    assert daemon.status()["state"] == "serving"
    asked = [event["what"] for event in daemon.events() if event["event"] == "asked"]
    assert asked == ["account-changed"]
    denied = [event for event in daemon.events() if event["event"] == "denied"]
    assert [(event["what"], event["uid"]) for event in denied[:3]] == [
        ("reload", SOMEBODY),
        ("stop", SOMEBODY),
        ("kick-user", SOMEBODY),
    ]
    daemon.stop()
    code, _, err = operator.ctl("users")
    assert (code, "only root and its own user see this" in err) == (3, True)


@needs_root
def test_strangers_may_nothing_and_the_group_follows_the_reload(
    shared_with_operators: Daemon,
) -> None:
    daemon = shared_with_operators
    gid = grp.getgrnam("nogroup").gr_gid
    stranger, operator = Somebody(daemon, []), Somebody(daemon, [gid])
    assert stranger.ctl("status")[0] == 4
    assert operator.ctl("status")[0] == 0
    daemon.configure("server", operators='""')
    assert daemon.ctl("reload").returncode == 0
    assert stat.S_IMODE(os.stat(daemon.run / "control.sock").st_mode) == 0o600
    assert operator.ctl("status")[0] == 4
    daemon.configure("server", operators='"no-such-group"')
    refused = daemon.ctl("reload")
    assert (refused.returncode, "there is no group" in refused.stderr) == (1, True)


# many


@pytest.mark.torture
def test_looking_at_a_crowd_holds_nobody_up(folder, tell: Tell) -> None:
    """Sessions are told in pages: between two of them the worker serves its clients."""
    count = scale(600, 6000)
    with running(folder, {"server": {"workers": "1"}}, *QUICK) as daemon:
        alice = daemon.log_in()
        for _ in range(count):
            idle = socket.socket(socket.AF_UNIX)
            idle.connect(daemon.unix_path)
            daemon.held.append(idle)
        wait_for(lambda: daemon.status()["totals"]["sessions_now"] == count + 1, 120)
        alice.put("f", b"x")
        quiet = slowest(alice, lambda: False, 200)
        seconds = []

        def look() -> None:
            for _ in range(5):
                began = time.monotonic()
                found = daemon.ctl("sessions", "--json", "--interval", "0")
                seconds.append(time.monotonic() - began)
                assert len(json.loads(found.stdout)) == count + 1

        with Crowd() as crowd:
            crowd.start(look)
            busy = slowest(alice, lambda: len(seconds) < 5, 0)
        crowd.check()
        assert len(seconds) == 5
        tell(
            sessions=count,
            seconds_a_list=sorted(seconds)[2],
            slowest_answer_ms=1000 * quiet,
            while_listing_ms=1000 * busy,
        )


def slowest(peer: Peer, going: Callable[[], bool], least: int) -> float:
    """Seconds of the longest of many small requests."""
    most, made = 0.0, 0
    while made < least or going():
        began = time.monotonic()
        peer.get("f")
        most = max(most, time.monotonic() - began)
        made += 1
    return most
