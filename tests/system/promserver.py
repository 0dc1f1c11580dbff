"""A real Prometheus beside a test's daemon, asked over its HTTP API."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import free_port, wait_for

Labels = dict[str, str]


class Prometheus:
    """It scrapes each second; `instance` is what it calls the daemon."""

    instance = "files.example:9367"

    def __init__(self, folder: Path, target_port: int, rules: Path) -> None:
        self.port = free_port()
        self.log = folder / "prometheus.log"
        config = folder / "prometheus.yml"
        target = f"targets: ['127.0.0.1:{target_port}'], labels: {{instance: '{self.instance}'}}"
        config.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: ['{rules}']\n"
            "scrape_configs:\n"
            f"  - job_name: forkd\n    static_configs: [{{{target}}}]\n"
        )
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("prometheus is not installed")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of /api/v1."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def vector(self, expr: str) -> list[tuple[Labels, float]]:
        """What an expression is now, series by series."""
        result = self.ask("query", query=expr)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def value(self, expr: str) -> float | None:
        """Of an expression with one series at most; None while it has none."""
        found = self.vector(expr)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def scraped(self, count: int = 1) -> None:
        """Wait for so many scrapes from now on."""
        before = self.value("count_over_time(up[1h])") or 0
        wait_for(lambda: (self.value("count_over_time(up[1h])") or 0) >= before + count, 60)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return bool(self.vector("up == 1"))
        return False


@contextlib.contextmanager
def watching(folder: Path, target_port: int, rules: Path) -> Iterator[Prometheus]:
    """A Prometheus that has seen the daemon; skips the test where there is none."""
    prometheus = Prometheus(folder, target_port, rules)
    try:
        wait_for(prometheus.ready, 60)
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(30)
