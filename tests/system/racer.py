"""Clients that race for the bytes of one account, and the check that its last byte is usable."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from disk import held_at_once
from peer import RefusedError
from rig import Daemon

from forkd.digest import digest_of

MIB = 1 << 20
LIMIT = 64 * MIB
NAMES = 20
"""Fewer than clients: they overwrite and remove each other's files."""


def content_of(dice: random.Random, size: int) -> bytes:
    return dice.randbytes(4096) * (size // 4096 + 1)


class Racer:
    """One client; `outcomes` counts codes, "ok" for what was stored."""

    def __init__(self, daemon: Daemon, seed: float) -> None:
        self.dice = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.slot = ""
        self._daemon = daemon

    def log_in(self) -> None:
        self._peer = self._daemon.log_in()
        self.slot = self._peer.hello["session"].split("-")[0]

    def race(self, rounds: int) -> None:
        """Put until the account is full, then make some room for the next one to fill."""
        for _ in range(rounds):
            name = f"n{self.dice.randrange(NAMES)}"
            try:
                self._put(name)
                self.outcomes["ok"] += 1
            except RefusedError as refused:
                self.outcomes[refused.code] += 1
                assert refused.code == "quota", refused  # noqa: PT017
                if self.dice.random() < 0.3:
                    self._make_room(name)

    def _put(self, name: str) -> None:
        how = self.dice.randrange(3)
        if how == 0:
            size = self.dice.randrange(MIB // 2)
            self._peer.put(name, content_of(self.dice, size)[:size])
            return
        size = self.dice.randrange(MIB, 6 * MIB)
        content, check = content_of(self.dice, size)[:size], how == 2
        client = str(self.dice.randrange(4))  # several clients may resume one partial
        declared = {"tag": f"{size}", "check": check, "client": client, "restart": True}
        ident, offer = self._peer.begin(name, size, **declared)
        if self.dice.random() < 0.1:  # what is left of it counts too
            self._peer.data(ident, content[:MIB])
            self._peer.data(ident, last=True, meta={"abort": True})
            self._aborted(ident)
            return
        for at in range(offer["offset"], size, MIB):
            self._peer.data(ident, content[at : min(at + MIB, size)])
        end = {"digest": digest_of(content)} if check else None
        self._peer.data(ident, last=True, meta=end)
        assert self._peer.answer(ident)[0]["size"] == size

    def _aborted(self, ident: int) -> None:
        with pytest.raises(RefusedError) as refused:
            self._peer.answer(ident)
        assert refused.value.code == "bad-request"

    def _make_room(self, name: str) -> None:
        try:
            self._peer.ask({"op": "remove", "path": name})
        except RefusedError as refused:
            assert refused.code == "not-found", refused  # noqa: PT017


def use_the_last_byte(daemon: Daemon) -> None:
    peer = daemon.log_in()
    used = held_at_once(daemon.home(), daemon.data / ".forkd")
    assert peer.ask({"op": "quota"})[0] == {"used": used, "limit": LIMIT}
    left = LIMIT - used
    if not left:
        left = peer.ask({"op": "stat", "path": "n0"})[0]["size"]
        peer.ask({"op": "remove", "path": "n0"})
    with pytest.raises(RefusedError) as refused:
        peer.begin("one too many", left + 1)
    assert refused.value.code == "quota"
    ident, _ = peer.begin("the rest", left)
    peer.data(ident, bytes(left), last=True)
    assert peer.answer(ident)[0]["size"] == left
    with pytest.raises(RefusedError):
        peer.put("a byte", b"x")
    assert held_at_once(daemon.home(), daemon.data / ".forkd") == LIMIT
    assert [account["drift"] for account in daemon.verify()] == [0]
