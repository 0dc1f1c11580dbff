from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from masterrig import Daemon, cmdline, gone, wait_for

import forkd
from forkd.accounts import open_accounts
from forkd.cli import Exit, main
from forkd.config import load
from forkd.controlmessages import Reload
from forkd.demo import QUOTA
from forkd.quota import open_ledger


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkd.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    assert run("--version").stdout == f"forkd {forkd.__version__}\n"


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for code in Exit:
        assert f"\n  {int(code)}  " in text


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--fly"]])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == Exit.USAGE


def test_a_good_config(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", str(daemon.file)]) == Exit.OK
    assert capsys.readouterr().out == f"{daemon.file}: ok\n"


@pytest.mark.parametrize("command", [["check-config"], ["serve"], ["serve", "--daemon"]])
def test_a_bad_config_names_all_its_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    file = tmp_path / "forkd.toml"
    file.write_text("[server]\nworkers = 99\n\n[limits]\nlogin_atempts = 1\n")
    assert main([*command, "-c", str(file)]) == Exit.BAD_CONFIG
    problems = capsys.readouterr().err.splitlines()
    assert problems[0].startswith(f"forkd: {file}:2: server.workers: ")
    assert problems[1].startswith(f"forkd: {file}:5: limits.login_atempts: unknown key")


def test_a_missing_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "-c", str(tmp_path / "no")]) == Exit.BAD_CONFIG
    assert "no: cannot be read: No such file" in capsys.readouterr().err


def test_an_address_in_use(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon.write(listen=f'"127.0.0.1:{taken.getsockname()[1]}"')
        result = run("serve", "-c", str(daemon.file))
    assert result.returncode == Exit.CANNOT_START
    assert result.stderr.startswith("forkd: cannot start: cannot listen on 127.0.0.1:")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_a_user_that_is_not_there(daemon: Daemon, command: str) -> None:
    daemon.write(server='user = "no-such-user"')
    result = run(command, "-c", str(daemon.file))
    assert result.returncode == Exit.BAD_CONFIG
    assert "server.user: there is no user 'no-such-user'" in result.stderr


def test_a_warning_is_no_refusal(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.write('[commands.x]\nexec = ["no-such-program"]\n')
    assert main(["check-config", "-c", str(daemon.file)]) == Exit.OK
    said = capsys.readouterr()
    assert said.out == f"{daemon.file}: ok, with 1 warning\n"
    assert said.err.startswith(f"forkd: warning: {daemon.file}:")
    assert "commands.x.exec: there is no program 'no-such-program'" in said.err
    daemon.serve()
    assert "no-such-program" in daemon.log.read_text()


def detach(daemon: Daemon) -> int:
    """Start detached; the pid of the daemon."""
    process = daemon.start("--daemon")
    assert process.wait(60) == 0, daemon.errors()
    pid = int((daemon.runtime / "forkd.pid").read_text())
    daemon.pids.add(pid)
    return pid


def test_detached_it_serves_when_the_command_returns(daemon: Daemon) -> None:
    pid = detach(daemon)
    status = daemon.status()
    assert status["pid"] == pid
    assert status["state"] == "serving"
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    assert cmdline(pid) == f"forkd: master {daemon.file}"
    assert daemon.connect()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: gone(pid))
    assert not (daemon.runtime / "forkd.pid").exists()
    assert not daemon.control().exists()


def test_detached_a_second_start_is_refused(daemon: Daemon) -> None:
    pid = detach(daemon)
    second = run("serve", "--daemon", "-c", str(daemon.file))
    assert second.returncode == Exit.RUNNING_ALREADY
    assert f"running already: process {pid}" in second.stderr
    assert daemon.connect()


def test_detached_a_stale_pidfile_is_no_hindrance(daemon: Daemon) -> None:
    os.kill(detach(daemon), signal.SIGKILL)
    assert (daemon.runtime / "forkd.pid").exists()
    detach(daemon)


@pytest.mark.parametrize("case", ["prepare", "worker"])
def test_detached_a_start_that_fails_is_told_before_the_command_returns(
    daemon: Daemon, case: str
) -> None:
    (daemon.state / f"{case}-unable").write_text("there is no moon")
    process = daemon.start("--daemon")
    assert process.wait(60) == Exit.CANNOT_START
    assert "there is no moon" in daemon.errors()
    assert not (daemon.runtime / "forkd.pid").exists()


def reachable_by_all(path: str) -> bool:
    folders = Path(path).resolve().parents
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(reachable_by_all, (forkd.__file__, os.__file__))),
    reason="only root can become another user, who must reach the code",
)
def test_root_is_given_up() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with Daemon(Path(folder)) as daemon:
            daemon.state.rmdir()
            daemon.write(server='user = "nobody"')
            daemon.serve()
            assert_nobody(daemon)
            assert daemon.body(Reload())["generation"] == 2
            assert_nobody(daemon)


def assert_nobody(daemon: Daemon) -> None:
    status = daemon.status()
    nobody = pwd.getpwnam("nobody")
    children = [c for c in status["workers"] if c["generation"] == status["generation"]]
    assert children
    for pid in [status["pid"], *(child["pid"] for child in children)]:
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert set(fields["Uid"].split()) == {str(nobody.pw_uid)}
        assert set(fields["Gid"].split()) == {str(nobody.pw_gid)}
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


def demo_limit(folder: Path) -> int | None:
    config = load(str(folder / "forkd.toml"))
    assert not config.log.transfers
    accounts = open_accounts(config)
    account = accounts.get("demo")
    accounts.close()
    assert account
    ledger = open_ledger(config)
    limit = ledger.usage(account.id).limit
    ledger.file.close()
    assert account.quota == limit
    return limit


def test_a_demo_serves_and_goes_on_with_its_data(tmp_path: Path) -> None:
    """The real rooms: an account is made, the second run keeps it."""
    folder = tmp_path / "demo"
    outputs = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "forkd.cli", "demo", "--dir", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout
            lines: list[str] = []
            while not lines or not lines[-1].startswith("Ctrl-C"):
                line = process.stdout.readline()
                assert line, "it ended"
                lines.append(line)
            assert demo_limit(folder) == QUOTA
            outputs.append(lines)
            os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
            assert process.wait(60) == 0
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            assert process.stdout
            process.stdout.close()
    assert outputs[0] == outputs[1]
    password = (folder / "password").read_text().strip()
    assert f"password  {password}\n" in outputs[0]
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600


def test_a_demo_in_a_folder_with_a_long_path(tmp_path: Path) -> None:
    from forkd.demo import settle

    folder = tmp_path / ("long" * 30)
    place = settle(str(folder))
    runtime = place.config.server.runtime_dir
    assert not runtime.startswith(str(folder))
    assert all(len(str(a.host)) < 100 for a in place.config.listen.native)
    assert settle(str(folder)).config == place.config
    os.rmdir(runtime)
