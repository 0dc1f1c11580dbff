"""`forkc` as people and programs meet it: real processes, a scripted peer."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from client_peer import Peer, Stored, make_certificate

import forkd.client
from forkd import verbs
from forkd.client import exits, library
from forkd.client.bars import Bars
from forkd.client.cli import build_parser
from forkd.client.errors import printable
from forkd.client.events import Finished, Moved, Planned, Started
from forkd.client.partfile import part_path
from forkd.client.show import Meter, Tally
from forkd.protocol import BLOCK, INLINE_MAX

FORKC = [sys.executable, "-m", "forkd.client.cli"]
BIG = random.Random(5).randbytes(2 * BLOCK + 77)
LARGE = random.Random(6).randbytes(32 << 20)  # more than the sockets' buffers take


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    config = str(tmp_path / "config")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FORKC_")}
    return {**clean, "XDG_CONFIG_HOME": config, "FORKC_PASSWORD": "wonderland", "TERM": "xterm"}


Forkc = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def forkc(env: dict[str, str], tmp_path: Path) -> Forkc:
    def run(*args: object, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FORKC, *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            env={**env, **variables},
            cwd=tmp_path,
            timeout=60,
            start_new_session=True,  # no terminal to ask
        )

    return run


def events(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


# files


def test_put_and_get_follow_cp(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"A")
    (tmp_path / "b").write_bytes(b"B")
    peer.folders.add("dir")
    for args in (["a", "/new"], ["a", ""], ["a", "/dir"], ["a", "b", "/dir/"]):
        assert forkc("put", *args[:-1], peer.base + args[-1]).returncode == 0
    assert {name: file.data for name, file in peer.files.items()} == {
        "new": b"A",
        "a": b"A",
        "dir/a": b"A",
        "dir/b": b"B",
    }
    (tmp_path / "here").mkdir()
    assert forkc("get", f"{peer.base}/dir/b", "other").returncode == 0
    assert forkc("get", f"{peer.base}/dir/b", f"{peer.base}/a", "here").returncode == 0
    assert (tmp_path / "other").read_bytes() == b"B"
    assert sorted(os.listdir(tmp_path / "here")) == ["a", "b"]
    printed = forkc("get", f"{peer.base}/new", "-")
    assert (printed.stdout, printed.stderr) == ("A", "")


def test_a_missing_folder_is_told_with_what_makes_it(
    peer: Peer, forkc: Forkc, tmp_path: Path
) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    small.write_bytes(b"A")
    big.write_bytes(BIG)
    hint = "forkc: -p (--parents) makes folders that are missing"
    for sources in ([small], [big], [small, big]):
        told = forkc("put", *sources, peer.base + "/no/such/")
        assert told.returncode == exits.REFUSED
        errors = told.stderr.splitlines()
        assert "(not-found" in errors[0]
        assert errors.count(hint) == 1
        assert errors.index(hint) > max(n for n, line in enumerate(errors) if "not-found" in line)
    assert peer.files == {}
    told = forkc("put", "-p", small, big, peer.base + "/no/such/")
    assert (told.returncode, hint in told.stderr) == (exits.OK, False)
    assert sorted(peer.files) == ["no/such/big", "no/such/small"]


def test_other_refusals_say_nothing_of_folders(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"A")
    assert forkc("put", "a", peer.base + "/a").returncode == exits.OK
    told = forkc("put", "--no-replace", "a", peer.base + "/a")
    assert told.returncode == exits.REFUSED
    assert "--parents" not in told.stderr


def test_folders(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "sub" / "f").write_bytes(b"F")
    refused = forkc("put", "t", peer.base)
    assert (refused.returncode, "-r sends folders" in refused.stderr) == (exits.REFUSED, True)
    assert forkc("put", "-r", "t/", peer.base).returncode == 0
    assert forkc("put", "-r", "t", f"{peer.base}/other").returncode == 0
    assert sorted(peer.files) == ["other/sub/f", "t/sub/f"]
    again = forkc("put", "-r", "t", peer.base)
    assert "1 was there already" in again.stderr
    assert "sent 1 file" in forkc("put", "-r", "--all", "t", peer.base).stderr
    assert forkc("get", "-r", f"{peer.base}/t", "back").returncode == 0
    assert (tmp_path / "back" / "sub" / "f").read_bytes() == b"F"
    again = forkc("get", "-r", f"{peer.base}/t", "back")
    assert "got 0 files" in again.stderr, "the same command means the same"
    again = forkc("put", "-r", "t", f"{peer.base}/other")
    assert "sent 0 files" in again.stderr
    assert sorted(peer.files) == ["other/sub/f", "t/sub/f"]
    (tmp_path / "in").mkdir()
    for target in (".", "in/", "in/.", "in/.."):
        assert forkc("get", "-r", f"{peer.base}/other", target).returncode == 0
    assert (tmp_path / "in" / "other" / "sub" / "f").exists()
    assert (tmp_path / "other" / "sub" / "f").exists()
    assert forkc("put", "-r", "t", f"{peer.base}/other/").returncode == 0
    assert forkc("put", "-r", "t", "in", f"{peer.base}/other").returncode == 0
    assert "other/t/sub/f" in peer.files
    assert "other/in/other/sub/f" in peer.files


def test_options_stand_anywhere(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "-f").write_bytes(b"F")
    put = forkc("put", "-r", "e", "--json", peer.base, "-q")
    assert (put.returncode, events(put.stdout)[-1]["files"]) == (0, 1)
    (tmp_path / "-f").write_bytes(b"F")
    assert forkc("put", "-q", "--", "-f", peer.base).returncode == 0
    assert peer.files.keys() == {"e/-f", "-f"}
    wrong = forkc("put", "e", "--bogus", peer.base)
    assert (wrong.returncode, "--bogus" in wrong.stderr) == (exits.USAGE, True)
    assert "usage: forkc put [OPTION...] FILE... URL\n" in forkc("put", "--help").stdout


def test_several_addresses_go_on_after_a_failure(peer: Peer, forkc: Forkc) -> None:
    peer.files |= {"a": Stored(b"1"), "b": Stored(b"2")}
    addresses = [f"{peer.base}/{name}" for name in ("a", "nope", "b")]
    told = forkc("stat", *addresses)
    assert told.returncode == exits.SOME_FAILED
    assert told.stdout.count("type   file") == 2
    assert "not-found" in told.stderr
    assert forkc("rm", *addresses).returncode == exits.SOME_FAILED
    assert not peer.files
    assert forkc("rm", *addresses).returncode == exits.REFUSED
    assert forkc("rm", peer.base, FORKC_PASSWORD="wrong").returncode == exits.NO_LOGIN


def test_what_one_may_run(peer: Peer, forkc: Forkc) -> None:
    silent = forkc("run", peer.base)
    assert (silent.returncode, "does not tell" in silent.stderr) == (exits.REFUSED, True)
    peer.commands = ["df", "hello"]
    assert forkc("run", peer.base).stdout == "df\nhello\n"
    assert events(forkc("run", "--json", peer.base).stdout)[0]["commands"] == ["df", "hello"]
    peer.commands = []
    assert "no command that you may run" in forkc("run", peer.base).stderr


def test_much_of_one_kind_is_folded(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for i in range(30):
        (tmp_path / "t" / f"link{i}").symlink_to("x")
        (tmp_path / "t" / f"file{i}").write_bytes(b"x")
    peer.refuse["put"] = ["denied"] * 25
    put = forkc("put", "-r", "t", peer.base)
    assert put.returncode == exits.SOME_FAILED
    assert put.stderr.count("a symbolic link; left out") == 10
    assert "… and 20 more symbolic links, left out" in put.stderr
    assert put.stderr.count("(denied") == 11
    assert "… and 15 more that failed (denied)" in put.stderr
    assert put.stderr.rstrip().endswith("25 failed")
    peer.files.clear()
    peer.refuse["put"] = ["denied"] * 25
    told = events(forkc("put", "-r", "--json", "t", peer.base).stdout)
    assert len([event for event in told if event["event"] == "note"]) == 30, "programs get all"


def test_failures_name_their_file_once(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"a")
    peer.files |= {"d/a": Stored(b"a"), "d/b": Stored(b"b")}
    peer.folders.add("d")
    (tmp_path / "d" / "b").mkdir()
    got = forkc("get", "-r", f"{peer.base}/d", "d")
    assert got.returncode == exits.SOME_FAILED
    assert "forkc: d/b: is a folder, not a file\n" in got.stderr


@pytest.mark.parametrize(
    ("used", "limit", "told"),
    [
        (int(39.2 * 2**20), 4 << 30, "39.2 MiB used of 4.0 GiB, 3.9 GiB free"),
        (3, 1 << 40, "3 B used of 1.0 TiB, 1023.9 GiB free"),
        (0, 1 << 30, "0 B used of 1.0 GiB, 1.0 GiB free"),
        (1, 1, "1 B used of 1 B, 0 B free"),
    ],
)
def test_what_is_free_is_rounded_down(
    forkc: Forkc, peer: Peer, used: int, limit: int, told: str
) -> None:
    peer.files["f"] = Stored(bytes(used))
    peer.limit = limit
    shown = forkc("quota", peer.base).stdout
    assert shown.startswith(told + "\n")
    assert "running and interrupted uploads" in shown


def test_looking_and_changing(peer: Peer, forkc: Forkc) -> None:
    peer.files["b c"] = Stored(b"123", 0.0)
    peer.files["a\n\x1b[31m"] = Stored(b"")
    assert forkc("mkdir", "-p", f"{peer.base}/d/e").returncode == 0
    assert forkc("ls", peer.base).stdout == "a\\x0a\\x1b[31m\nb c\nd/\n"
    long = forkc("ls", "-l", f"{peer.base}/b%20c", TZ="UTC").stdout
    assert long.split() == ["-", "3", "1970-01-01", "00:00:00", "b", "c"]
    assert "size   3 (3 B)" in forkc("stat", f"{peer.base}/b c").stdout
    assert forkc("mv", f"{peer.base}/b c", "d/").returncode == 0
    assert forkc("mv", f"{peer.base}/d/b c", f"{peer.base}/x").returncode == 0
    assert "x" in peer.files
    assert forkc("mv", f"{peer.base}/x", "forkd://other/x").returncode == exits.USAGE
    assert "3 B used, no limit" in forkc("quota", peer.base).stdout
    assert forkc("rm", "-r", f"{peer.base}/x", f"{peer.base}/d").returncode == 0
    assert "x" not in peer.files


def test_run_passes_output_and_status(peer: Peer, forkc: Forkc) -> None:
    ran = forkc("run", peer.base, "hello")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "out\n", "err\n")
    assert forkc("run", peer.base, "nope").returncode == exits.REFUSED


# exit statuses


def test_each_failure_has_its_status(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert forkc("get", f"{peer.base}/nope", "x").returncode == exits.REFUSED
    assert forkc("put", "nope", peer.base).returncode == exits.REFUSED
    assert forkc("quota", "http://x").returncode == exits.USAGE
    assert forkc("frobnicate").returncode == exits.USAGE
    assert forkc("put", peer.base).returncode == exits.USAGE
    assert forkc("quota", "forkd+plain://alice@127.0.0.1:1").returncode == exits.LOST
    assert forkc("quota", peer.base, FORKC_PASSWORD="wrong").returncode == exits.NO_LOGIN
    (tmp_path / "g").write_bytes(b"1")
    peer.limit = 3
    assert forkc("put", "f", peer.base).returncode == exits.QUOTA_FULL
    assert forkc("put", "g", "f", peer.base).returncode == exits.SOME_FAILED
    peer.limit = 0
    assert forkc("put", "--all", "g", "f", peer.base).returncode == exits.QUOTA_FULL
    peer.limit = None
    peer.refuse["put"] = ["denied"]
    assert forkc("put", "f", "g", peer.base).returncode == exits.SOME_FAILED
    peer.cut_after_requests = [0] * 10
    lost = forkc("put", "--attempts", "1", "f", peer.base)
    assert lost.returncode == exits.LOST
    assert "Traceback" not in lost.stderr


def test_a_changed_certificate_has_its_status(forkc: Forkc, tmp_path: Path) -> None:
    peer = Peer(cert=make_certificate(tmp_path))
    try:
        assert forkc("quota", peer.base).returncode == 0
        peer.cert = make_certificate(tmp_path, "other")
        refused = forkc("quota", peer.base)
        assert refused.returncode == exits.NOT_TRUSTED
        assert "has changed" in refused.stderr
        assert forkc("quota", "--ca", peer.cert[0], peer.base).returncode == 0
        wrong = forkc("quota", "--fingerprint", "0" * 64, peer.base)
        assert wrong.returncode == exits.NOT_TRUSTED
        assert forkc("quota", "--fingerprint", "xyz", peer.base).returncode == exits.USAGE
    finally:
        peer.close()


def test_every_status_is_told_in_help_and_manual() -> None:
    told = build_parser().format_help()
    manual = (Path(__file__).parent.parent / "docs" / "forkc.md").read_text()
    for name, value in vars(exits).items():
        if name.isupper() and isinstance(value, int):
            assert f"\n  {value:<4} " in told, name
            assert f"\n| {value} |" in manual, name


# passwords


def test_where_passwords_come_from(
    peer: Peer, forkc: Forkc, env: dict[str, str], tmp_path: Path
) -> None:
    del env["FORKC_PASSWORD"]
    nobody = forkc("quota", peer.base)
    assert nobody.returncode == exits.NO_LOGIN
    assert "FORKC_PASSWORD" in nobody.stderr
    assert forkc("quota", "--password-stdin", peer.base, stdin="wonderland\n").returncode == 0
    assert forkc("quota", "--password-stdin", peer.base).returncode == exits.NO_LOGIN
    changed = forkc("passwd", "--password-stdin", peer.base, stdin="wonderland\nchess-9\n")
    assert changed.returncode == 0
    assert peer.users["alice"] == "chess-9"
    registered = forkc(
        "register", "--password-stdin", peer.base.replace("alice", "bob"), stdin="builder-1\n"
    )
    assert registered.returncode == 0
    assert peer.users["bob"] == "builder-1"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"builder-1" not in path.read_bytes(), "a password was kept"


def test_the_user_when_the_address_names_none(peer: Peer, forkc: Forkc) -> None:
    url = peer.base.replace("alice@", "")
    assert forkc("quota", url, FORKC_USER="alice").returncode == 0
    assert forkc("quota", url, FORKC_USER="bob").returncode == exits.NO_LOGIN


# output


def test_json_is_one_object_a_line(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    (tmp_path / "small").write_bytes(b"s")
    put = forkc("put", "--json", "big", "small", "nope", peer.base)
    assert (put.returncode, put.stderr) == (exits.REFUSED, "")
    put = forkc("put", "--json", "big", "small", peer.base)
    told = events(put.stdout)
    assert [event["event"] for event in told][:1] == ["planned"]
    assert {event["path"] for event in told if event["event"] == "finished"} == {"big", "small"}
    result = told[-1]
    assert (result["event"], result["files"], result["size"]) == ("result", 2, len(BIG) + 1)
    assert events(forkc("ls", "--json", peer.base).stdout)[0]["name"] == "big"
    error = events(forkc("get", "--json", f"{peer.base}/nope", "x").stdout)[-1]
    assert (error["event"], error["code"]) == ("error", "not-found")
    ran = events(forkc("run", "--json", peer.base, "hello").stdout)
    assert ran[0] == {"event": "output", "stream": "stdout", "text": "out\n"}
    assert ran[-1]["status"] == 3


def test_quiet_says_nothing_but_errors(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    quiet = forkc("put", "-q", "f", peer.base)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    peer.refuse["put"] = ["denied"]
    assert "denied" in forkc("put", "-q", "f", peer.base).stderr


def test_what_a_server_says_controls_no_terminal(peer: Peer, forkc: Forkc) -> None:
    refused = forkc("run", peer.base, "\x1b]0;owned\x07")
    assert "\x1b" not in refused.stderr
    assert printable("a\x1b\udce9\uefe9\u202e") == "a\\x1b\\xe9\\xe9\\u202e"


def test_nobody_reads_our_output(peer: Peer, env: dict[str, str]) -> None:
    for i in range(3000):
        peer.files[f"file-{i:050}"] = Stored(b"")
    with subprocess.Popen(
        [*FORKC, "ls", peer.base], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(30)


SLOW = {"concurrent.futures", "dataclasses", "logging", "random", "readline", "rich"}
SLOW |= {"secrets", "shutil", "ssl", "urllib.parse"}


def loaded(args: list[str], env: dict[str, str], cwd: Path) -> set[str]:
    """The modules that a command has loaded at its end."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = {['forkc', *args]!r}\n"
        "from forkd.client.cli import main\n"
        "sys.exit(main())\n"
    )
    # -S: what an editable installation loads to find us is not ours
    path = os.pathsep.join([str(Path(forkd.__file__).parents[1]), *filter(None, sys.path)])
    command = [sys.executable, "-S", "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**env, "PYTHONPATH": path}, cwd=cwd
    )
    assert result.returncode == 0, result.stderr
    return set(result.stderr.splitlines()[-1].split())


def test_what_a_start_loads(peer: Peer, env: dict[str, str], tmp_path: Path) -> None:
    assert not loaded(["--version"], env, tmp_path) & (SLOW | {"msgspec", "socket"})
    (tmp_path / "f").write_bytes(b"content")
    modules = loaded(["put", "f", f"{peer.base}/f"], env, tmp_path)
    assert peer.files["f"].data == b"content"
    assert modules & SLOW == set()


def test_the_library_offers_its_names() -> None:
    for name in library.__all__:
        assert getattr(forkd.client, name) is getattr(library, name)
    with pytest.raises(AttributeError):
        _ = forkd.client.Nothing
    with pytest.raises(AttributeError):
        _ = forkd.client.nothing


def test_the_command_comes_first(forkc: Forkc) -> None:
    result = forkc("--", "quota", "forkd+plain://alice@127.0.0.1:1/")
    assert result.returncode == exits.USAGE
    assert "usage: forkc" in result.stderr


def test_help_keeps_to_the_terminal(forkc: Forkc) -> None:
    for columns in (60, 200):
        lines = forkc("put", "--help", COLUMNS=str(columns)).stdout.splitlines()
        option = next(i for i, line in enumerate(lines) if "--all" in line)
        assert max(map(len, lines[option : option + 3])) < columns
        assert ("same size and time" in "".join(lines[option : option + 2])) == (columns == 200)


def on_a_terminal(args: list[str], env: dict[str, str], cwd: Path) -> tuple[int, bytes]:
    """Run with a terminal as standard error; its exit status and what it drew."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*FORKC, *args], stdout=subprocess.DEVNULL, stderr=theirs, env=env, cwd=cwd
        )
        os.close(theirs)
        drawn = bytearray()
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last holder of the other end is gone
                break
            if not piece:
                break
            drawn += piece
        return process.wait(60), bytes(drawn)
    finally:
        os.close(ours)


def shown_lines(drawn: str) -> list[str]:
    """What was drawn, line by line, without colours and movements."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn))


@pytest.mark.parametrize("width", [20, 40, 79, 80, 109, 110, 200])
def test_bars_fit_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    bars = Bars()
    size = 1023 << 30
    bars.event(Planned(12345, 3 * size))
    for name in ("a", "é" * 300):
        bars.event(Started(name, size, 0))
        bars.event(Moved(name, size - 1))
    bars.done()
    lines = [line for line in shown_lines(capsys.readouterr().err) if "/s" in line or "%" in line]
    assert lines
    assert all(len(line) <= width for line in lines), lines


def test_bars_on_a_terminal(peer: Peer, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    peer.cut_put_at = [BLOCK + 1]
    status, drawn = on_a_terminal(["put", "big", peer.base], env, tmp_path)
    assert status == 0
    text = drawn.decode()
    for expected in ("big", "/8.0 MiB", "trying again", "sent 1 file"):
        assert expected in text
    assert "1 files" not in text
    assert not [line for line in shown_lines(text) if len(line) > 80 and "━" in line]
    status, drawn = on_a_terminal(["put", "nope", peer.base], env, tmp_path)
    assert status == exits.REFUSED


def test_the_tally() -> None:
    tally = Tally()
    for event in (
        Planned(3, 300, 1),
        Started("a", 200, 50),
        Moved("a", 100),
        Started("a", 200, 0),  # begins anew
        Moved("a", 200),
        Finished("a", 200),
        Finished("small", 60),
        Finished("bad", 40, error="why"),
    ):
        tally.take(event)
    assert (tally.files, tally.done, tally.skipped, tally.streams) == (3, 300, 1, {})
    assert "3 of 3 files, 300 B of 300 B" in tally.line()
    assert Meter().rate() == 0.0


# interruption


def wait_until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize(
    "options",
    [
        ["--jobs", "0"],
        ["--jobs", "65"],
        ["--attempts", "-1"],
        ["--timeout", "0"],
        ["--timeout", "x"],
        ["--password", "secret"],
    ],
)
def test_options_that_make_no_sense(forkc: Forkc, options: list[str]) -> None:
    refused = forkc("put", *options, "f", "forkd://alice@127.0.0.1:1")
    assert refused.returncode == exits.USAGE
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_ctrl_c_and_the_same_command_again(
    peer: Peer, env: dict[str, str], forkc: Forkc, tmp_path: Path, jobs: str
) -> None:
    names = [f"big{i}" for i in range(3)]
    for name in names:
        (tmp_path / name).write_bytes(LARGE + name.encode())
    peer.hold_put_at = BLOCK + 1000
    process = subprocess.Popen(
        [*FORKC, "put", "-j", jobs, *names, peer.base],
        stderr=subprocess.PIPE,
        env=env,
        cwd=tmp_path,
        text=True,
    )
    try:
        wait_until(lambda: any(len(p.data) > BLOCK for p in peer.partials.values()))
        process.send_signal(signal.SIGINT)
        peer.hold_put_at = None
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == exits.INTERRUPTED
    assert "interrupted; repeat the command" in said
    assert "Traceback" not in said
    again = forkc("put", "-j", jobs, *names, peer.base)
    assert again.returncode == 0
    assert {name: file.data for name, file in peer.files.items()} == {
        name: LARGE + name.encode() for name in names
    }
    assert re.search(r"big\d: 32.0 MiB from \d+\.\d MiB on", again.stderr)


def test_an_interrupted_get_leaves_its_part(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    long = random.Random(6).randbytes(21 << 20)
    peer.files["f"] = Stored(long)
    peer.cut_get_at = [20 << 20]
    first = forkc("get", "--attempts", "0", f"{peer.base}/f", "f")
    assert first.returncode == exits.LOST
    assert Path(part_path(str(tmp_path / "f"))).exists()
    second = forkc("get", f"{peer.base}/f", "f")
    assert "from 16.0 MiB on" in second.stderr
    assert (tmp_path / "f").read_bytes() == long


# the shell


def test_a_script_in_the_shell(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b"local")
    (tmp_path / "lb").mkdir()
    script = """
        # a comment
        frobnicate
        ls nope
        mkdir -p "a b/c"
        cd 'a b/c'
        pwd
        put l -t x
        put l
        mv x y
        ls
        stat y
        lcd lb
        get ../c/y
        run hello
        quota
        rm y
        cd
        help put
        put 'unclosed
        ls -z
        quit
        pwd
    """
    ran = forkc("shell", peer.base, stdin=script)
    assert ran.returncode != 0, "a script's failure shows"
    assert ran.stdout.startswith("/a b/c\nl\ny\nname   y")
    for told in ("'frobnicate' is no command", "there is no 'nope'", "quote", "usage: ls"):
        assert told in ran.stderr
    assert "put [-r]" in ran.stdout
    assert ran.stdout.count("/a b/c\n") == 1, "quit ends it"
    assert (tmp_path / "lb" / "y").read_bytes() == b"local"
    assert peer.files.keys() == {"a b/c/l"}


def test_the_end_of_input_ends_the_shell(peer: Peer, forkc: Forkc) -> None:
    ran = forkc("shell", peer.base, stdin="quota")
    assert (ran.returncode, ran.stdout[:19]) == (0, "0 B used, no limit\n")


def test_log_in_and_register_in_the_shell(peer: Peer, forkc: Forkc, env: dict[str, str]) -> None:
    script = "builder-1\nregister bob\nbuilder-1\nquota\npasswd\nbuilder-1\nbuilder-2\nls\n"
    ran = forkc("shell", "--password-stdin", peer.base, stdin="x" + script)
    assert peer.users["bob"] == "builder-2"
    assert "auth-failed" in ran.stderr, "alice's log-in failed, and the shell went on"
    assert "bob is registered" in ran.stderr


def test_a_script_without_a_password_registers(
    peer: Peer, forkc: Forkc, env: dict[str, str]
) -> None:
    del env["FORKC_PASSWORD"]
    script = "ls\npasswd\nregister bob\nbuilder-1\npasswd\nbuilder-1\nbuilder-2\nput x\nquit\n"
    ran = forkc("shell", peer.base, stdin=script)
    assert ran.stderr.count("log in first") == 2
    assert peer.users["bob"] == "builder-2"
    assert "bob is registered and logged in" in ran.stderr
    assert "the password is changed" in ran.stderr
    assert ran.returncode == exits.REFUSED, "there is no x"
    named = forkc("shell", peer.base, stdin="register eve\nls\n", FORKC_PASSWORD="apple-12")
    assert peer.users["eve"] == "apple-12"
    assert "eve is registered" in named.stderr


def test_get_and_put_in_the_shell_take_a_target(peer: Peer, forkc: Forkc, tmp_path: Path) -> None:
    peer.files["f"] = Stored(b"F")
    (tmp_path / "here").mkdir()
    script = "get f local\nget f here\nput local remote\nmkdir d\nput local remote -t d\nrm f no\n"
    (tmp_path / "remote").write_bytes(b"R")
    ran = forkc("shell", peer.base, stdin=script)
    assert ran.returncode == exits.SOME_FAILED, ran.stderr
    assert (tmp_path / "local").read_bytes() == b"F"
    assert (tmp_path / "here" / "f").read_bytes() == b"F"
    assert peer.files.keys() == {"remote", "d/local", "d/remote"}


def test_a_wrong_old_password_logs_nobody_out(
    peer: Peer, forkc: Forkc, env: dict[str, str]
) -> None:
    env["FORKC_NEW_PASSWORD"] = "chess-9"
    script = "login\nwonderland\npasswd\nwrong\nquota\n"
    del env["FORKC_PASSWORD"]
    ran = forkc("shell", peer.base, stdin=script)
    assert "auth-failed" in ran.stderr
    assert "0 B used" in ran.stdout


def test_no_server_no_shell(forkc: Forkc) -> None:
    assert forkc("shell", "forkd+plain://alice@127.0.0.1:1").returncode == exits.LOST


def test_small_files_are_many_requests_on_one_connection(
    peer: Peer, forkc: Forkc, tmp_path: Path
) -> None:
    (tmp_path / "t").mkdir()
    for i in range(300):
        (tmp_path / "t" / str(i)).write_bytes(b"x")
    assert forkc("put", "-r", "-q", "t", peer.base).returncode == 0
    assert len(peer.ops(verbs.Put)) == 300
    assert peer.connections == 1
    assert all(put.size <= INLINE_MAX for put in peer.requests if isinstance(put, verbs.Put))


# the shell on a terminal

OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A person at a terminal: reads until something shows, then types."""

    def __init__(self, args: list[str], env: dict[str, str], cwd: Path) -> None:
        self.fd, theirs = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *FORKC[1:], *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        os.close(theirs)

    def expect(self, text: str) -> str:
        """What showed before and with `text`."""
        drawn = ""
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], 30)
            assert ready, f"{text!r} did not show after {drawn + self.seen!r}"
            self.seen += os.read(self.fd, 65536).decode()
        drawn, self.seen = self.seen.split(text, 1)
        return drawn + text

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def interrupt(self, prompt: str) -> str:
        """Ctrl-C until `prompt` shows, and what showed before it.

        Once more after a silence: input() misses one that comes between its prompt and its wait.
        """
        for _ in range(4):
            self.type("\x03")
            while prompt not in self.seen and select.select([self.fd], [], [], 5)[0]:
                self.seen += os.read(self.fd, 65536).decode()
            if prompt in self.seen:
                break
        drawn = self.expect(prompt)
        self.type("in-step\n")
        self.expect("'in-step' is no command")
        self.expect(prompt)
        return drawn

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def terminal(peer: Peer, env: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    del env["FORKC_PASSWORD"]
    terminal = Terminal(["shell", peer.base], env, tmp_path)
    yield terminal
    terminal.close()


def test_a_person_in_the_shell(peer: Peer, terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"L")
    peer.folders.add("folder")
    terminal.expect("(l)og in or (r)egister? [l] ")
    terminal.type("\n")
    terminal.expect("User [alice]: ")
    terminal.type("\n")
    terminal.expect("Password of alice")
    terminal.type("wrong\n")
    terminal.expect("auth-failed")
    terminal.expect("User [alice]: ")
    terminal.type("alice\n")
    terminal.expect("Password of alice")
    terminal.type("wonderland\n")
    assert "wonderland" not in terminal.expect("alice:/> ")
    terminal.type("frobnicate\n")
    terminal.expect("is no command; 'help' lists them")
    terminal.expect("alice:/> ")
    terminal.type("put lo\t\n")
    terminal.expect("sent 1 file")
    assert peer.files["local"].data == b"L"
    terminal.expect("alice:/> ")
    terminal.type("cd fo\t\n")
    terminal.expect("alice:/folder> ")
    terminal.type("ls /no")
    terminal.expect("ls /no")
    assert "there is no" not in terminal.interrupt("alice:/folder> "), "Ctrl-C gives up the line"
    terminal.type("help\n")
    terminal.expect("quit")
    terminal.expect("alice:/folder> ")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


def test_the_first_question_knows_how_to_leave(peer: Peer, terminal: Terminal) -> None:
    terminal.expect("(l)og in or (r)egister? [l] ")
    terminal.type("help\n")
    terminal.expect("r: make a new one; quit: leave")
    terminal.expect("(l)og in or (r)egister? [l] ")
    terminal.type("quit\n")
    assert terminal.process.wait(30) == 0


def test_end_of_input_at_the_first_question(peer: Peer, terminal: Terminal) -> None:
    terminal.expect("(l)og in or (r)egister? [l] ")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


def test_a_shell_that_is_not_logged_in(peer: Peer, terminal: Terminal) -> None:
    terminal.expect("(l)og in or (r)egister? [l] ")
    terminal.interrupt("(not logged in)> ")
    terminal.type("passwd\n")
    terminal.expect("log in first")
    terminal.expect("(not logged in)> ")
    assert "goes on" not in terminal.interrupt("(not logged in)> ")
    terminal.type("login\n")
    terminal.expect("Password of alice")
    assert "goes on" not in terminal.interrupt("(not logged in)> ")
    terminal.type("quit\n")
    assert terminal.process.wait(30) == 0


def test_a_stranger_registers_in_the_shell(peer: Peer, terminal: Terminal) -> None:
    terminal.expect("(l)og in or (r)egister? [l] ")
    terminal.type("r\n")
    terminal.expect("New user's name [alice]: ")
    terminal.type("bob\n")
    terminal.expect("New password of bob")
    terminal.type("builder-1\n")
    terminal.expect("The same again: ")
    terminal.type("builder-1\n")
    terminal.expect("bob is registered and logged in")
    terminal.expect("bob:/> ")
    terminal.type("exit\n")
    assert terminal.process.wait(30) == 0
    assert peer.users["bob"] == "builder-1"
