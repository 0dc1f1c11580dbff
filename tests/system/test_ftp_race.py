"""The quota under a race over FTP and the native door at once: not a byte too many on the disk."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from crowd import Crowd
from disk import Sampler, leases
from ftppeer import Site, serving_ftp
from racer import LIMIT, MIB, NAMES, Racer, content_of, use_the_last_byte
from rig import QUICK, wait_for
from torture import Tell, scale

pytestmark = pytest.mark.torture

CLIENTS = scale(24, 64)
"""Half of them at each door."""


class FtpRacer:
    """One FTP client; `outcomes` counts replies to uploads, of which 226 and 552 alone are right.

    It overwrites and removes files that all clients have, and goes on with uploads to a name of its
    own: what is interrupted and what is appended to count towards the quota too.
    """

    def __init__(self, site: Site, number: int, seed: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._site, self._own = site, f"own{number}"

    def log_in(self) -> None:
        self._ftp = self._site.log_in()

    def race(self, rounds: int) -> None:
        for _ in range(rounds):
            name = f"n{self._dice.randrange(NAMES)}"
            self._dice.choice((self._store, self._announce, self._go_on))(name)

    def _store(self, name: str) -> None:
        self._take_note(self._ftp.store(f"STOR {name}", self._content(5 * MIB)), name)

    def _announce(self, name: str) -> None:
        content = self._content(5 * MIB)
        answer = self._ftp.ask(f"ALLO {len(content)}")
        if answer.startswith("2"):
            answer = self._ftp.store(f"STOR {name}", content)
        self._take_note(answer, name)

    def _go_on(self, name: str) -> None:
        """STOR that is broken off, the rest of it by APPE, one more APPE, and DELE."""
        self._break_off()
        for _ in range(2):
            answer = self._ftp.store(f"APPE {self._own}", self._content(2 * MIB))
            self._take_note(answer, name)
        assert self._ftp.ask(f"DELE {self._own}")[:3] in ("250", "550")

    def _break_off(self) -> None:
        data = self._ftp.passive()
        self._ftp.send(f"STOR {self._own}")
        answer = self._ftp.reply()
        if answer.startswith("150"):
            data.sendall(self._content(MIB))
            self._ftp.send("ABOR")
            answer = self._ftp.reply()
            assert self._ftp.reply()[:3] in ("225", "226")
        data.close()
        if answer[:3] == "426":
            self.outcomes["broken off"] += 1
        else:
            self._take_note(answer, self._own)

    def _take_note(self, answer: str, name: str) -> None:
        self.outcomes[answer[:3]] += 1
        assert answer[:3] in ("226", "552"), answer
        if answer.startswith("552") and self._dice.random() < 0.3:
            assert self._ftp.ask(f"DELE {name}")[:3] in ("250", "550")

    def _content(self, most: int) -> bytes:
        size = self._dice.randrange(most)
        return content_of(self._dice, size)[:size]


def test_no_race_over_both_doors_gets_a_byte_beyond_the_quota(
    folder: Path, dice: random.Random, tell: Tell
) -> None:
    with serving_ftp(folder, *QUICK, server={"workers": "4"}) as site:
        daemon = site.daemon
        assert daemon.ctl("user", "set", "alice", "--quota", str(LIMIT)).returncode == 0
        native = [Racer(daemon, dice.random()) for _ in range(CLIENTS // 2)]
        ftp = [FtpRacer(site, number, dice.random()) for number in range(CLIENTS // 2)]
        with Crowd() as crowd:
            for racer in (*native, *ftp):
                crowd.start(racer.log_in)
        with Sampler(daemon) as sampler, Crowd() as crowd:
            for racer in native:
                crowd.start(racer.race, scale(10, 60))
            for racer in ftp:
                crowd.start(racer.race, scale(10, 60))
        over_native = sum((racer.outcomes for racer in native), Counter())
        over_ftp = sum((racer.outcomes for racer in ftp), Counter())
        told = {f"ftp_{key}": value for key, value in over_ftp.items()}
        tell(**over_native, **told, samples=sampler.samples, most_bytes=sampler.most, limit=LIMIT)
        assert over_native["ok"]
        assert over_native["quota"]
        assert over_ftp["226"]
        assert over_ftp["552"]
        assert LIMIT // 2 < sampler.most <= LIMIT
        site.hang_up()
        wait_for(lambda: not leases(daemon))
        use_the_last_byte(daemon)
