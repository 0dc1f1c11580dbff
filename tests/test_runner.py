"""The runner as its own process, commands as real processes."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from children import LONG, Child

from forkd.config import Command, Config, Log, Server
from forkd.errors import Refusal
from forkd.helpers import runclient, runner
from forkd.helpers.runclient import RunHandle, RunStatus
from forkd.messages import Drain, Kick
from forkd.scoreboard import Scoreboard
from forkd.seat import ChildSeat
from forkd.units import Seconds

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdout.write("deaf"); sys.stdout.flush()
time.sleep(600)
"""
LOOK_AROUND = """
import os, sys
print(sorted(os.environ.items()))
print(os.getcwd(), oct(os.umask(0)), repr(sys.stdin.read()))
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2))
print(os.getsid(0) == os.getpid() == os.getpgid(0))
try:
    os.open("/dev/tty", os.O_RDWR)
except OSError as error:
    print("no terminal")
print(sys.argv[1])
"""


def sh(script: str, timeout: float = 600.0, users: tuple[str, ...] = ("*",)) -> Command:
    return Command(exec=("sh", "-c", script), users=users, timeout=Seconds(timeout))


COMMANDS = {
    "both": sh("echo out; echo err >&2; exit 3"),
    "signal": sh("kill -9 $$"),
    "alice": sh("echo $FORKD_USER", users=("alice",)),
    "nobody": sh("echo x", users=()),
    "missing": Command(exec=("forkd-no-such-program",), users=("*",)),
    "around": Command(exec=(sys.executable, "-c", LOOK_AROUND, "$HOME; echo `id`"), users=("*",)),
    "wait": sh("echo $$; exec sleep 600"),
    "soon": sh("echo $$; exec sleep 600", timeout=0.2),
    "deaf": Command(exec=(sys.executable, "-c", STUBBORN), users=("*",), timeout=Seconds(0.2)),
    "family": sh("sleep 600 & echo $! $$; wait"),
    "leaves-child": sh("sleep 600 & echo $!"),
    "stopped": sh("echo $$; kill -STOP $$; sleep 600", timeout=0.2),
    "big": Command(exec=("head", "-c", "5000000", "/dev/zero"), users=("*",)),
}


class Nest:
    """A runner of generation 3 and the runs started with it."""

    def __init__(self, tmp: Path, stack: ExitStack) -> None:
        self.tmp = tmp
        self.stack = stack
        gate = tmp / "gate"
        os.mkfifo(gate)
        self.gate = str(gate)
        commands = {
            **COMMANDS,
            "gate": sh(f"echo begun; read line < {gate}; echo $line"),
            "gone": sh(f"echo $$; read line < {gate}", timeout=0.3),
        }
        self.config = Config(
            server=Server(state_dir=str(tmp), runtime_dir=str(tmp)),
            log=Log(file=str(tmp / "log"), format="json"),
            commands=commands,
        )
        board = Scoreboard.create(str(tmp / "scoreboard"))
        self.child = Child(lambda link: ChildSeat("runner", 0, 1, 3, self.config, board, link, ()))
        stack.callback(self.child.end)
        self.child.ready()
        self.path = runclient.socket_path(str(tmp), 3)

    def start(self, command: str, user: str = "bob") -> RunHandle:
        handle = runclient.start(str(self.tmp), 3, command, user)
        self.stack.callback(handle.close)
        return handle

    def run(self, command: str, user: str = "bob") -> Result:
        return finish(self.start(command, user))

    def refusal(self, command: str, user: str = "bob") -> str:
        with pytest.raises(Refusal) as refused:
            status(self.start(command, user))
        return refused.value.code

    def outcome(self, command: str) -> str:
        try:
            return self.run(command).status.reason
        except Refusal as refusal:
            return refusal.code

    def open_gate(self, text: str = "go\n") -> None:
        with open(self.gate, "w") as gate:
            gate.write(text)


@dataclass
class Result:
    out: bytes
    err: bytes
    status: RunStatus


def status(handle: RunHandle) -> RunStatus:
    while (found := handle.read_status()) is None:
        assert select.select([handle.status_socket], [], [], LONG)[0], "no status comes"
    return found


def read_line(fd: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([fd], [], [], LONG)[0], "no output comes"
        chunk = os.read(fd, 1000)
        assert chunk, line
        line += chunk
    return line.decode().strip()


def finish(handle: RunHandle) -> Result:
    """Read both pipes to their ends, as a worker does, then the status."""
    output: dict[int, bytes] = {handle.stdout_fd: b"", handle.stderr_fd: b""}
    open_fds = set(output)
    while open_fds:
        ready = select.select(open_fds, [], [], LONG)[0]
        assert ready, "no output comes"
        for fd in ready:
            chunk = os.read(fd, 1 << 16)
            output[fd] += chunk
            if not chunk:
                open_fds.remove(fd)
    return Result(output[handle.stdout_fd], output[handle.stderr_fd], status(handle))


def watch(pid: str) -> int:
    return os.pidfd_open(int(pid))


def gone(pidfd: int) -> bool:
    try:
        return bool(select.select([pidfd], [], [], LONG)[0])
    finally:
        os.close(pidfd)


def lives(pid: str) -> bool:
    """Whether it runs; one that is dead and not yet reaped by init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    with ExitStack() as stack:
        yield Nest(tmp_path, stack)


def test_output_and_exit_status(nest: Nest) -> None:
    assert nest.run("both") == Result(b"out\n", b"err\n", RunStatus(3, None, "exit"))


def test_a_status_can_be_asked_for_again(nest: Nest) -> None:
    handle = nest.start("both")
    assert status(handle) == handle.read_status() == RunStatus(3, None, "exit")


def test_output_of_any_size(nest: Nest) -> None:
    result = nest.run("big")
    assert result.status == RunStatus(0, None, "exit")
    assert result.out == bytes(5_000_000)


def test_killed_by_a_signal(nest: Nest) -> None:
    assert nest.run("signal").status == RunStatus(None, 9, "signal")


def test_a_clean_world(nest: Nest) -> None:
    result = nest.run("around", "carol")
    assert result.err == b""
    env, place, fds, group, tty, argument = result.out.decode().splitlines()
    assert env == str(
        [
            ("FORKD_USER", "carol"),
            ("LANG", "C.UTF-8"),
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ]
    )
    assert place == "/ 0o77 ''"
    assert len(eval(fds)) == 1  # that of the listing itself
    assert group == "True"
    assert tty == "no terminal"
    assert argument == "$HOME; echo `id`"


def test_who_may(nest: Nest) -> None:
    assert nest.run("alice", "alice").out == b"alice\n"
    assert nest.refusal("alice", "bob") == "unknown-command"
    assert nest.refusal("nobody") == "unknown-command"
    assert nest.refusal("rm") == "unknown-command"


def test_a_program_that_is_not_there(nest: Nest) -> None:
    assert nest.refusal("missing") == "command-failed"
    assert "forkd-no-such-program" in (nest.tmp / "log").read_text()
    assert nest.run("both").status.status == 3


def test_timeout(nest: Nest) -> None:
    assert nest.run("soon").status == RunStatus(None, signal.SIGTERM, "timeout")


def test_timeout_of_a_command_that_ignores_term(nest: Nest) -> None:
    result = nest.run("deaf")
    assert result.status == RunStatus(None, signal.SIGKILL, "timeout")


def test_timeout_of_a_stopped_command(nest: Nest) -> None:
    assert nest.run("stopped").status == RunStatus(None, signal.SIGTERM, "timeout")


def test_closing_ends_the_whole_group(nest: Nest) -> None:
    handle = nest.start("family")
    pidfds = [watch(pid) for pid in read_line(handle.stdout_fd).split()]
    handle.close()
    handle.close()
    assert [gone(pidfd) for pidfd in pidfds] == [True, True]
    assert nest.run("both").status.status == 3


def test_nothing_is_left_behind(nest: Nest) -> None:
    handle = nest.start("leaves-child")
    pid = read_line(handle.stdout_fd)
    # the pipes end only because the child that holds them is killed
    assert finish(handle).status == RunStatus(0, None, "exit")
    ends = time.monotonic() + 20  # its descriptors close a little before it is gone
    while lives(pid):
        assert time.monotonic() < ends, "it still runs"
        time.sleep(0.01)


def test_bounded(nest: Nest) -> None:
    handles = [nest.start("wait") for _ in range(runner.MAX_RUNS)]
    for handle in handles:
        read_line(handle.stdout_fd)
    assert nest.refusal("both") == "busy"
    handles[0].close()
    while (code := nest.outcome("both")) == "busy":
        pass  # a place comes back when the command is gone
    assert code == "exit"


def test_drain_lets_a_command_finish(nest: Nest) -> None:
    handle = nest.start("gate")
    assert read_line(handle.stdout_fd) == "begun"
    nest.child.link.send(Kick(1, "x"))  # not for a runner
    nest.child.link.send(Drain())
    while os.path.exists(nest.path):
        assert handle.read_status() is None
    with pytest.raises(Refusal) as refused:
        nest.start("both")
    assert refused.value.code == "busy"
    nest.open_gate("done\n")
    assert finish(handle) == Result(b"done\n", b"", RunStatus(0, None, "exit"))
    assert nest.child.wait() == "status 0"


def test_drain_with_a_deadline_cuts(nest: Nest) -> None:
    handle = nest.start("wait")
    read_line(handle.stdout_fd)
    nest.child.link.send(Drain(0))
    assert finish(handle).status == RunStatus(None, signal.SIGTERM, "signal")
    assert nest.child.wait() == "status 0"


def test_an_idle_runner_leaves_with_the_master(nest: Nest) -> None:
    nest.child.leave_alone()
    assert nest.child.wait() == "status 0"
    assert not os.path.exists(nest.path)


def test_without_a_master_deadlines_still_hold(nest: Nest) -> None:
    handle = nest.start("gone")
    read_line(handle.stdout_fd)
    nest.child.leave_alone()
    assert finish(handle).status == RunStatus(None, signal.SIGTERM, "timeout")
    assert nest.child.wait() == "status 0"


def test_without_a_runner(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refusal) as refused:
        runclient.start(str(tmp_path), 3, "both", "bob")
    assert refused.value.code == "busy"
    assert refused.value.retry
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_killed_runner_takes_its_commands_along(nest: Nest) -> None:
    handle = nest.start("wait")
    pidfd = watch(read_line(handle.stdout_fd))
    nest.child.signal(signal.SIGKILL)
    assert nest.child.wait() == "signal 9 (SIGKILL)"
    with pytest.raises(Refusal) as refused:
        status(handle)
    assert refused.value.code == "command-failed"
    assert gone(pidfd)  # without its deadline it must not go on


def test_rubbish_is_refused(nest: Nest) -> None:
    for packet in (
        b"rubbish",
        b"{}",
        b'{"command":"","user":"bob"}',
        b'{"command":"both","user":1}',
    ):
        assert ask(nest, packet)["code"] == "bad-request"
    no_pipes = ask(nest, b'{"command":"both","user":"bob"}')
    assert (no_pipes["code"], no_pipes["message"]) == ("bad-request", "a run needs two pipes")
    with connect(nest):
        pass  # says nothing
    assert nest.run("both").status.status == 3


def test_a_user_that_cannot_be_told(nest: Nest) -> None:
    with pytest.raises(Refusal) as refused:
        status(nest.start("both", "a\0b"))
    assert refused.value.code == "command-failed"
    assert nest.run("both").status.status == 3


def connect(nest: Nest) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(LONG)
    connection.connect(nest.path)
    return connection


def ask(nest: Nest, packet: bytes) -> dict[str, str]:
    with connect(nest) as connection:
        connection.send(packet)
        answer = msgspec.json.decode(connection.recv(65536), type=dict[str, str])
        assert connection.recv(1) == b""
        return answer


def test_socket_and_title(nest: Nest) -> None:
    assert stat.S_IMODE(os.stat(nest.path).st_mode) == 0o600
    assert nest.child.title() == "forkd: runner"


def test_a_runner_in_place_of_a_killed_one(nest: Nest) -> None:
    nest.child.signal(signal.SIGKILL)
    nest.child.wait()
    board = Scoreboard.create(str(nest.tmp / "scoreboard"))
    again = Child(lambda link: ChildSeat("runner", 0, 2, 3, nest.config, board, link, ()))
    nest.stack.callback(again.end)
    again.ready()
    assert nest.run("both").status.status == 3


def test_find_command() -> None:
    assert runclient.find_command(COMMANDS, "both", "x") is COMMANDS["both"]
    for name, user in (("alice", "bob"), ("nobody", "*"), ("", "x")):
        with pytest.raises(Refusal) as refused:
            runclient.find_command(COMMANDS, name, user)
        assert refused.value.code == "unknown-command"
