"""Accounts that are changed while the daemon serves them: what holds now holds for everybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peer import ERROR, NOTICE, Peer, RefusedError, noise
from rig import BIN, PASSWORD, Daemon, wait_for

MIB = 1 << 20
OTHER = "battery staple 43"


@pytest.fixture
def peer(shared: Daemon, user: str) -> Peer:
    return shared.log_in(user)


def code(peer: Peer, op: str, **more: Any) -> str:
    """The code with which a request is refused."""
    with pytest.raises(RefusedError) as refused:
        peer.ask({"op": op, **more})
    return refused.value.code


def ctl(daemon: Daemon, *args: str, stdin: str = "") -> str:
    result = daemon.ctl(*args, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused_login(daemon: Daemon, user: str, password: str) -> dict[str, Any]:
    """The whole answer to a log-in that is refused."""
    peer = daemon.connect()
    peer.request({"op": "auth", "user": user, "password": password})
    kind, _, meta, _ = peer.read()
    assert kind == ERROR
    peer.close()
    return meta


def end_of(peer: Peer) -> str:
    """The code with which the server ends the session by itself."""
    kind, ident, meta, _ = peer.read()
    while kind == NOTICE:
        kind, ident, meta, _ = peer.read()
    assert (kind, ident) == (ERROR, 0)
    with pytest.raises(EOFError):
        peer.read()
    return str(meta["code"])


# passwords


def test_a_user_changes_the_password(shared, user, peer):
    env = {**shared.env(user), "FORKC_NEW_PASSWORD": OTHER}
    changed = subprocess.run(
        [BIN / "forkc", "passwd", shared.url(user=user)], env=env, capture_output=True, text=True
    )
    assert changed.returncode == 0, changed.stderr
    assert refused_login(shared, user, PASSWORD)["code"] == "auth-failed"
    shared.connect().login(user, OTHER)
    peer.put("still", b"logged in")
    assert code(peer, "passwd", old=PASSWORD, new="whatever it is") == "auth-failed"
    assert code(peer, "passwd", old=OTHER, new="short") == "weak-password"
    peer.ask({"op": "passwd", "old": OTHER, "new": PASSWORD})
    shared.connect().login(user, PASSWORD)


def test_an_administrator_changes_the_password(shared, user, peer):
    ctl(shared, "user", "passwd", user, "--password-stdin", stdin=OTHER)
    assert refused_login(shared, user, PASSWORD)["code"] == "auth-failed"
    shared.connect().login(user, OTHER)
    peer.put("still", b"logged in")


def test_who_asks_cannot_tell_why_a_log_in_is_refused(shared, user):
    ctl(shared, "user", "set", user, "--disable")
    answers = [
        refused_login(shared, "alice", "wrong password"),
        refused_login(shared, "nobody", PASSWORD),
        refused_login(shared, "No Name!", PASSWORD),
        refused_login(shared, "../alice", PASSWORD),
        refused_login(shared, user, PASSWORD),
    ]
    assert answers == [answers[0]] * len(answers)
    assert answers[0]["code"] == "auth-failed"


def test_too_many_attempts_end_the_connection(shared):
    peer = shared.connect()
    for _ in range(3):
        assert code(peer, "auth", user="alice", password="wrong") == "auth-failed"
    with pytest.raises(EOFError):
        peer.read()
    shared.log_in()


def test_a_session_can_become_another_user(shared, user, peer):
    peer.put("mine", b"1")
    peer.login("alice", PASSWORD)
    assert code(peer, "get", path="mine") == "not-found"
    assert code(peer, "auth", user=user, password="wrong") == "auth-failed"
    assert code(peer, "get", path="mine") == "not-found"
    peer.login(user, PASSWORD)
    assert peer.get("mine") == b"1"


# disabled and removed


@pytest.mark.parametrize("how", [("set", "--disable"), ("remove",)])
def test_sessions_of_a_disabled_or_removed_account_end_at_once(shared, user, peer, how):
    """Idle ones, and those in the middle of an upload or download."""
    verb, *options = how
    shared.log_in(user).put("down", bytes(MIB))
    up = shared.log_in(user)
    ident, _ = up.begin("up", 6 * MIB, tag="t")
    up.data(ident, noise(MIB))
    down = shared.log_in(user)
    for _ in range(16):
        down.request({"op": "get", "path": "down"})
    other = shared.log_in()
    wait_for(lambda: {"up", "down"} <= transferring(shared, user))
    ctl(shared, "user", verb, user, *options)
    assert end_of(peer) == "kicked"
    for cut in (up, down):
        with pytest.raises((EOFError, ConnectionError)):
            read_to_the_end(cut)
    assert not [s for s in sessions(shared) if s["user"] == user]
    assert refused_login(shared, user, PASSWORD)["code"] == "auth-failed"
    other.put("unharmed", b"")
    assert (shared.home(user) / "down").exists()
    assert not (shared.home(user) / "up").exists()


def read_to_the_end(peer: Peer) -> None:
    while True:
        peer.read()


def sessions(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ctl(daemon, "--json", "sessions"))
    return found


def transferring(daemon: Daemon, user: str) -> set[str]:
    return {s["path"].strip("/") for s in sessions(daemon) if s["user"] == user}


def test_an_enabled_account_is_served_again(shared, user, peer):
    peer.put("kept", b"1")
    ctl(shared, "user", "set", user, "--disable")
    assert end_of(peer) == "kicked"
    ctl(shared, "user", "set", user, "--enable")
    assert shared.log_in(user).get("kept") == b"1"


def test_a_removed_account_leaves_nothing_to_its_namesake(shared, user, peer):
    peer.put("old", bytes(1000))
    ident, _ = peer.begin("partial", 6 * MIB, tag="t")
    peer.data(ident, noise(MIB))
    ctl(shared, "user", "remove", user, "--delete-files")
    assert not shared.home(user).exists()
    shared.add_user(user)
    namesake = shared.log_in(user)
    assert namesake.ask({"op": "quota"})[0]["used"] == 0
    assert namesake.ask({"op": "list", "path": ""})[1] == b""
    _, offer = namesake.begin("partial", 6 * MIB, tag="t")
    assert offer["offset"] == 0


# permissions


def test_permissions_that_change_hold_for_the_running_session(shared, user, peer):
    peer.put("f", b"1")
    ctl(shared, "user", "set", user, "--perms", "list,read")
    wait_for(lambda: refusal(peer, "put", path="f", size=0) == "denied")
    assert peer.get("f") == b"1"
    ctl(shared, "user", "set", user, "--perms", "all")
    wait_for(lambda: refusal(peer, "put", path="f", size=0) is None)
    assert peer.get("f") == b""


def refusal(peer: Peer, op: str, **more: Any) -> str | None:
    try:
        peer.ask({"op": op, **more})
    except RefusedError as refused:
        return refused.code
    return None


NEEDS = {
    "list": ({"op": "list", "path": ""}, {"op": "stat", "path": "f"}),
    "read": ({"op": "get", "path": "f"},),
    "write": ({"op": "put", "path": "new", "size": 0}, {"op": "put", "path": "n", "size": 9}),
    "delete": ({"op": "remove", "path": "f"},),
    "mkdir": ({"op": "mkdir", "path": "d"},),
    "move": ({"op": "move", "path": "f", "to": "g"},),
    "replace": ({"op": "move", "path": "f", "to": "g", "replace": True},),
    "passwd": ({"op": "passwd", "old": PASSWORD, "new": OTHER},),
}


def test_each_verb_needs_its_permission(shared, user, peer):
    peer.put("f", b"1")
    for permission, requests in NEEDS.items():
        others = ",".join(NEEDS.keys() - {permission})
        ctl(shared, "user", "set", user, "--perms", others)
        lacking = shared.log_in(user)
        for request in requests:
            with pytest.raises(RefusedError) as refused:
                lacking.ask(request)
            assert refused.value.code == "denied"
            assert repr(permission) in str(refused.value)
    assert sorted(os.listdir(shared.home(user))) == ["f"]


def test_a_write_only_account(shared):
    shared.add_user("dropbox", "--perms", "write")
    peer = shared.log_in("dropbox")
    peer.put("f", b"dropped")
    for size in (3, 2 * MIB):
        assert refusal(peer, "put", path="f", size=size, tag="t") == "exists"
    for op in ("get", "list", "stat", "mkdir", "remove"):
        assert code(peer, op, path="f") == "denied"
    assert (shared.home("dropbox") / "f").read_bytes() == b"dropped"
    assert peer.ask({"op": "quota"})[0]["used"] == 7


def test_a_read_only_account(shared):
    (shared.data / "museum").mkdir()
    (shared.data / "museum" / "f").write_bytes(b"exhibit")
    shared.add_user("museum", "--perms", "list,read")
    peer = shared.log_in("museum")
    assert peer.get("f") == b"exhibit"
    assert peer.ask({"op": "quota"})[0]["used"] == 7
    for op in ("put", "mkdir", "remove"):
        assert code(peer, op, path="g", size=0) == "denied"
    assert code(peer, "move", path="f", to="g") == "denied"
    assert code(peer, "passwd", old=PASSWORD, new=OTHER) == "denied"


# quota


def test_a_quota_that_changes_holds_for_the_running_session(shared, user, peer):
    def limit() -> object:
        return peer.ask({"op": "quota"})[0]["limit"]

    peer.put("held", bytes(1000))
    ctl(shared, "user", "set", user, "--quota", "999")
    wait_for(lambda: limit() == 999)
    with pytest.raises(RefusedError) as refused:
        peer.put("f", b"1")
    assert refused.value.code == "quota"
    assert len(peer.get("held")) == 1000
    ctl(shared, "user", "set", user, "--quota", "1001")
    wait_for(lambda: limit() == 1001)
    peer.put("f", b"1")
    with pytest.raises(RefusedError):
        peer.put("g", b"1")
    ctl(shared, "user", "set", user, "--quota", "unlimited")
    wait_for(lambda: limit() is None)
    ctl(shared, "user", "set", user, "--quota", "default")
    wait_for(lambda: limit() == 1 << 30)


# registration


def test_registration_is_switched_on_and_off_by_a_reload(daemon):
    request = {"op": "register", "user": "stranger", "password": PASSWORD}
    closed = daemon.connect()
    assert closed.hello["register"] is False
    assert code(closed, **request) == "register-closed"
    daemon.configure("register", enabled="true", quota='"1 KiB"', permissions='["read", "write"]')
    ctl(daemon, "reload")
    peer = daemon.connect()
    assert peer.hello["register"] is True
    for user, password, expected in (
        ("alice", PASSWORD, "register-refused"),
        ("Bad Name", PASSWORD, "register-refused"),
        ("..", PASSWORD, "register-refused"),
        ("stranger", "short", "weak-password"),
    ):
        assert code(peer, "register", user=user, password=password) == expected
    assert peer.ask(request)[0] == {"user": "stranger"}
    login = peer.login("stranger", PASSWORD)
    assert login["permissions"] == ["read", "write"]
    assert login["quota"] == {"used": 0, "limit": 1024}
    peer.put("f", bytes(1024))
    assert code(peer, "put", path="g", size=1 << 21) == "quota"
    made = daemon.forkc("register", daemon.url(user="second"), user="second")
    assert made.returncode == 0, made.stderr
    daemon.configure("register", enabled="false")
    ctl(daemon, "reload")
    assert code(daemon.connect(), **{**request, "user": "third"}) == "register-closed"
    daemon.log_in("stranger")
    daemon.log_in("second")


# from another host

ELSEWHERE = "198.51.100.7"
"""An address that is not loopback, on the loopback interface of a network of the test's own."""
SCRIPT = """
import json, sys
from peer import Peer, RefusedError
peer = Peer((sys.argv[1], int(sys.argv[2])))
codes = []
for op in ("auth", "register"):
    try:
        peer.ask({"op": op, "user": "alice", "password": sys.argv[3]})
    except RefusedError as refused:
        codes.append(refused.code)
print(json.dumps(codes))
"""


def own_network() -> tuple[str, ...]:
    """The command that executes another one in a network of its own; skips where it cannot."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    setup = f'ip link set lo up && ip address add {ELSEWHERE}/32 dev lo && exec "$@"'
    wrapper = ("unshare", "--net", "sh", "-c", setup, "sh")
    try:
        tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no network namespace: {error}")
    if tried.returncode:
        pytest.skip(f"no network namespace: {tried.stderr}")
    return wrapper


def within(daemon: Daemon, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the daemon's network."""
    return subprocess.run(
        ["nsenter", f"--net=/proc/{daemon.pid}/ns/net", *command],
        env={**daemon.env(), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_plain_password_from_another_host_is_refused(folder):
    wrapper = own_network()
    daemon = Daemon(folder, {"register": {"enabled": "true"}})
    daemon.configure("listen", native=f'["0.0.0.0:{daemon.port}"]')
    tests = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"

    def ask(host: str) -> str:
        command = (sys.executable, "-c", SCRIPT, host, str(daemon.port), PASSWORD)
        return within(daemon, *command, PYTHONPATH=tests).stdout.strip()

    try:
        daemon.start(*wrapper)
        daemon.add_user("alice")
        assert ask(ELSEWHERE) == '["auth-insecure", "auth-insecure"]'
        assert ask("127.0.0.1") == '["register-refused"]'
        address = f"alice@{ELSEWHERE}:{daemon.port}"
        encrypted = within(daemon, BIN / "forkc", "quota", f"forkd://{address}")
        assert encrypted.returncode == 0, encrypted.stderr
        plain = within(daemon, BIN / "forkc", "quota", f"forkd+plain://{address}")
        assert plain.returncode == 5
        daemon.configure("tls", allow_plain_passwords="true")
        ctl(daemon, "reload")
        assert ask(ELSEWHERE) == '["register-refused"]'
        assert PASSWORD not in daemon.log.read_text()
    finally:
        daemon.destroy()
