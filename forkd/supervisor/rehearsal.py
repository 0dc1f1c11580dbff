"""Whether this version could take over from the one that runs: all of it but the taking.

Rules
  1. It does what a start would do, in the same order, up to a worker that is ready.
  2. Nothing of the running daemon is touched: the worker has a slot lent to it and no listener.
  3. Files that old and new workers share must have one layout, the running one's.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import time

from forkd import __version__
from forkd.config import Config
from forkd.errors import StartError
from forkd.ledger import file as ledgerfile
from forkd.log import open_log
from forkd.messages import Drain, Ready, Unable
from forkd.scoreboard import Scoreboard
from forkd.seat import ChildSeat
from forkd.supervisor import preflight
from forkd.supervisor.estate import Estate
from forkd.supervisor.processes import ROOMS, Process, fork_child
from forkd.supervisor.reload import with_kept
from forkd.syscalls import die_with_parent
from forkd.title import set_title

WORKER_TIMEOUT = 10.0
"""Seconds a worker may take to get ready, or to leave."""


def rehearse(left: Estate) -> None:
    """Print what this version is, as JSON.  Raises StartError or ConfigError: it cannot."""
    set_title(f"trial of {__version__}")
    for room in ROOMS.values():
        importlib.import_module(room)
    config = _configured(left)
    open_log(config.log, process="trial").close()
    board = _same_layouts(config)
    importlib.import_module(ROOMS["prepare"]).prepare(config)
    _try_worker(config, board, left.trial)
    print(json.dumps({"version": __version__}), flush=True)


def _configured(left: Estate) -> Config:
    settings = left.settings
    if not settings.source:
        return with_kept(Config(), settings.kept)
    checked = preflight.check(settings.text, settings.source, preflight.flaws)
    return with_kept(checked.config, settings.kept)


def _same_layouts(config: Config) -> Scoreboard:
    """Raises StartError where a file that is in use is not understood, or would be made anew."""
    limitsfile = importlib.import_module("forkd.limits.file")
    ledger = os.path.join(config.server.state_dir, "ledger")
    scoreboard = os.path.join(config.server.runtime_dir, "scoreboard")
    board = Scoreboard.existing(scoreboard)
    differing = [
        path
        for path, same in (
            (scoreboard, board is not None),
            (ledger, ledgerfile.is_known(ledger)),
            (limitsfile.limits_path(config), limitsfile.is_known(config)),
        )
        if not same
    ]
    if differing or board is None:
        raise StartError(
            f"version {__version__} has another layout of {', '.join(differing)}, which is in "
            "use: restart forkd"
        )
    return board


def _try_worker(config: Config, board: Scoreboard, slot: int) -> None:
    """Raises StartError where it does not get ready."""
    process = fork_child(
        lambda link: ChildSeat("worker", slot, 0, 0, config, board, link, ()),
        lambda _seat: die_with_parent(),
    )
    try:
        _await_ready(process)
        process.link.send(Drain(0.0))
        if not select.select([process.pidfd], [], [], WORKER_TIMEOUT)[0]:
            raise StartError("a worker of it does not leave when it is told to")
    finally:
        process.kill()
        how = process.reap()
    if how != "status 0":
        raise StartError(f"a worker of it ended with {how}")


def _await_ready(process: Process) -> None:
    ends = time.monotonic() + WORKER_TIMEOUT
    while (left := ends - time.monotonic()) > 0:
        gone = select.select([process.link.fileno(), process.pidfd], [], [], left)[0]
        for message in process.link.receive():
            if isinstance(message, Ready):
                return
            if isinstance(message, Unable):
                raise StartError(f"a worker of it cannot start: {message.reason}")
        if process.pidfd in gone:
            raise StartError("a worker of it ended before it was ready")
    raise StartError(f"a worker of it was not ready after {WORKER_TIMEOUT:.0f} s")
