"""Many attackers of the FTP door at once, and ordinary clients beside them."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import pytest
from crowd import Crowd
from ftppeer import Site, hang_up, reset, serving_ftp
from measure import MIB
from torture import Tell, scale
from unharmed import LIMITS, unharmed

pytestmark = pytest.mark.torture

BIG = 40 * MIB


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Data connections under TLS are bound to their control connection."""
    with serving_ftp(
        tmp_path_factory.mktemp("data"), limits=LIMITS, ftp={"data_session": '"require"'}
    ) as site:
        with site.log_in().open("STOR big") as data:
            data.sendall(bytes(BIG))
        yield site


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    with unharmed(serving):
        yield serving


def test_ordinary_clients_are_served_in_the_storm(
    site: Site, dice: random.Random, tell: Tell
) -> None:
    seeds = [dice.randrange(2**32) for _ in range(6)]
    rounds = scale(15, 300)
    served: list[int] = []

    def ordinary(number: int) -> None:
        peer = site.connect(implicit=True).log_in() if number % 2 else site.log_in()
        while crowd.going:
            content = bytes(random.Random(number).randbytes(20_000))
            peer.stor(f"ordinary{number}", content)
            assert peer.retr(f"ordinary{number}") == content
            served.append(number)
            time.sleep(0.02)  # each transfer takes one of the machine's ports for a minute
            if len(served) >= 10 and all(not attacker for attacker in attacking):
                return
        peer.close()

    def attacker(seed: int, place: int) -> None:
        rng = random.Random(seed)
        for _ in range(rounds):
            attack(site, rng)
        attacking[place] = False

    attacking = [True] * len(seeds)
    with Crowd() as crowd:
        for number in range(3):
            crowd.start(ordinary, number)
        for place, seed in enumerate(seeds):
            crowd.start(attacker, seed, place)
        crowd.wait()
    peer = site.log_in()
    assert b"attacked" not in peer.fetch("NLST").split()
    for name in ("ordinary0", "ordinary1", "ordinary2"):
        peer.ask(f"DELE {name}")
    peer.ask("DELE attacked")
    tell(attacks=rounds * len(seeds), served=len(served))


def attack(site: Site, rng: random.Random) -> None:
    """One client that breaks off in the middle of something; it publishes nothing."""
    peer = site.log_in() if rng.random() < 0.7 else site.connect().secure().log_in()
    with contextlib.suppress(OSError, EOFError, AssertionError):
        data = peer.open(rng.choice(["RETR big", "STOR attacked", "APPE attacked", "MLSD"]))
        data.settimeout(0.3)
        what = rng.randrange(5)
        if what == 0:
            data.sendall(rng.randbytes(rng.randrange(1, 200_000)))
        elif what == 1:
            data.recv(rng.randrange(1, 100_000))
        elif what == 2:
            peer.send(*rng.choices(["ABOR", "NOOP", "STAT", "LIST", "PASV"], k=20))
        elif what == 3:
            peer.sock.sendall(rng.randbytes(500))
        if rng.random() < 0.5:
            peer.vanish(data)
        else:
            reset(peer.sock)
            reset(data)
        return
    hang_up(peer.sock)
