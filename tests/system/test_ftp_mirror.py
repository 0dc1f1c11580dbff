"""lftp mirrors over reloads: they end without one failed transfer."""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from crowd import Crowd
from ftpclients import LFTP_CLEAR, LFTP_TLS, digests, lftp_script, needs
from ftppeer import Site, serving_ftp
from torture import Tell, scale

pytestmark = [pytest.mark.torture, needs("lftp")]

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 240.0
FAILED = {"425", "426", "450", "451", "452", "522", "530", "551", "552", "553"}
"""Replies to transfers, each of which would be a fault here."""
SECONDS = 15
"""That a mirror takes at least: sessions in the middle of their commands are told after ten."""


def plant(folder: Path, files: int, dice: random.Random) -> Path:
    """Files from nothing to some MiB, in some folders."""
    for number in range(files):
        size = dice.choice((0, 1, 3 * KIB, 50 * KIB, 200 * KIB))
        size = 2 * MIB + number if number % 50 == 1 else size
        path = folder / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(size))
    return folder


class Mirror:
    """lftp that mirrors a tree again and again, each time to a new place, over four sessions.

    `replies` counts by code what it was told, in all of its sessions.
    """

    def __init__(self, site: Site, direction: str, settings: str, local: Path, tree: Path) -> None:
        self.rounds = 0
        self.replies: Counter[str] = Counter()
        self._site, self._up, self._settings = site, direction == "up", settings
        self._local, self._tree = local, tree
        local.mkdir()
        self._expected = digests(tree)
        size = sum(path.stat().st_size for path in tree.rglob("f*"))
        self._settings += f"set net:limit-total-rate {size // SECONDS}; "
        self._log = local / "replies"
        self._lftp: subprocess.Popen[str] | None = None

    def run_until(self, crowd: Crowd) -> None:
        while crowd.going:
            self._run()
            self.rounds += 1

    def _run(self) -> None:
        there = f"{self._local.name}{self.rounds}"
        if self._up:
            verb, target = f"mirror -R --parallel=4 {self._tree} {there}", self._home / there
        else:
            target = self._local / there
            verb = f"mirror --parallel=4 {self._tree.name} {target}"
        debug = f"debug -o {self._log} 9; "
        script = lftp_script(self._site, "alice", debug + self._settings, verb, usual=True)
        with subprocess.Popen(
            ["lftp", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as self._lftp:
            told, _ = self._lftp.communicate(timeout=PATIENCE)
        assert (self._lftp.returncode, told) == (0, "")
        assert digests(target) == self._expected
        self._read_replies()

    def end(self) -> None:
        """Whatever it does."""
        if self._lftp is not None:
            self._lftp.kill()

    @property
    def _home(self) -> Path:
        return self._site.daemon.home()

    def _read_replies(self) -> None:
        log = self._log.read_text()
        self.replies += Counter(re.findall(r"^<--- (\d{3}) ", log, re.MULTILINE))
        lines = [line for line in log.splitlines() if line[5:8] in FAILED]
        assert not lines, lines
        with suppress(FileNotFoundError):
            self._log.unlink()


def test_mirrors_outlive_reloads(
    folder: Path, tmp_path: Path, dice: random.Random, tell: Tell
) -> None:
    """Up and down, in clear and under TLS, all at once."""
    reloads, files = scale(3, 10), scale(100, 300)
    with serving_ftp(folder, ftp={"data_session": '"require"'}) as site:
        trees = {
            "up": plant(tmp_path / "tree", files, dice),
            "down": plant(site.daemon.home() / "tree", files, dice),
        }
        mirrors = [
            Mirror(site, direction, secure, tmp_path / f"{direction}-{way}", tree)
            for way, secure in (("clear", LFTP_CLEAR), ("tls", LFTP_TLS))
            for direction, tree in trees.items()
        ]
        with ExitStack() as ends, Crowd() as crowd:
            for mirror in mirrors:
                ends.callback(mirror.end)
                crowd.start(mirror.run_until, crowd)
            for _ in range(reloads):
                crowd.check()
                result = site.daemon.ctl("reload")
                assert result.returncode == 0, result.stderr
        replies = sum((mirror.replies for mirror in mirrors), Counter())
        outcomes = Counter(
            str(event["outcome"]) for event in site.daemon.events() if event["event"] == "transfer"
        )
        tell(
            reloads=reloads,
            mirrors=sum(mirror.rounds for mirror in mirrors),
            told_226=replies["226"],
            told_421=replies["421"],
            **{f"outcome_{key}": value for key, value in outcomes.items()},
        )
        assert replies["421"], "no mirror met a reload"
        assert set(outcomes) == {"ok"}
        assert not [e for e in site.daemon.events() if e["event"] == "session-failed"]
