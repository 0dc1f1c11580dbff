"""forkc and its library while generations pass: without an error, and without asking again."""

from __future__ import annotations

import filecmp
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import Crowd
from rig import BIN, PASSWORD, Daemon, wait_for
from torture import Tell, scale

from forkd.client import Client, KnownHosts, Settings

FILES = 3000


def reload(daemon: Daemon) -> None:
    result = daemon.ctl("reload")
    assert result.returncode == 0, result.stderr


def reload_until(daemon: Daemon, over: Callable[[], bool], most: int) -> int:
    """Reload while something is done, `most` times at most; how often."""
    for done in range(most):
        if over():
            return done
        reload(daemon)
    return most


@pytest.fixture
def tree(folder: Path) -> Path:
    top = folder / "tree"
    for number in range(FILES):
        path = top / f"d{number % 20}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 50)
    (top / "large").write_bytes(bytes(30 << 20))
    return top


def same(one: Path, other: Path) -> bool:
    names = sorted(str(p.relative_to(one)) for p in one.rglob("*") if p.is_file())
    assert len(names) == FILES + 1
    wrong = filecmp.cmpfiles(one, other, names, shallow=False)[1:]
    assert wrong == ([], [])
    return True


@pytest.mark.torture
@pytest.mark.parametrize("direction", ["put", "get"])
def test_many_files_span_generations(
    daemon: Daemon, tree: Path, folder: Path, tell: Tell, direction: str
) -> None:
    if direction == "get":
        assert daemon.forkc("put", "-q", "-r", tree, daemon.url("there")).returncode == 0
        words = ["get", "-r", daemon.url("there"), str(folder / "here")]
    else:
        words = ["put", "-r", str(tree), daemon.url("there")]
    moving = daemon.forkc_start(words[0], "-j", "2", *words[1:])
    reloads = reload_until(daemon, lambda: moving.poll() is not None, scale(8, 40))
    out, err = moving.communicate(timeout=120)
    tell(files=FILES, reloads=reloads)
    assert moving.returncode == 0, (out, err)
    assert "again" not in err, err
    assert reloads
    assert same(tree, daemon.home() / "there" if direction == "put" else folder / "here")


def test_a_shell_outlives_generations(daemon: Daemon) -> None:
    """Between two commands its connection is closed behind its back."""
    shell = subprocess.Popen(
        [BIN / "forkc", "shell", daemon.url()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=daemon.env(),
    )
    assert shell.stdin
    for number in range(2):
        shell.stdin.write(f"mkdir d{number}\nmv d{number} e{number}\n")
        shell.stdin.flush()
        wait_for(lambda number=number: (daemon.home() / f"e{number}").exists())
        reload(daemon)
        if number:
            wait_for(lambda: not daemon.status()["draining"])
    _, err = shell.communicate("rm -r e0\n", timeout=60)
    assert shell.returncode == 0, err
    told = [line for line in err.splitlines() if "for the first time" not in line]
    assert told == ["removed 0 files, 1 folder"]
    assert not (daemon.home() / "e0").exists()


def test_a_password_is_asked_for_once(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(daemon.folder / "client"))
    asked: list[object] = []
    notes: list[object] = []

    def password(url: object) -> str:
        asked.append(url)
        return PASSWORD

    settings = Settings(KnownHosts(), listener=notes.append)
    with Client(daemon.url(), password, settings) as client:
        for number in range(2):
            client.put_bytes(b"x", f"f{number}")
            reload(daemon)
            if number:
                wait_for(lambda: not daemon.status()["draining"])
            client.move(f"f{number}", f"g{number}")
    assert len(asked) == 1
    assert notes == []


def test_requests_while_generations_pass_have_no_error(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any pause: what may not be repeated is neither lost nor done twice."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(daemon.folder / "client"))
    notes: list[object] = []
    moved: list[int] = []

    def work(crowd: Crowd) -> None:
        settings = Settings(KnownHosts(), listener=notes.append)
        with Client(daemon.url(), PASSWORD, settings) as client:
            client.put_bytes(b"x", "n0")
            while crowd.going:
                client.move(f"n{len(moved)}", f"n{len(moved) + 1}")
                moved.append(1)

    with Crowd() as crowd:
        crowd.start(work, crowd)
        for _ in range(scale(5, 30)):
            reload(daemon)
            crowd.check()
    assert (daemon.home() / f"n{len(moved)}").read_bytes() == b"x"
    assert notes == []
