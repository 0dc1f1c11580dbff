"""What every transfer has in common."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

from forkd.doors.ftp.transfer import Transfer
from forkd.serving.session import Outcome, Park


class Waiting(Transfer):
    def move(self) -> Outcome | None:
        return self.wait()

    def give_up(self, outcome: str) -> None:
        pass


def test_a_slow_reader_of_what_is_held_for_him_has_new_time_with_every_byte() -> None:
    core = SimpleNamespace(
        config=SimpleNamespace(limits=SimpleNamespace(stall_timeout=100.0)),
        watch=lambda *_: None,
    )
    talk = SimpleNamespace(say=lambda *_: None, full=False)
    context: Any = SimpleNamespace(data=SimpleNamespace(ready=True), core=core, talk=talk)
    transfer = Waiting(context, "")
    with socket.socket() as sock:
        transport: Any = SimpleNamespace(sock=sock, wants=0, unsent=1000)
        transfer.transport = transport
        transfer.wait()
        transfer._deadline = time.monotonic() + 1.0
        outcome = transfer.wait()
        assert isinstance(outcome, Park)
        assert outcome.patience <= 1.0
        transport.unsent = 999
        outcome = transfer.wait()
        assert isinstance(outcome, Park)
        assert outcome.patience > 90.0
