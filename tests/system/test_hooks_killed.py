"""Hooks while everything around them is killed: nothing is missed, nothing is made up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import Peer, RefusedError
from rig import PASSWORD, Daemon, wait_for
from torture import Tell, scale

BATCH = 40
USERS = ("alice", "bob")

RECORD = """#!/bin/sh
IFS= read -r line || exit 5
printf '%s\\n' "$line" >> {folder}/told
"""


class Client(threading.Thread):
    """Puts small files in batches, each name once, and moves and removes some of them.

    It begins a batch when it is allowed one, and is `idle` until then.  What is acknowledged is in
    `put`, `moved` and `removed`; nothing is tried twice.
    """

    def __init__(self, daemon: Daemon, user: str, go_on: threading.Event) -> None:
        super().__init__(daemon=True)
        self.idle = False
        self.allowed = threading.Semaphore(0)
        self.user = user
        self.put: set[str] = set()
        self.moved: set[str] = set()
        self.removed: set[str] = set()
        self.asked = 0
        self._daemon = daemon
        self._go_on = go_on

    def run(self) -> None:
        while self._go_on.is_set():
            with contextlib.suppress(OSError, EOFError, RefusedError):
                peer = Peer(self._daemon.unix_path, 20)
                try:
                    peer.login(self.user, PASSWORD)
                    while self._go_on.is_set():
                        self.idle = True
                        if self.allowed.acquire(timeout=0.1):
                            self.idle = False
                            self._batch(peer)
                finally:
                    peer.close()
            time.sleep(0.02)

    def _batch(self, peer: Peer) -> None:
        names = [f"f{self.asked + i}" for i in range(BATCH)]
        self.asked += BATCH
        self._each(peer, names, self.put, lambda n: ({"op": "put", "path": n, "size": 1}, b"x"))
        some = names[::4]
        self._each(peer, some, self.moved, lambda n: ({"op": "move", "path": n, "to": f"m{n}"},))
        self._each(peer, some[::2], self.removed, lambda n: ({"op": "remove", "path": f"m{n}"},))

    def _each(
        self, peer: Peer, names: list[str], done: set[str], request: Callable[[str], Any]
    ) -> None:
        """Ask for all, then read the answers."""
        idents = [(peer.request(*request(name)), name) for name in names]
        for ident, name in idents:
            peer.answer(ident)
            done.add(name)


class Trial:
    """A daemon with a hook, clients at work, and what became of it all."""

    def __init__(self, start: Callable[..., Daemon], folder: Path) -> None:
        self.told_to = folder / "told"
        self.told_to.touch()
        program = folder / "record"
        program.write_text(RECORD.format(folder=folder))
        program.chmod(0o755)
        self.daemon = start(
            **{
                "server": {"workers": "2"},
                "hooks.record": {"exec": f'["{program}"]'},
                "log": {"level": '"error"'},
            }
        )
        self.daemon.add_user("bob")
        self._go_on = threading.Event()
        self._go_on.set()
        self.clients = [Client(self.daemon, user, self._go_on) for user in USERS]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        for client in self.clients:
            client.start()
        try:
            yield
        finally:
            self._go_on.clear()
            for client in self.clients:
                client.join(60)

    @property
    def acknowledged(self) -> int:
        return sum(len(c.put) + len(c.moved) + len(c.removed) for c in self.clients)

    def wait_for_work(self, changes: int) -> None:
        """Let the clients work until so many more changes were acknowledged; the hook is slower."""
        target = self.acknowledged + changes

        def done() -> bool:
            for client in self.clients:
                if client.idle:
                    client.idle = False
                    client.allowed.release()
            return self.acknowledged >= target

        wait_for(done, 120, every=0.001)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.told_to.read_text().splitlines()]

    def wait_until_all_is_told(self) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.daemon.workers()) == 2, 60)
        wait_for(
            lambda: (
                not [
                    name
                    for name in os.listdir(self.daemon.state / "events")
                    if name.endswith(".ended")
                ]
            ),
            600,
        )
        wait_for(lambda: self.daemon.metrics()["forkd_hook_backlog_bytes"] == 0, 600)
        return self.told()

    def judge(self) -> dict[str, int]:
        """What was told against what was acknowledged and what is on the disk."""
        told = self.wait_until_all_is_told()
        for client in self.clients:
            self._judge(client, [event for event in told if event["user"] == client.user])
        return {
            "acknowledged": self.acknowledged,
            "told": len({event["id"] for event in told}),
            "told_twice": len(told) - len({event["id"] for event in told}),
        }

    def _judge(self, client: Client, told: list[dict[str, Any]]) -> None:
        ids: dict[tuple[str, str], set[str]] = {}
        for event in told:
            ids.setdefault((event["event"], event["path"].strip("/")), set()).add(event["id"])
        assert all(len(each) == 1 for each in ids.values()), "one change has two ids"
        assert len({event["id"] for event in told}) == len(ids), "one id for two changes"
        published = {path for kind, path in ids if kind == "published"}
        moved = {path for kind, path in ids if kind == "renamed"}
        removed = {path for kind, path in ids if kind == "removed"}
        assert client.put <= published
        assert {f"m{name}" for name in client.moved} <= moved
        assert {f"m{name}" for name in client.removed} <= removed
        # of what was never acknowledged, the disk tells what became of it
        there = set(os.listdir(self.daemon.home(client.user)))
        assert there == (published - {path[1:] for path in moved}) | (moved - removed)
        assert {path[1:] for path in moved} <= published
        assert removed <= moved
        self._judge_order(told)

    def _judge_order(self, told: list[dict[str, Any]]) -> None:
        """The first time that each is told, the three changes of a file come in their order."""
        stages = {"published": 0, "renamed": 1, "removed": 2}
        seen: dict[str, int] = {}
        heard: set[str] = set()
        for event in told:
            if event["id"] not in heard:
                heard.add(event["id"])
                name = event["path"].strip("/").removeprefix("m")
                assert stages[event["event"]] == seen.get(name, -1) + 1, event
                seen[name] = stages[event["event"]]


@pytest.fixture
def trial(daemon_with: Callable[..., Daemon], folder: Path) -> Trial:
    return Trial(daemon_with, folder)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def helper(daemon: Daemon, role: str) -> int:
    """The pid of a helper that serves, 0 for none."""
    serving = [h for h in daemon.status()["helpers"] if h["role"] == role]
    return next((int(h["pid"]) for h in serving if h["state"] == "serving"), 0)


@pytest.mark.torture
def test_workers_and_dispatchers_are_killed(trial: Trial, tell: Tell) -> None:
    kills = 0
    daemon = trial.daemon
    dice = random.Random(20)
    with trial.at_work():
        for number in range(scale(10, 100)):
            trial.wait_for_work(dice.randrange(1, 80))
            if number % 3 == 2:
                kill(wait_for(lambda: helper(daemon, "dispatcher"), 60))
            else:
                workers = wait_for(daemon.workers, 60)
                kill(dice.choice(workers)["pid"])
            kills += 1
    tell(kills=kills, **trial.judge())


@pytest.mark.torture
def test_everything_is_killed(trial: Trial, tell: Tell) -> None:
    daemon = trial.daemon
    rounds = scale(2, 12)
    dice = random.Random(21)
    with trial.at_work():
        for _ in range(rounds):
            trial.wait_for_work(dice.randrange(1, 200))
            for pid in daemon.processes():
                kill(pid)
            assert daemon.process is not None
            daemon.process.wait(10)
            wait_for(lambda: not daemon.processes())
            daemon.start()
    tell(kills_of_all=rounds, **trial.judge())
