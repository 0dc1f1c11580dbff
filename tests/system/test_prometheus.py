"""Dashboard and rules with a real Prometheus, a real daemon and real traffic.

Every expression must answer with data and with the labels that its legend or annotation shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ftppeer import Site, serving_ftp
from peer import RefusedError, noise
from promserver import Prometheus, watching
from rig import wait_for

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/forkd.rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/forkd.json").read_text())
KIB, MIB = 1 << 10, 1 << 20
COMPARED = re.compile(r"^(?P<part>.*) (?:==|>) [\d.]+$", re.DOTALL)
"""An alert's expression: what is measured, and when that is too much."""

SETTINGS: dict[str, dict[str, str]] = {
    "limits": {"stall_timeout": '"2s"', "login_timeout": '"2s"', "ban_after": "3"},
    "hooks.note": {"exec": '["/bin/true"]', "events": '["published"]'},
}


@dataclass(frozen=True)
class Scene:
    """What is asked of after the traffic."""

    site: Site
    prometheus: Prometheus


def refused(call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(RefusedError) as refusal:
        call(*args, **more)
    return refusal.value.code


def native_traffic(site: Site) -> None:
    daemon = site.daemon
    alice = daemon.log_in()
    for number in range(4):
        alice.put(f"f{number}", noise(KIB << 2 * number))
        alice.get(f"f{number}")
    assert refused(alice.get, "none") == "not-found"
    assert refused(alice.ask, {"op": "mkdir", "path": "../x"}) == "outside"
    full = daemon.log_in("full", (daemon.host, daemon.port))
    full.put("most", noise(95 * KIB))
    assert refused(full.put, "more", noise(10 * KIB)) == "quota"
    daemon.log_in().begin("stalls", MIB, tag="t")
    daemon.connect()  # never logs in


def ftp_traffic(site: Site) -> None:
    client = site.log_in()
    client.stor("by-ftp", noise(100 * KIB))
    assert len(client.retr("by-ftp")) == 100 * KIB
    assert client.ask("SIZE none").startswith("550")


def guess_passwords(site: Site) -> None:
    """Until the address is banned; who is logged in already goes on."""
    for _ in range(3):
        stranger = site.daemon.connect((site.daemon.host, site.daemon.port))
        assert refused(stranger.login, "alice", "wrong") == "auth-failed"


def change_the_daemon(site: Site) -> None:
    daemon = site.daemon
    assert daemon.ctl("reload").returncode == 0
    daemon.configure("limits", typo="1")
    assert daemon.ctl("reload").returncode == 1
    victim = daemon.workers()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in {w["pid"] for w in daemon.workers()})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("seen")
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(serving_ftp(folder, **SETTINGS))
        daemon = site.daemon
        daemon.add_user("full", "--quota", "100 KiB")
        prometheus = stack.enter_context(watching(folder, daemon.metrics_port, RULES))
        prometheus.scraped(2)  # a rate needs to have seen the counters before
        native_traffic(site)
        ftp_traffic(site)
        guess_passwords(site)
        wait_for(lambda: daemon.metrics()['forkd_timeouts_total{phase="transfer"}'] == 1, 60)
        wait_for(lambda: daemon.metrics()['forkd_timeouts_total{phase="login"}'] >= 1, 60)
        change_the_daemon(site)
        prometheus.scraped(3)
        yield Scene(site, prometheus)


PANELS = [
    pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']}-{target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


def filled(expr: str) -> str:
    """As Grafana fills in the variables where all is chosen."""
    for variable, value in (("$__rate_interval", "10m"), ("$job", ".*"), ("$instance", ".*")):
        expr = expr.replace(variable, value)
    assert "$" not in expr
    return expr


def shown(text: str) -> set[str]:
    """The labels that a legend or an annotation shows."""
    return set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))


def assert_answered(prometheus: Prometheus, expr: str, labels: set[str]) -> None:
    found = prometheus.vector(expr)
    assert found
    for series, _ in found:
        assert labels <= series.keys()
    assert any(value == value for _, value in found), "nothing but NaN"


@pytest.mark.parametrize(("expr", "legend"), PANELS)
def test_every_panel_shows_something(scene: Scene, expr: str, legend: str) -> None:
    assert_answered(scene.prometheus, filled(expr), shown(legend))


def test_the_variables_and_the_annotation(scene: Scene) -> None:
    ask = scene.prometheus.ask
    for variable in DASHBOARD["templating"]["list"][1:]:
        match, label = re.fullmatch(
            r"label_values\((.*), (\w+)\)", variable["query"]["query"]
        ).groups()  # type: ignore[union-attr]
        found = ask(f"label/{label}/values", **{"match[]": filled(match)})
        assert found == ["forkd" if label == "job" else Prometheus.instance]
    (annotation,) = DASHBOARD["annotations"]["list"]
    expr = filled(annotation["expr"]).replace("[1m]", "[10m]")
    assert_answered(scene.prometheus, expr, shown(annotation["textFormat"]))


def rules(prometheus: Prometheus, kind: str) -> list[dict[str, Any]]:
    groups = prometheus.ask("rules", type=kind)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_recording_rule_records(scene: Scene) -> None:
    recorded = rules(scene.prometheus, "record")
    assert len(recorded) == RULES.read_text().count("- record:")
    for rule in recorded:
        assert rule["health"] == "ok", rule
        assert_answered(scene.prometheus, rule["query"], {"instance"})
        assert_answered(scene.prometheus, rule["name"], {"instance"})


def test_every_alert_watches_something(scene: Scene) -> None:
    """What it compares is there, also where it does not fire."""
    alerts = rules(scene.prometheus, "alert")
    assert len(alerts) == RULES.read_text().count("- alert:")
    for rule in alerts:
        assert rule["health"] == "ok", rule
        compared = COMPARED.match(rule["query"])
        assert compared, rule["query"]
        labels = shown(" ".join(rule["annotations"].values()))
        assert_answered(scene.prometheus, compared["part"], labels | {"instance"})


def test_alerts_tell_of_what_happened_and_of_nothing_else(scene: Scene) -> None:
    raised = {
        rule["name"]: rule["alerts"][0]["labels"]
        for rule in rules(scene.prometheus, "alert")
        if rule["alerts"]
    }
    assert "ForkdReloadFailed" in raised
    assert raised["ForkdQuotaNearlyFull"]["user"] == "full"
    # of a dozen transfers one stalled and one was refused
    assert raised.keys() <= {"ForkdReloadFailed", "ForkdQuotaNearlyFull", "ForkdTransfersFail"}


def test_the_figures_are_what_was_done(scene: Scene) -> None:
    value = scene.prometheus.value
    assert value('forkd_timeouts_total{phase="transfer"}') == 1
    assert value('forkd_logins_total{outcome="failed"}') == 3
    assert value("forkd_bans_in_force") == 1
    assert value("forkd_worker_restarts_total") == 1
    assert value('forkd_reloads_total{outcome="failed"}') == 1
    assert value('forkd_transfer_bytes_total{protocol="ftp",direction="down"}') == 100 * KIB
    assert value('forkd_refusals_total{reason="quota"}') == 1
    assert value("forkd_commit_duration_seconds_count") >= 6
    assert value('instance_user:forkd_quota_used:ratio{user="full"}') == 0.95


def test_a_stopped_daemon_is_down(scene: Scene) -> None:
    """The last of this module: nothing is there afterwards."""
    assert scene.site.daemon.stop() == 0
    wait_for(lambda: scene.prometheus.value('up{job="forkd"}') == 0, 60)
    down = {"alertname": "ForkdDown", "instance": Prometheus.instance}

    def pending() -> bool:
        alerts = scene.prometheus.ask("alerts")["alerts"]
        return any(down.items() <= alert["labels"].items() for alert in alerts)

    wait_for(pending)
