from __future__ import annotations

import os
from pathlib import Path

from forkd.config import Config
from forkd.scoreboard import Scoreboard
from forkd.supervisor.orders import Orders
from forkd.supervisor.vitals import EVERY, SAMPLES, Vitals, usage


def test_rates_are_of_the_last_samples(tmp_path: Path) -> None:
    board = Scoreboard.create(str(tmp_path / "board"))
    vitals = Vitals(board)
    assert vitals.rates() == (0.0, 0.0)
    for number in range(SAMPLES + 2):
        vitals.look(100 + number * EVERY, [])
        board.rows[1].add("bytes_total:native:up", 1000)
        board.rows[2].add("bytes_total:ftp:up", 1000)
        board.rows[3].add("bytes_total:ftp:down", 500)
    assert vitals.rates() == (2000 / EVERY, 500 / EVERY)
    vitals.look(100 + (SAMPLES + 1) * EVERY + EVERY / 2, [])  # too early: no sample
    assert vitals.rates() == (2000 / EVERY, 500 / EVERY)
    assert (vitals.moved("up"), vitals.moved("down")) == (2000 * 5, 500 * 5)


def test_processor_time_is_of_processes_that_were_seen_twice(tmp_path: Path) -> None:
    vitals = Vitals(Scoreboard.create(str(tmp_path / "board")))
    vitals.look(1.0, [os.getpid()])
    assert vitals.cpu_percent(os.getpid()) is None
    before = usage(os.getpid())[0]
    while usage(os.getpid())[0] < before + 0.05:
        pass
    vitals.look(1.0 + EVERY, [os.getpid()])
    used = vitals.cpu_percent(os.getpid())
    assert used is not None
    assert used >= 100 * 0.05 / EVERY - 1e-6
    assert vitals.cpu_percent(1 << 30) is None


def test_who_is_gone_uses_nothing() -> None:
    assert usage(1 << 30) == (0.0, 0)
    assert usage(os.getpid())[1] > 1 << 20


def test_a_level_holds_for_the_generations_there_are() -> None:
    orders, config = Orders(), Config()
    assert orders.config_for(1, config) is config
    orders.set_level("debug", 3)
    assert orders.config_for(3, config).log.level == "debug"
    assert orders.config_for(2, config).log.level == "debug"
    assert orders.config_for(4, config) is config
