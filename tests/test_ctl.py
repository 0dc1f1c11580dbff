"""forkctl: real accounts, a real ledger and control socket; the daemon's answers are scripted."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forkd import config as configuration
from forkd import controlmessages, ctl
from forkd.accounts import open_accounts
from forkd.admin import ask
from forkd.admin.exits import CtlError, Exit
from forkd.admin.render import age, flow, printable, table, table_within
from forkd.admin.site import become_owner
from forkd.admin.statusview import status_screen
from forkd.errors import Refusal
from forkd.limits import file as limitsfile
from forkd.limits.table import ADDRESS, open_table
from forkd.quota import open_ledger
from forkd.reports import Status
from forkd.supervisor.control import Asker, ControlServer

CONFIG = """
[server]
state_dir = "{0}/state"
runtime_dir = "{0}"
[storage]
path = "{0}/files"
[quota]
default = "1 MiB"
[accounts]
max = 4
min_password = 6
"""

BODY: dict[str, Any] = {
    "version": "9.8.7",
    "pid": 4711,
    "state": "serving",
    "config": "/etc/forkd/forkd.toml",
    "generation": 3,
    "loaded_at": 1.0,
    "changed_on_disk": True,
    "uptime": 90061.0,
    "listeners": ["0.0.0.0:3675", "unix:/run/forkd/forkd.sock"],
    "tls": "auto",
    "workers": [
        {
            "role": "worker",
            "slot": 1,
            "number": 1,
            "pid": 820,
            "generation": 3,
            "state": "serving",
            "sessions": 12,
            "transfers": 2,
            "started_ms": 1000,
            "beat_age": 0.2,
            "restarts": 1,
            "cpu_seconds": 3.5,
            "rss_bytes": 43_000_000,
        }
    ],
    "helpers": [{"role": "exporter", "pid": 815, "state": "serving"}],
    "backing_off": [],
    "totals": {"sessions": 18204, "bytes_up": 2048, "restarts": 1},
    "last_reload": {"at": 2.0, "outcome": "ok", "message": "", "took": 0.31},
    "metrics": "127.0.0.1:9367",
}


@dataclass
class Daemon:
    """Serves the control socket on a thread, with `answer` for what a request means."""

    path: str
    answer: Callable[[controlmessages.ControlRequest, Asker], None]
    asked: list[controlmessages.ControlRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._server = ControlServer(self.path, self._selector, self._handle)
        self._wake, asleep = socket.socketpair()
        self._asleep = asleep
        self._running = True
        self._selector.register(asleep, selectors.EVENT_READ, self._end)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _handle(self, request: controlmessages.ControlRequest, asker: Asker) -> None:
        self.asked.append(request)
        self.answer(request, asker)

    def _end(self, _: int) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            for key, mask in self._selector.select():
                key.data(mask)
        self._server.close()
        self._selector.close()

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self._wake.close()
        self._asleep.close()


@dataclass
class Ctl:
    """Runs forkctl in this process and tells (exit code, stdout, stderr)."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    daemons: list[Daemon] = field(default_factory=list)

    @property
    def config_path(self) -> str:
        return str(self.folder / "forkd.toml")

    def __call__(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        self.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = ctl.main(["-c", self.config_path, *words])
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = self.capture.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def add(self, name: str, *more: str) -> tuple[int, str, str]:
        return self("user", "add", name, "--password-stdin", *more, stdin=b"secret\n")

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    def serve(self, answer: Callable[[controlmessages.ControlRequest, Asker], None]) -> Daemon:
        daemon = Daemon(str(self.folder / "control.sock"), answer)
        self.daemons.append(daemon)
        return daemon


@pytest.fixture
def forkctl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ctl]:
    (tmp_path / "forkd.toml").write_text(CONFIG.format(tmp_path))
    monkeypatch.delenv("FORKD_CONFIG", raising=False)
    ready = Ctl(tmp_path, capsys, monkeypatch)
    yield ready
    for daemon in ready.daemons:
        daemon.close()


def done(body: dict[str, Any]) -> Callable[[controlmessages.ControlRequest, Asker], None]:
    return lambda _, asker: asker.done(body)


# -- accounts, with the daemon down


def test_an_account_can_log_in_and_is_shown(forkctl: Ctl) -> None:
    code, out, err = forkctl.add("alice", "--quota", "10 KiB", "--perms", "read,list")
    assert (code, err) == (0, "")
    assert "alice" in out
    assert "secret" not in out
    config = configuration.load(forkctl.config_path)
    accounts = open_accounts(config)
    assert accounts.authenticate("alice", "secret").account.permissions == {"read", "list"}
    accounts.close()
    shown = forkctl.json("user", "show", "alice")
    assert (shown["quota"], shown["limit"], shown["used"]) == (10240, 10240, 0)
    assert shown["permissions"] == ["list", "read"]
    code, out, _ = forkctl("user", "list")
    assert code == 0
    assert "10.0 KiB" in out
    ledger = open_ledger(config)
    assert ledger.usage(shown["id"]).limit == 10240
    ledger.file.close()


def test_an_account_without_settings_has_the_defaults(forkctl: Ctl) -> None:
    forkctl.add("bob", "--home", "teams/bob", "--disabled")
    shown = forkctl.json("user", "show", "bob")
    assert (shown["quota"], shown["limit"], shown["enabled"]) == ("default", 1024**2, False)
    assert shown["home"] == "teams/bob"
    assert len(shown["permissions"]) == len(configuration.PERMISSIONS)
    code, out, _ = forkctl("user", "show", "bob")
    assert (code, "(the default)" in out) == (0, True)


def test_a_generated_password_is_shown_and_works(forkctl: Ctl) -> None:
    password = forkctl.json("user", "add", "alice", "--generate")["password"]
    again = forkctl.json("user", "passwd", "alice", "--generate")["password"]
    assert password != again
    accounts = open_accounts(configuration.load(forkctl.config_path))
    assert accounts.authenticate("alice", again)
    accounts.close()


@pytest.mark.parametrize("least", [1, 8, 23, 24, 40, 1000])
def test_a_generated_password_is_long_enough(least: int) -> None:
    assert least <= len(ask.generated(least)) <= max(23, least + 6)


def test_what_a_folder_holds_already_is_charged(forkctl: Ctl) -> None:
    home = forkctl.folder / "files/alice"
    home.mkdir(parents=True)
    (home / "old").write_bytes(b"x" * 3000)
    _, out, _ = forkctl.add("alice")
    assert "2.9 KiB" in out
    assert forkctl.json("quota", "alice")[0]["used"] == 3000


def test_set_changes_what_is_named_and_nothing_else(forkctl: Ctl) -> None:
    forkctl.add("alice", "--perms", "read")
    before = forkctl.json("user", "show", "alice")
    assert forkctl("user", "set", "alice", "--quota", "unlimited", "--disable")[0] == 0
    after = forkctl.json("user", "show", "alice")
    assert after == before | {"quota": "unlimited", "limit": None, "enabled": False}
    assert (
        forkctl("user", "set", "alice", "--quota", "default", "--enable", "--perms", "none")[0] == 0
    )
    assert forkctl.json("user", "show", "alice") == before | {"permissions": []}


def test_a_changed_password_replaces_the_old(forkctl: Ctl) -> None:
    forkctl.add("alice")
    code, _, _ = forkctl(
        "user", "passwd", "alice", "--password-stdin", stdin="nöw ☃ ".encode() + b"\r\n"
    )
    assert code == 0
    accounts = open_accounts(configuration.load(forkctl.config_path))
    assert accounts.authenticate("alice", "nöw ☃ ")
    with pytest.raises(Refusal):
        accounts.authenticate("alice", "secret")
    accounts.close()


def test_remove_leaves_the_files_unless_told(forkctl: Ctl) -> None:
    forkctl.add("alice")
    file = forkctl.folder / "files/alice/kept"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 10)
    code, out, _ = forkctl("user", "remove", "alice")
    assert (code, "stay in" in out, file.exists()) == (0, True, True)
    assert forkctl.json("user", "list") == []
    forkctl.add("alice")
    partial = forkctl.folder / "files/.forkd/1/pabc-0"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"partial")
    code, out, _ = forkctl("user", "remove", "alice", "--delete-files")
    assert (code, file.parent.exists(), partial.exists()) == (0, False, False)
    ledger = open_ledger(configuration.load(forkctl.config_path))
    assert list(ledger.file.accounts()) == []
    ledger.file.close()


def test_quota_tells_how_full_each_account_is(forkctl: Ctl) -> None:
    for name in ("alice", "bob"):
        forkctl.add(name)
    ledger = open_ledger(configuration.load(forkctl.config_path))
    ledger.adopt(2, 512 * 1024)
    ledger.file.close()
    assert [account["used"] for account in forkctl.json("quota")] == [0, 512 * 1024]
    code, out, _ = forkctl("quota", "bob")
    assert (code, "50%" in out, "alice" in out) == (0, True, False)
    assert out.endswith("USED includes RESERVED, the whole sizes of the uploads under way\n")


def test_bans_are_shown_and_lifted_with_the_daemon_down(forkctl: Ctl) -> None:
    config = configuration.load(forkctl.config_path)
    limitsfile.allocate(config, in_use=False)
    assert forkctl("bans")[1] == "no address is banned, and no log-in failed lately\n"
    limits = open_table(config, 0)
    for origin, failures in (("192.0.2.9", 2), ("2001:db8:7:1::/64", 20), ("unix:uid=7", 3)):
        for _ in range(failures):
            limits.failed(ADDRESS + origin)
    limits.ban("2001:db8:7:1::/64", 600)
    limits.file.close()
    found = forkctl.json("bans")
    assert [(one["address"], one["failures"]) for one in found] == [
        ("2001:db8:7:1::/64", 20),
        ("unix:uid=7", 3),
        ("192.0.2.9", 2),
    ]
    assert 0 < found[0]["until"] - time.time() <= 600
    assert found[1]["until"] is None
    assert "2001:db8:7:1::/64        20  10m 00s" in forkctl("bans")[1]
    assert forkctl.json("bans", "lift", "2001:db8:7:1::5") == {"lifted": "2001:db8:7:1::/64"}
    code, _, err = forkctl("bans", "lift", "2001:db8:7:1::/64")
    assert (code, err) == (
        1,
        "forkctl: 2001:db8:7:1::/64 is not banned, and no log-in of it failed\n",
    )
    assert len(forkctl.json("bans")) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("user", "show", "nobody"), 1, "no account named 'nobody'"),
        (("user", "set", "nobody", "--disable"), 1, "no account named 'nobody'"),
        (("user", "remove", "nobody"), 1, "no account named 'nobody'"),
        (("user", "add", "No"), 1, "cannot be an account's name"),
        (("user", "add", "new", "--password-stdin", "--home", "../x"), 1, "below storage.path"),
        (("user", "add", "new", "--password-stdin"), 1, "too short"),
        (("user", "passwd", "nobody", "--password-stdin"), 1, "no account named 'nobody'"),
        (("user", "add", "new", "--quota", "much"), 2, "is not a size"),
        (("user", "add", "new", "--perms", "fly"), 2, "is not all, none or some of"),
        (("user", "add", "new", "--password-stdin", "--generate"), 2, "not allowed with"),
        (("user", "set", "alice"), 2, "name a change"),
        (("user",), 2, "usage:"),
        ((), 2, "usage:"),
        (("quota", "a", "b"), 2, "usage:"),
        (("quota", "--fix"), 2, "usage:"),
        (("bans", "all"), 2, "usage:"),
        (("bans", "lift"), 2, "usage:"),
        (("bans", "lift", "here"), 2, "is no address"),
        (("bans",), 3, "forkd has not run yet"),
        (("workers", "many"), 2, "is not a number"),
        (("status",), 3, "forkd is not running"),
        (("quota", "verify"), 3, "forkd is not running"),
        (("stop",), 3, "forkd is not running"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told(
    forkctl: Ctl, words: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = forkctl(*words)
    assert (found, out) == (code, "")
    assert said in err


def test_no_more_accounts_than_allowed(forkctl: Ctl) -> None:
    for name in "abcd":
        assert forkctl.add(name)[0] == 0
    code, _, err = forkctl.add("e")
    assert (code, "accounts.max" in err) == (1, True)


def test_a_configuration_that_is_refused_is_told_whole(forkctl: Ctl) -> None:
    Path(forkctl.config_path).write_text("[server]\nworkers = -1\n[limits]\nwhat = 1\n")
    code, _, err = forkctl("user", "list")
    assert code == 4
    assert "server.workers" in err
    assert "limits.what" in err
    assert all(line.startswith("forkctl: ") for line in err.splitlines())


def test_the_configuration_may_come_from_the_environment(
    forkctl: Ctl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forkctl.add("alice")
    monkeypatch.setenv("FORKD_CONFIG", forkctl.config_path)
    assert ctl.main(["user", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "alice"


# -- the daemon


def test_status_serving(forkctl: Ctl) -> None:
    forkctl.serve(done(BODY))
    code, out, err = forkctl("status")
    assert (code, err) == (0, "")
    for said in ("9.8.7", "serving", "1d 01:01:01", "generation 3", "changed on disk", "18,204"):
        assert said in out
    shown = forkctl.json("status")
    assert shown == msgspec.to_builtins(msgspec.convert(BODY, Status))
    assert shown["totals"].items() >= BODY["totals"].items()
    assert shown["workers"][0].items() >= BODY["workers"][0].items()


def test_status_degraded(forkctl: Ctl) -> None:
    down = {"what": "worker 2", "failures": 4, "retry_in": 2.0, "reason": "signal 9"}
    forkctl.serve(done(BODY | {"backing_off": [down]}))
    code, out, _ = forkctl("status")
    assert (code, "degraded" in out, "worker 2: signal 9" in out) == (1, True, True)


def test_status_understands_what_an_other_version_leaves_out() -> None:
    nothing = msgspec.convert({}, Status)
    assert nothing.degraded
    assert "?" in status_screen(nothing, 0.0, 80)
    little = msgspec.convert({"workers": [{"state": "serving"}], "new": 1}, Status)
    assert not little.degraded
    assert "serving" in status_screen(little, 0.0, 80)


def test_reload_shows_its_progress(forkctl: Ctl) -> None:
    def answer(request: controlmessages.ControlRequest, asker: Asker) -> None:
        assert isinstance(request, controlmessages.Reload)
        asker.progress("checking ... ok")
        asker.progress("changed: nothing")
        asker.done({"generation": 4})

    forkctl.serve(answer)
    assert forkctl("reload") == (0, "checking ... ok\nchanged: nothing\n", "")
    told = forkctl.json("reload")
    assert told == {
        "generation": 4,
        "took": 0.0,
        "notes": [],
        "progress": ["checking ... ok", "changed: nothing"],
    }


def test_a_refused_reload_tells_every_problem(forkctl: Ctl) -> None:
    problems = "forkd.toml:3: a.b: unknown key\nforkd.toml:4: c.d: bad\nstill serving"
    forkctl.serve(lambda _, asker: asker.failed("bad-config", problems))
    code, out, err = forkctl("reload")
    assert (code, out) == (1, "")
    assert err.splitlines() == [f"forkctl: {line}" for line in problems.splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        "[server]\nruntime_dir = '{}'\nworkers = -1\n",
        '[server]\n  runtime_dir = "{}"\nthis is no TOML\n',
    ],
)
def test_a_broken_configuration_does_not_hide_the_daemon(forkctl: Ctl, text: str) -> None:
    forkctl.serve(done(BODY))
    Path(forkctl.config_path).write_text(text.format(forkctl.folder))
    assert forkctl("status")[0] == 0


BROKEN = "[server]\nthis is no TOML\n[listen]\nnative = ['unix:{0}/forkd.sock']\n"
MOVED = "[server]\npidfile = '{0}/forkd.pid'\nruntime_dir = '{0}/elsewhere'\n"


@pytest.mark.parametrize("text", [BROKEN, MOVED])
def test_a_daemon_is_found_that_serves_this_very_file(forkctl: Ctl, text: str) -> None:
    daemon = forkctl.serve(done(BODY | {"config": forkctl.config_path}))
    Path(forkctl.config_path).write_text(text.format(forkctl.folder))
    assert forkctl("status")[0] == 0
    assert forkctl("reload")[0] == 0
    assert daemon.asked[-1] == controlmessages.Reload()


@pytest.mark.parametrize(("text", "code"), [(BROKEN, 4), (MOVED, 3)])
def test_a_daemon_of_another_file_is_not_taken_for_it(forkctl: Ctl, text: str, code: int) -> None:
    daemon = forkctl.serve(done(BODY))
    Path(forkctl.config_path).write_text(text.format(forkctl.folder))
    assert forkctl("reload")[0] == code
    assert controlmessages.Reload() not in daemon.asked


def test_where_nothing_is_certain_all_that_is_known_is_told(forkctl: Ctl) -> None:
    path = Path(forkctl.config_path)
    path.write_text(f"[server]\nruntime_dir = '{forkctl.folder}/no'\nworkers = 99\n")
    code, out, err = forkctl("status")
    assert (code, out) == (4, "")
    problem, hint = err.splitlines()
    assert problem.startswith(f"forkctl: {path}:3: server.workers: ")
    assert f"no answer on {forkctl.folder}/no/control.sock" in hint
    assert "--socket" in hint
    path.write_text("[server\n")
    code, _, err = forkctl("reload")
    assert (code, "is not TOML" in err, "--socket" in err) == (4, True, True)
    assert f"no answer on {configuration.Server().runtime_dir}/control.sock" in err


def test_a_socket_can_be_named(forkctl: Ctl) -> None:
    daemon = forkctl.serve(done(BODY))
    os.rename(forkctl.config_path, forkctl.folder / "elsewhere")
    assert forkctl("status")[0] == 4
    assert forkctl("--socket", daemon.path, "status")[0] == 0
    assert forkctl("status", "--socket", daemon.path)[0] == 0
    assert forkctl("status", "--socket", str(forkctl.folder))[0] == 0


def test_sessions_are_listed_and_cannot_steer_the_terminal(forkctl: Ctl) -> None:
    session = {
        "id": "a1f3-0c2",
        "slot": 1,
        "user": "alice",
        "peer": "192.0.2.10:51422",
        "tls": "TLSv1.3",
        "door": "native",
        "state": "upload",
        "since": time.time(),
        "path": "/a\x1b[2Jb\nc",
        "moved": 50,
        "size": 200,
    }
    forkctl.serve(done({"sessions": [session], "silent_workers": 0}))
    code, out, _ = forkctl("sessions", "--interval", "0")
    assert code == 0
    assert "25%" in out
    assert r"/a\x1b[2Jb\nc" in out
    assert out.endswith("1 session, 1 transfer\n")
    unknown = dict.fromkeys(("rate_up", "rate_down", "eta")) | {"bytes_up": 0, "bytes_down": 0}
    assert forkctl.json("sessions", "--interval", "0") == [session | unknown]


def test_sessions_that_are_missing_are_told(forkctl: Ctl) -> None:
    forkctl.serve(done({"sessions": [], "silent_workers": 1}))
    code, out, err = forkctl("sessions")
    assert (code, out) == (4, "0 sessions, 0 transfers\n")
    assert "1 worker did not answer" in err


def test_kick_and_workers(forkctl: Ctl) -> None:
    def answer(request: controlmessages.ControlRequest, asker: Asker) -> None:
        match request:
            case controlmessages.KickSession(session="a1"):
                asker.done({"kicked": 1})
            case controlmessages.KickSessions(user="alice"):
                asker.done({"kicked": 3})
            case controlmessages.KickSessions():
                asker.done({"kicked": 0})
            case controlmessages.Workers(count=3):
                asker.done({"workers": 3})
            case _:
                asker.failed("not-found", "there is no such session (any more)")

    forkctl.serve(answer)
    assert forkctl("kick", "a1")[0] == 0
    assert forkctl("kick", "a2") == (1, "", "forkctl: there is no such session (any more)\n")
    assert forkctl("kick", "--user", "alice") == (0, "3 sessions of alice ended\n", "")
    assert forkctl("kick", "--user", "bob") == (1, "0 sessions of bob ended\n", "")
    assert forkctl("workers", "3") == (0, "3 workers until the next reload\n", "")


def test_quota_verify(forkctl: Ctl) -> None:
    right = {"user": "a", "charged": 5, "actual": 5, "drift": 0, "fixed": False, "exact": True}
    wrong = right | {"user": "b", "charged": 9, "drift": 4}

    def answer(request: controlmessages.ControlRequest, asker: Asker) -> None:
        assert isinstance(request, controlmessages.VerifyQuota)
        known = [right, wrong | {"fixed": request.fix}]
        asker.done({"accounts": [a for a in known if request.user in (None, a["user"])]})

    daemon = forkctl.serve(answer)
    code, out, _ = forkctl("quota", "verify")
    assert (code, "wrong" in out, "--fix" in out) == (1, True, True)
    code, out, _ = forkctl("quota", "verify", "--fix", "b")
    assert (code, "mended" in out, "+4" in out) == (0, True, True)
    assert daemon.asked == [
        controlmessages.VerifyQuota(None, False),
        controlmessages.VerifyQuota("b", True),
    ]
    code, _, err = forkctl("quota", "verify", "c")
    assert (code, err) == (1, "forkctl: there is no account named 'c'\n")


def test_a_running_daemon_hears_of_every_change(forkctl: Ctl) -> None:
    daemon = forkctl.serve(done({"told": 2}))
    forkctl.add("alice")
    forkctl("user", "passwd", "alice", "--generate")
    forkctl("user", "set", "alice", "--disable")
    forkctl("user", "remove", "alice")
    assert daemon.asked == [controlmessages.TellAccountChanged("alice")] * 4


def test_a_daemon_that_cannot_be_told_is_no_secret(forkctl: Ctl) -> None:
    forkctl.serve(lambda _, asker: asker.failed("denied", "only root"))
    code, _, err = forkctl.add("alice")
    assert (code, "could not be told" in err) == (4, True)
    assert forkctl.json("user", "list")[0]["name"] == "alice"


def test_a_daemon_that_goes_away_is_told(forkctl: Ctl) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(forkctl.folder / "control.sock"))
        listener.listen()

        def hang_up() -> None:
            for answer in (b"", b"this is no answer\n"):
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        first, second = forkctl("status"), forkctl("status")
        thread.join()
    assert (first[0], "went away" in first[2]) == (4, True)
    assert (second[0], "not understood" in second[2]) == (4, True)


def test_stop_returns_when_the_process_is_gone(forkctl: Ctl) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None

    def answer(request: controlmessages.ControlRequest, asker: Asker) -> None:
        if isinstance(request, controlmessages.Status):
            asker.done({"pid": process.pid})
        else:
            asker.progress("2 transfers are under way")
            asker.done({})
            assert process.stdin is not None
            process.stdin.close()

    daemon = forkctl.serve(answer)
    try:
        code, out, _ = forkctl("stop", "--now")
        info = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert info is not None  # it is gone, not about to go
        assert code == 0
        assert out == "2 transfers are under way\nforkd has stopped\n"
        assert daemon.asked[-1] == controlmessages.Stop(now=True)
    finally:
        process.kill()
        process.wait()


# -- the program


def test_the_password_is_asked_for_on_the_terminal(forkctl: Ctl) -> None:
    command = [sys.executable, "-m", "forkd.ctl", "-c", forkctl.config_path, "user", "add", "alice"]
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, command)
    shown = b""
    try:
        for question in (b"Password for alice: ", b"Once more: "):
            while question not in shown:
                assert select.select([terminal], [], [], 60)[0]
                shown += os.read(terminal, 1000)
            os.write(terminal, "geheim ☃\n".encode())
        with suppress(OSError):  # EIO: the other side is closed
            while data := os.read(terminal, 1000):
                shown += data
    finally:
        with suppress(ProcessLookupError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(pid, signal.SIGTERM)
        os.close(terminal)
        status = os.waitpid(pid, 0)[1]
    assert (status, b"geheim" in shown) == (0, False)
    accounts = open_accounts(configuration.load(forkctl.config_path))
    assert accounts.authenticate("alice", "geheim ☃")
    accounts.close()


def test_without_a_terminal_there_is_no_prompt(forkctl: Ctl) -> None:
    command = [sys.executable, "-m", "forkd.ctl", "-c", forkctl.config_path, "user", "add", "alice"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True
    )
    assert (done.returncode, "--password-stdin" in done.stderr) == (2, True)


def test_a_reader_that_has_seen_enough_is_no_error(forkctl: Ctl) -> None:
    forkctl.add("alice")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "forkd.ctl", "-c", forkctl.config_path, "user", "list"],
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_leaves_the_files_to_the_owner_of_the_state_folder() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "forkd.toml").write_text(CONFIG.format(folder))
        for name in ("state", "files"):
            (folder / name).mkdir()
            os.chown(folder / name, 65534, 65534)
        command = [sys.executable, "-m", "forkd.ctl", "-c", str(folder / "forkd.toml")]
        subprocess.run([*command, "user", "add", "alice", "--generate"], check=True)
        owners = {path.name: path.stat().st_uid for path in (folder / "state").iterdir()}
        assert owners == {"accounts.db": 65534, "ledger": 65534}
        pid = os.fork()
        if not pid:  # a user who is neither root nor the owner
            code = 70
            try:
                os.setuid(1)
                become_owner(configuration.load(str(folder / "forkd.toml")))
            except CtlError as error:
                code = error.code
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Exit.CANNOT_TELL
    finally:
        shutil.rmtree(folder)


# -- text


def test_status_fits_in_eighty_columns(forkctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "/etc/forkd/forkd.toml:31: limits.max_sesions: unknown key (max_sessions?)"
    worker = BODY["workers"][0] | {"pid": 4194303, "cpu_seconds": 812345.6, "sessions": 10_000}
    body = BODY | {
        "workers": [worker],
        "listeners": ["0.0.0.0:3675", "[::]:3675", "unix:/run/forkd/forkd.sock"] * 2,
        "totals": dict.fromkeys(("sessions", "transfers", "logins_failed", "bytes_up"), 10**9),
        "last_reload": {"at": 2.0, "outcome": "failed", "message": f"{problem} (and 2 more)"},
    }
    forkctl.serve(done(body))
    monkeypatch.setenv("COLUMNS", "40")
    lines = forkctl("status")[1].splitlines()
    assert max(map(len, lines)) <= 80
    told = " ".join(" ".join(lines).split())
    for said in (problem, "(and 2 more)", "[::]:3675", "1,000,000,000", "4194303", "10000"):
        assert said in told
    monkeypatch.setenv("COLUMNS", "200")
    wide = forkctl("status")[1]
    assert {"WORKER", "RESTARTS", "BEAT", "CPU"} <= set(wide.split())


def test_lines_are_filled_and_words_stay_whole() -> None:
    assert flow(["aa", "bb", "cc"], 7) == ["aa   bb", "cc"]
    assert flow(["one two", "", "/a/long/path"], 5) == ["one", "two", "/a/long/path"]


def test_columns_are_left_out_least_needed_first() -> None:
    rows = [("1", "22", "333")]
    assert table_within(10, ("A", "B", "C"), rows, "", "B A").splitlines()[0] == "A  B   C"
    assert table_within(7, ("A", "B", "C"), rows, "", "B A").splitlines() == ["A  C", "1  333"]
    assert table_within(1, ("A", "B", "C"), rows, "", "B A").splitlines() == ["C", "333"]


def test_columns_are_aligned() -> None:
    text = table(("NAME", "N"), [("a", "1"), ("long name", "1000")], "N")
    assert text.splitlines() == ["NAME          N", "a             1", "long name  1000"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59, "59s"), (123, "2m 03s"), (3600, "1h 00m"), (90061, "1d 01h"), (-1, "0s")],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_nothing_unprintable_is_shown() -> None:
    assert printable("a\x1bb\n\u202e") == r"a\x1bb\n\u202e"
    assert printable("ä ☃") == "ä ☃"
