"""The clock steps back an hour: nothing waits for it to catch up.

libfaketime changes CLOCK_REALTIME for the daemon alone; CLOCK_MONOTONIC goes on, as it does when
a real clock is set.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from peer import Peer, noise
from rig import Daemon, wait_for
from torture import Tell

from forkd.admin.exits import Exit

pytestmark = pytest.mark.torture

MIB = 1 << 20
LIBRARIES = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib").glob("faketime/libfaketimeMT.so.1"),
]


@pytest.fixture
def clock(folder: Path) -> Path:
    """The file that says how far the daemon's clock is off."""
    if not LIBRARIES:
        pytest.skip("libfaketime is missing (Debian's package faketime)")
    path = folder / "run" / "clock"  # a confined worker may read it there
    path.parent.mkdir()
    path.write_text("+0")
    return path


def start(daemon: Daemon, clock: Path) -> None:
    daemon.start(
        env={
            **os.environ,
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
    )
    daemon.add_user("alice")


def test_a_clock_that_steps_back_stops_nothing(folder: Path, clock: Path, tell: Tell) -> None:
    daemon = Daemon(
        folder,
        {
            "server": {"watchdog_timeout": '"4s"'},
            "limits": {"idle_timeout": '"3s"'},
            "quota": {"verify_every": '"1s"'},
            "storage": {"partial_expiry": '"2s"'},  # half of it is how often the keeper looks
        },
    )
    try:
        start(daemon, clock)
        step_back_under_way(daemon, clock)
        tell(hours_back=1)
    finally:
        daemon.destroy()


def step_back_under_way(daemon: Daemon, clock: Path) -> None:
    idle, busy = daemon.log_in(), daemon.log_in()
    content = noise(4 * MIB)
    ident, _ = busy.begin("f", len(content), tag="v1")
    busy.data(ident, content[:MIB])
    clock.write_text("-1h")
    daemon.log_in().put("after", b"x")
    times = [event["time"] for event in daemon.events()]
    assert times[-1] < times[0], "the clock did not step"

    wait_for_the_end(idle)  # idle_timeout
    busy.data(ident, content[MIB:], last=True)
    assert busy.answer(ident)[0]["size"] == len(content)
    assert not [event for event in daemon.events() if event["event"] == "killed"]

    stopped, killed = (worker["pid"] for worker in daemon.workers())
    os.kill(stopped, signal.SIGSTOP)  # watchdog
    os.kill(killed, signal.SIGKILL)  # back-off
    wait_for(lambda: fresh(daemon, {stopped, killed}))
    assert daemon.ctl("reload").returncode == 0
    wait_for(lambda: fresh(daemon, {stopped, killed}))
    assert daemon.ctl("status").returncode == Exit.OK
    (daemon.home() / "by hand").write_bytes(b"12345")  # found by the next verification
    wait_for(lambda: daemon.verify()[0]["charged"] == len(content) + 6)


def wait_for_the_end(peer: Peer) -> None:
    with suppress(EOFError):
        while True:
            peer.read()


def fresh(daemon: Daemon, former: set[int]) -> bool:
    serving = {worker["pid"] for worker in daemon.workers()}
    return len(serving) == 2 and not serving & former
