"""The helper thread, and the pipe to a file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from forkd.client.beside import Beside
from forkd.client.pipe import Pipe


def test_one_action_at_a_time_on_one_thread() -> None:
    threads: list[int] = []
    with Beside() as beside:
        assert beside.idle
        for _ in range(20):
            beside.begin(lambda: threads.append(threading.get_ident()))
        beside.wait()
        assert len(threads) == 20
    assert set(threads) & {threading.get_ident()} == set()
    assert len(set(threads)) == 1


def test_it_is_busy_until_the_action_is_over() -> None:
    go = threading.Event()
    with Beside() as beside:
        beside.begin(lambda: _wait(go))
        assert not beside.idle
        go.set()
        beside.wait()
        assert beside.idle


def _wait(event: threading.Event) -> None:
    assert event.wait(20)


def _fail() -> None:
    raise OSError("no")


def test_what_an_action_raises_is_raised_once() -> None:
    with Beside() as beside:
        beside.begin(_fail)
        with pytest.raises(OSError, match="no"):
            beside.wait()
        beside.wait()
    with pytest.raises(OSError, match="no"), Beside() as beside:
        beside.begin(_fail)


def test_an_error_of_ours_comes_before_one_of_the_action() -> None:
    def both_fail() -> None:
        with Beside() as beside:
            beside.begin(_fail)
            raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        both_fail()


def test_its_thread_ends() -> None:
    before = threading.active_count()
    beside = Beside()
    beside.close()
    beside.begin(lambda: None)
    beside.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("flags", [0, os.O_APPEND])  # splice(2) refuses to append
def test_a_pipe_is_emptied_into_a_file(tmp_path: Path, flags: int) -> None:
    data = os.urandom(60_000)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT | flags)
    pipe = Pipe()
    try:
        for begin in range(0, len(data), 20_000):
            assert os.write(pipe.into, data[begin : begin + 20_000]) == 20_000
            pipe.empty(fd, begin, 20_000)
    finally:
        pipe.close()
        os.close(fd)
    assert (tmp_path / "f").read_bytes() == data
