"""Hooks on the real daemon: what they are told, and that nothing makes them miss anything."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from peer import noise
from rig import Daemon, free_port, wait_for

from forkd.digest import digest_of

Event = dict[str, Any]
Start = Callable[..., Daemon]

RECORD = """#!/bin/sh
# Appends the event to a file, in one write; fails as long as there is a file "broken".
test -e {folder}/broken && exit 3
test -e {folder}/hanging && sleep 60
test "$FORKD_EVENT_ID" || exit 4
IFS= read -r line || exit 5
printf '%s\\n' "$line" >> {folder}/told
"""


class Recorder:
    """A hook program that writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.program = folder / "record"
        self.program.write_text(RECORD.format(folder=folder))
        self.program.chmod(0o755)

    def settings(self, **more: str) -> dict[str, str]:
        return {"exec": f'["{self.program}"]', **more}

    def told(self) -> list[Event]:
        try:
            text = (self.folder / "told").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def wait(self, count: int, seconds: float = 30) -> list[Event]:
        """All events, once there are so many different ones."""
        wait_for(lambda: len({event["id"] for event in self.told()}) >= count, seconds)
        return self.told()

    @contextlib.contextmanager
    def state(self, name: str) -> Iterator[None]:
        """It is "broken" or "hanging" meanwhile."""
        (self.folder / name).touch()
        try:
            yield
        finally:
            (self.folder / name).unlink()


@pytest.fixture
def recorder(folder: Path) -> Recorder:
    return Recorder(folder / "hook")


def dispatcher(daemon: Daemon) -> int:
    """Its pid, once it serves; 0 for none."""
    for helper in daemon.status()["helpers"]:
        if helper["role"] == "dispatcher" and helper["state"] == "serving":
            return int(helper["pid"])
    return 0


def nothing_left(daemon: Daemon) -> None:
    """All is told; what the journals held is removed but for the ones being written."""
    wait_for(lambda: daemon.metrics()["forkd_hook_backlog_bytes"] == 0)


def of_paths(told: list[Event], kind: str = "published") -> dict[str, set[str]]:
    """path -> ids of such events."""
    found: dict[str, set[str]] = {}
    for event in told:
        if event["event"] == kind:
            found.setdefault(event["path"], set()).add(event["id"])
    return found


# what is told


@pytest.mark.parametrize("durability", ["full", "group", "none"])
def test_every_change_is_told_as_it_was(
    daemon_with: Start, recorder: Recorder, durability: str
) -> None:
    daemon = daemon_with(
        **{"storage": {"durability": f'"{durability}"'}, "hooks.record": recorder.settings()}
    )
    alice = daemon.log_in()
    alice.put("a", b"first")
    alice.put("a", b"second!", check=True)
    alice.ask({"op": "move", "path": "a", "to": "b"})
    alice.ask({"op": "mkdir", "path": "d"})
    alice.ask({"op": "move", "path": "d", "to": "e"})
    alice.put("e/x", b"")
    ident, _ = alice.begin("e/big", 4096, check=True, tag="v1")
    content = noise(4096)
    alice.data(ident, content)
    alice.data(ident, last=True, meta={"digest": digest_of(content)})
    alice.answer(ident)
    alice.ask({"op": "remove", "path": "b"})
    alice.ask({"op": "remove", "path": "e", "recursive": True})
    told = recorder.wait(10)
    shown = [(e["event"], e.get("from"), e["path"], e["type"], e["size"]) for e in told]
    assert shown[:7] == [
        ("published", None, "/a", "file", 5),
        ("published", None, "/a", "file", 7),
        ("renamed", "/a", "/b", "file", 7),
        ("renamed", "/d", "/e", "folder", None),
        ("published", None, "/e/x", "file", 0),
        ("published", None, "/e/big", "file", 4096),
        ("removed", None, "/b", "file", 7),
    ]
    assert sorted(shown[7:9]) == [
        ("removed", None, "/e/big", "file", 4096),
        ("removed", None, "/e/x", "file", 0),
    ]
    assert shown[9:] == [("removed", None, "/e", "folder", None)]
    assert [e["digest"] for e in told[:2]] == [None, digest_of(b"second!")]
    assert told[5]["digest"] == digest_of(content)
    assert {(e["user"], e["door"], e["session"]) for e in told} == {
        ("alice", "native", alice.hello["session"])
    }
    assert len({e["id"] for e in told}) == 10
    assert told[0]["file"] == str(daemon.home() / "a")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", e["time"]) for e in told)
    nothing_left(daemon)
    wait_for(lambda: daemon.metrics()["forkd_events_total"] == 10)
    assert daemon.metrics()['forkd_hook_deliveries_total{outcome="ok"}'] == 10


def test_what_is_refused_is_not_told(daemon_with: Start, recorder: Recorder) -> None:
    daemon = daemon_with(**{"hooks.record": recorder.settings()})
    alice = daemon.log_in()
    alice.put("a", b"x")
    for request in (
        {"op": "put", "path": "a", "size": 1, "replace": False},
        {"op": "put", "path": "none/a", "size": 1},
        {"op": "move", "path": "none", "to": "c"},
        {"op": "remove", "path": "none"},
    ):
        with pytest.raises(Exception, match=r"exists already|there is no"):
            alice.ask(request, b"y" if request["op"] == "put" else b"")
    alice.put("last", b"x")
    assert [event["path"] for event in recorder.wait(2)] == ["/a", "/last"]


def test_each_hook_is_told_what_it_asked_for(daemon_with: Start, folder: Path) -> None:
    first, second = Recorder(folder / "one"), Recorder(folder / "two")
    daemon = daemon_with(
        **{
            "hooks.first": first.settings(events='["removed"]'),
            "hooks.second": second.settings(users='["bob"]'),
        }
    )
    daemon.add_user("bob")
    for user in ("alice", "bob"):
        peer = daemon.log_in(user)
        peer.put("f", b"1")
        peer.ask({"op": "remove", "path": "f"})
    assert [e["event"] for e in first.wait(2)] == ["removed", "removed"]
    assert [(e["user"], e["event"]) for e in second.wait(2)] == [
        ("bob", "published"),
        ("bob", "removed"),
    ]


def test_without_hooks_nothing_is_journaled(daemon: Daemon) -> None:
    daemon.log_in().put("a", b"x")
    assert os.listdir(daemon.state / "events") == []
    assert dispatcher(daemon) == 0
    assert daemon.metrics()["forkd_events_total"] == 0


def test_a_crowd_of_small_files_shares_the_flushes(
    daemon_with: Start, recorder: Recorder, folder: Path
) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace counts the flushes and is not here")
    daemon = daemon_with(**{"server": {"workers": "1"}, "hooks.record": recorder.settings()})
    alice = daemon.log_in()
    alice.put("warm", b"")
    trace = folder / "trace"
    pid = daemon.workers()[0]["pid"]
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync", "-o", trace, "-p", str(pid)],
        stderr=subprocess.PIPE,
    )
    try:
        assert tracer.stderr is not None
        if b"attached" not in tracer.stderr.readline():
            pytest.skip("strace may not attach here")
        idents = [
            alice.request({"op": "put", "path": f"f{i}", "size": 3}, b"abc") for i in range(300)
        ]
        for ident in idents:
            alice.answer(ident)
        told = recorder.wait(301, 60)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)
    calls = trace.read_text()
    rounds = len(re.findall(r"fsync\(\d+<[^>]*/data/alice>", calls))
    journal = len(re.findall(r"fdatasync\(\d+<[^>]*\.live>", calls))
    assert len(re.findall(r"fdatasync\(\d+<[^>]*/\.forkd/", calls)) == 300
    assert 0 < journal == rounds < 150
    assert Counter(event["path"] for event in told)["/f7"] == 1
    assert of_paths(told).keys() == {"/warm", *(f"/f{i}" for i in range(300))}


# hooks that fail


def test_a_program_that_fails_is_told_again(daemon_with: Start, recorder: Recorder) -> None:
    daemon = daemon_with(**{"hooks.record": recorder.settings()})
    alice = daemon.log_in()
    with recorder.state("broken"):
        for name in "abc":
            alice.put(name, b"x")
        failed = 'forkd_hook_deliveries_total{outcome="retried"}'
        wait_for(lambda: daemon.metrics()[failed] >= 3)
        assert daemon.metrics()["forkd_hook_backlog_bytes"] > 0
        assert daemon.metrics()["forkd_hook_oldest_event_age_seconds"] > 0
        assert re.search(r"hooks +record +told 0 +waiting .+oldest", daemon.ctl("status").stdout)
    alice.put("d", b"x")
    assert [event["path"] for event in recorder.wait(4)] == ["/a", "/b", "/c", "/d"]
    nothing_left(daemon)
    lines = [line for line in daemon.events() if line["event"] == "hook-failed"]
    assert {line["reason"] for line in lines} == {"exit status 3"}


def test_one_users_failures_do_not_hold_up_the_others(daemon_with: Start, folder: Path) -> None:
    recorder = Recorder(folder / "hook")
    recorder.program.write_text(
        f'#!/bin/sh\ntest "$FORKD_USER" = bob && exit 1\ncat >> {folder}/hook/told\n'
    )
    daemon = daemon_with(**{"hooks.record": recorder.settings(concurrency="1")})
    daemon.add_user("bob")
    daemon.log_in("bob").put("bad", b"x")
    alice = daemon.log_in()
    for number in range(5):
        alice.put(f"f{number}", b"x")
    wait_for(lambda: (folder / "hook" / "told").exists())
    wait_for(lambda: (folder / "hook" / "told").read_text().count('"published"') == 5)


def test_what_fails_for_too_long_is_a_dead_letter(daemon_with: Start, recorder: Recorder) -> None:
    daemon = daemon_with(**{"hooks.record": recorder.settings(give_up='"1s"')})
    alice = daemon.log_in()
    with recorder.state("broken"):
        alice.put("a", b"x")
        alice.put("b", b"x")
        wait_for(lambda: daemon.metrics()['forkd_hook_deliveries_total{outcome="given-up"}'] == 2)
    alice.put("c", b"x")
    assert [event["path"] for event in recorder.wait(1)] == ["/c"]
    letters = (daemon.state / "events/hooks/record/dead-letters").read_text().splitlines()
    assert [json.loads(letter)["event"]["path"] for letter in letters] == ["/a", "/b"]
    assert sum(line["event"] == "hook-given-up" for line in daemon.events()) == 2
    nothing_left(daemon)


def test_a_hook_that_hangs_stops_only_itself(daemon_with: Start, folder: Path) -> None:
    hanging, other = Recorder(folder / "one"), Recorder(folder / "two")
    daemon = daemon_with(
        **{
            "hooks.hanging": hanging.settings(timeout='"1s"'),
            "hooks.other": other.settings(),
        }
    )
    alice = daemon.log_in()
    with hanging.state("hanging"):
        for number in range(20):
            alice.put(f"f{number}", b"x")
        assert len(other.wait(20)) == 20
        assert hanging.told() == []
        wait_for(lambda: any(line.get("reason") == "timeout" for line in daemon.events()))
    assert [e["path"] for e in hanging.wait(20, 60)] == [f"/f{number}" for number in range(20)]


# targets on the network


class Target:
    """A small web server that takes events, or refuses them while `status` says so."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.status = 200
        self.posts: list[tuple[dict[str, str], bytes]] = []
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if target.status == 200:
                    target.posts.append((dict(self.headers), body))
                self.send_response(target.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bodies(self) -> list[Event]:
        return [json.loads(body) for _, body in self.posts]


def test_a_url_that_is_down_for_a_while(daemon_with: Start) -> None:
    port = free_port()
    settings = {"url": f'"http://127.0.0.1:{port}/hook?x=1"', "secret": '"s3"'}
    daemon = daemon_with(**{"hooks.web": settings})
    alice = daemon.log_in()
    alice.put("a", b"abc", check=True)
    wait_for(lambda: daemon.metrics()['forkd_hook_deliveries_total{outcome="retried"}'] >= 2)
    target = Target(port)
    try:
        wait_for(lambda: target.posts)
        target.status = 302
        alice.put("b", b"abc")
        wait_for(lambda: "HTTP 302" in daemon.log.read_text())
        target.status = 200
        wait_for(lambda: len(target.posts) == 2)
        assert [body["path"] for body in target.bodies()] == ["/a", "/b"]
        fields, body = target.posts[0]
        event = json.loads(body)
        assert event["digest"] == digest_of(b"abc")
        assert fields["Idempotency-Key"] == f'"{event["id"]}"'
        signature = hmac.new(b"s3", body, hashlib.sha256).hexdigest()
        assert fields["X-Forkd-Signature"] == f"sha256={signature}"
    finally:
        target.close()
    assert "s3" not in re.sub(r"\d-[\w-]+", "", daemon.log.read_text())


# what is killed


def test_a_dispatcher_that_is_killed_is_replaced(daemon_with: Start, recorder: Recorder) -> None:
    daemon = daemon_with(**{"hooks.record": recorder.settings()})
    alice = daemon.log_in()
    with recorder.state("broken"):
        alice.put("a", b"x")
        alice.put("b", b"x")
        wait_for(lambda: "hook-failed" in daemon.log.read_text())
        os.kill(wait_for(lambda: dispatcher(daemon)), signal.SIGKILL)
        alice.put("c", b"x")
    assert list(of_paths(recorder.wait(3))) == ["/a", "/b", "/c"]
    nothing_left(daemon)


def test_a_reload_hands_over_and_takes_hooks_away(daemon_with: Start, recorder: Recorder) -> None:
    daemon = daemon_with(**{"hooks.record": recorder.settings()})
    alice = daemon.log_in()
    alice.put("a", b"x")
    before = dispatcher(daemon)
    assert daemon.ctl("reload").returncode == 0
    daemon.log_in().put("b", b"x")
    assert dispatcher(daemon) != before
    recorder.wait(2)
    daemon.unset("hooks.record")
    assert "hooks.record removed" in daemon.ctl("reload").stdout
    assert dispatcher(daemon) == 0
    daemon.log_in().put("c", b"x")
    assert len(recorder.told()) == 2


def test_all_are_killed_and_the_rest_is_told(daemon_with: Start, recorder: Recorder) -> None:
    daemon = daemon_with(**{"hooks.record": recorder.settings()})
    alice = daemon.log_in()
    with recorder.state("broken"):
        for number in range(10):
            alice.put(f"f{number}", b"x")
        wait_for(lambda: "hook-failed" in daemon.log.read_text())
        for pid in daemon.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert daemon.process is not None
        daemon.process.wait(10)
    daemon.start()
    told = recorder.wait(10)
    assert list(of_paths(told)) == [f"/f{number}" for number in range(10)]
    assert all(len(ids) == 1 for ids in of_paths(told).values())
