"""deploy/prometheus and deploy/grafana: rules and dashboards name metrics that exist, and each rule can fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.service.homeassistant import STATES
from pipeline.telemetry import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "thrumcast.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "thrumcast.json"
LABELS = {f"thrumcast_{metric.name}": {*metric.labels, "instance", "job", "le"} for metric in METRICS}


def expressions() -> list[str]:
    rules = re.findall(r"expr: (.*)", RULES.read_text(encoding="utf-8"))
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    used = re.findall(r"(thrumcast_\w+)(?:\{([^}]*)\})?", expression)
    assert used or expression.startswith("up{")
    for name, selector in used:
        metric = name.removesuffix("_bucket")
        assert metric in LABELS
        assert set(re.findall(r"(\w+)(?:=|!=|=~)", selector)) <= LABELS[metric]
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        known = set().union(*(LABELS[name.removesuffix("_bucket")] for name, _ in used))
        assert set(labels.split(", ")) <= known
    for states in re.findall(r'state=~?"([^"]*)"', expression):
        assert set(states.split("|")) <= set(STATES)


def test_every_rule_says_what_to_do_and_is_tested_in_health_and_in_trouble() -> None:
    text = RULES.read_text(encoding="utf-8")
    names = re.findall(r"alert: (\w+)", text)
    assert text.count("action: ") == text.count("summary: ") == len(names) > 8
    tests = RULES.with_name("thrumcast.test.yml").read_text(encoding="utf-8")
    for name in names:
        assert f"alertname: {name}}}" in tests
        assert f'alertname="{name}"' in tests


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "thrumcast.test.yml")], ids=lambda a: a[0]
)
def test_promtool_accepts_the_configuration_and_the_rules_pass_their_test(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_reads_the_data_source_that_is_provisioned_and_its_panels_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    source = (DEPLOY / "grafana" / "provisioning" / "datasources" / "thrumcast.yml").read_text(encoding="utf-8")
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"thrumcast"}
    assert "uid: thrumcast\n" in source
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
