"""Workers that a reload replaced: what may hold them, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from crowd import Crowd
from peer import NOTICE, Peer
from rig import Daemon, wait_for

KIB = 1 << 10
PIECE = bytes(16 * KIB)


def send_bytes(peer: Peer, ident: int) -> None:
    """A byte now and then, as long as the server takes them."""
    peer.sock.settimeout(0.1)
    while True:
        peer.data(ident, b"x")
        try:
            assert peer.read()[0] == NOTICE
        except TimeoutError:
            continue


def read_on(peer: Peer) -> None:
    while True:
        peer.read()


def test_what_hardly_moves_is_ended_and_what_moves_is_not(
    daemon_with: Callable[..., Daemon],
) -> None:
    daemon = daemon_with(
        server={"graceful_timeout": '"3s"', "workers": "1"}, limits={"drain_floor": '"1 KiB"'}
    )
    slow, fast = daemon.log_in(), daemon.log_in()
    slow_id, _ = slow.begin("slow", 256 << 20, tag="s", client="c")
    fast_id, _ = fast.begin("fast", 256 << 20, tag="f", client="c")
    assert daemon.ctl("reload").returncode == 0
    (worker,) = daemon.workers("draining")

    def send_pieces(crowd: Crowd) -> None:
        while crowd.going:
            fast.data(fast_id, PIECE)
            time.sleep(0.05)

    with Crowd() as crowd:
        crowd.start(send_pieces, crowd)
        with pytest.raises((EOFError, ConnectionError)):
            send_bytes(slow, slow_id)
        (cut,) = (e for e in daemon.events() if e["event"] == "too-slow")
        assert cut["path"] == "/slow"
        (left,) = daemon.status()["draining"]
        assert (left["generation"], left["workers"], left["seconds_left"]) == (1, 1, None)
        assert worker["pid"] in {w["pid"] for w in daemon.workers("draining")}
    fast.close()
    wait_for(lambda: worker["pid"] not in {w["pid"] for w in daemon.status()["workers"]})
    _, offer = daemon.log_in().begin("slow", 256 << 20, tag="s", client="c")
    assert offer["offset"] > 0  # what was cut goes on where it was


def test_the_oldest_of_too_many_generations_must_end(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with(server={"graceful_timeout": '"2s"', "workers": "1", "drainers": "2"})
    daemon.configure("limits", drain_floor="0")
    assert daemon.ctl("reload").returncode == 0
    held = []
    for number in range(3):
        peer = daemon.log_in()
        ident, _ = peer.begin(f"f{number}", 8, tag="t", client="c")
        held.append((peer, ident))
        assert daemon.ctl("reload").returncode == 0
    draining = daemon.status()["draining"]
    assert [d["generation"] for d in draining] == [2, 3, 4]
    assert draining[0]["seconds_left"] <= 4.0
    assert [d["seconds_left"] for d in draining[1:]] == [None, None]
    told = "generation 3: 1 worker, 1 session, 1 transfer"
    wait_for(lambda: told in " ".join(daemon.ctl("status").stdout.split()))
    wait_for(lambda: [d["generation"] for d in daemon.status()["draining"]] == [3, 4])
    (first, _), *others = held
    with pytest.raises((EOFError, ConnectionError)):
        read_on(first)
    for peer, ident in others:
        peer.data(ident, b"complete", last=True)
        assert peer.answer(ident)[0]["size"] == 8
    daemon.hang_up()
    wait_for(lambda: not daemon.status()["draining"])


def test_a_refused_reload_uses_up_no_generation(daemon: Daemon) -> None:
    good = daemon.config.read_text()
    for _ in range(2):
        daemon.config.write_text(good.replace("workers = 2", "workers = 99"))
        refused = daemon.ctl("reload")
        assert refused.returncode == 1
        assert refused.stderr.endswith("nothing was changed; generation 1 goes on serving\n")
    daemon.config.write_text(good)
    assert "generation 2: 2 workers serving" in daemon.ctl("reload").stdout
