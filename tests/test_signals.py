from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from forkd.supervisor.signals import SignalPipe

NUMBERS = (signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def pipe() -> Iterator[SignalPipe]:
    pipe = SignalPipe(NUMBERS)
    yield pipe
    pipe.let_go()
    pipe.close()


def test_signals_become_readable(pipe: SignalPipe) -> None:
    assert pipe.read() == []
    os.kill(os.getpid(), signal.SIGUSR2)
    assert pipe.read() == [signal.SIGUSR2]


def test_what_came_before_the_hold_waits_as_what_comes_after_it(pipe: SignalPipe) -> None:
    """Pending signals live on over exec, what is in the pipe does not."""
    os.kill(os.getpid(), signal.SIGUSR1)
    pipe.hold()
    signal.raise_signal(signal.SIGUSR2)
    assert pipe.read() == []
    assert signal.sigpending() == set(NUMBERS)
    pipe.let_go()
    assert set(pipe.read()) == set(NUMBERS)
