"""Families that do not need a scrape; the rest of metrics.py is scraped in test_exporter."""

from __future__ import annotations

from pathlib import Path

from forkd.config import Log as LogSettings
from forkd.helpers.metrics import BoardCollector
from forkd.log import open_log
from forkd.scoreboard import Scoreboard


def test_a_protocol_without_a_door_has_no_series(tmp_path: Path) -> None:
    board = Scoreboard.create(str(tmp_path / "board"))
    log = open_log(LogSettings())
    collected = BoardCollector(board, list, int, 1, log).collect()
    protocols = [
        sample.labels["protocol"]
        for family in collected
        for sample in family.samples
        if "protocol" in sample.labels
    ]
    assert set(protocols) == {"native", "ftp"}
    assert len(protocols) == 12
