"""The dashboard, the rules and docs/metrics.md speak of metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from forkd.config import Log as LogSettings
from forkd.helpers.metrics import BoardCollector
from forkd.ledger.file import AccountCell
from forkd.log import open_log
from forkd.scoreboard import MASTER_ROW, Scoreboard

REPOSITORY = Path(__file__).parent.parent
DASHBOARD = REPOSITORY / "deploy/grafana/forkd.json"
PROMETHEUS = REPOSITORY / "deploy/prometheus"
METRIC = re.compile(r"(?<![:\w])forkd_\w+")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every sample's name of a scrape -> the labels it has."""
    board = Scoreboard.create(str(tmp_path_factory.mktemp("board") / "board"))
    for row in board.rows[MASTER_ROW : MASTER_ROW + 2]:
        row.take_seat(1, 1, 1)
        row.set("beat_ns", 1)
    accounts = [AccountCell(1, "alice", 1, 2, 0)]
    collector = BoardCollector(board, lambda: accounts, lambda: 0, 5, open_log(LogSettings()))
    return {
        sample.name: set(sample.labels)
        for family in collector.collect()
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def targets(dashboard: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(panel, expression, legend)."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def test_the_page_lists_all_metrics_with_their_labels(metrics: dict[str, set[str]]) -> None:
    text = (REPOSITORY / "docs/metrics.md").read_text()
    listed = {}
    for name, labels in re.findall(r"^\| `(forkd_\w+)(?:\{(.*?)\})?` \|", text, re.MULTILINE):
        assert name not in listed
        listed[name] = set(labels.split(", ")) if labels else set()
    scraped = {}
    for name, labels in metrics.items():
        if name.endswith("_bucket"):
            scraped[name.removesuffix("_bucket")] = labels - {"le"}
        elif name.removesuffix("_sum").removesuffix("_count") + "_bucket" not in metrics:
            scraped[name] = labels
    assert listed == scraped


def test_every_expression_names_metrics_that_there_are(
    dashboard: dict[str, Any], metrics: dict[str, set[str]]
) -> None:
    rules = (PROMETHEUS / "forkd.rules.yml").read_text()
    named = {name for _, expr, _ in targets(dashboard) for name in METRIC.findall(expr)}
    assert named <= metrics.keys()
    assert set(METRIC.findall(rules)) <= metrics.keys()
    assert len(named) > 20


def test_every_panel_heeds_the_variables(dashboard: dict[str, Any]) -> None:
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    for title, expr, _ in targets(dashboard):
        selectors = METRIC.findall(expr)
        assert expr.count('{job=~"$job", instance=~"$instance"') == len(selectors), title
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"].endswith("."), panel["title"]


def test_no_panel_lies_on_another(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
        assert one["x"] + one["w"] <= 24


@pytest.mark.parametrize(
    "check",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "forkd.rules.yml"),
        ("test", "rules", "forkd.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(check: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    ran = subprocess.run(
        [promtool, *check], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "SUCCESS" in ran.stdout


def test_every_rule_has_a_case_of_its_own() -> None:
    """Alerts twice at least: where all is well, and where they fire."""
    rules = (PROMETHEUS / "forkd.rules.yml").read_text()
    cases = (PROMETHEUS / "forkd.test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == rules.count("severity: ")
    for alert in alerts:
        assert cases.count(f"alertname: {alert}\n") >= 3, alert
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", cases), alert
    for record in re.findall(r"- record: (\S+)", rules):
        assert f"- expr: {record}\n" in cases
