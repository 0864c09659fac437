"""The Grafana board and the alert rules of config/: they are valid, they fire where they should, and they ask for metrics that exist."""

import json
import pathlib
import re
import shutil
import subprocess
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = HERE.parents[1] / "config"
METRIC = re.compile(r"\bqtrp_[a-z0-9_]+")


def promtool(*words, cwd=None):
    done = subprocess.run(["promtool", *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def board():
    return json.loads((CONFIG / "grafana-dashboard.json").read_text())


def expressions():
    return [target["expr"] for panel in board()["panels"] for target in panel["targets"]]


def test_the_alert_rules_are_valid_and_fire_where_they_should(tmp_path):
    promtool("check", "rules", CONFIG / "alerts.yml")
    for file in (CONFIG / "alerts.yml", HERE / "alerts_test.yml"):
        shutil.copy(file, tmp_path)
    promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    rules = {rule["alert"] for group in yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"] for rule in group["rules"]}
    tried = {test["alertname"] for case in yaml.safe_load((HERE / "alerts_test.yml").read_text())["tests"]
             for test in case["alert_rule_test"] if test.get("exp_alerts")}
    assert tried == rules


def test_the_boards_expressions_are_promql(tmp_path):
    """As recording rules, so that promtool parses them; Grafana's variables are filled in as it does."""
    filled = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in expressions()]
    assert len(filled) > 15
    rules = [{"record": f"board:{n}", "expr": text} for n, text in enumerate(filled)]
    (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "board.yml")


def test_the_boards_panels_do_not_overlap():
    taken = set()
    for panel in board()["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_both_ask_for_metrics_that_a_running_server_has(lab):
    server, client, port = lab.tunnel(lab.echo())
    with urllib.request.urlopen(f"http://127.0.0.1:{server.stats_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    there = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}
    assert len(there) > 20
    labels = {name for line in text.splitlines() for name in re.findall(r'[{,]([a-z_]+)="', line)} | {"instance", "job", "severity"}
    asked = set()
    for text in [*expressions(), (CONFIG / "alerts.yml").read_text().split("#", 1)[1]]:
        asked |= set(METRIC.findall(text))
        for names in re.findall(r"by \(([^)]*)\)", text):
            assert {name.strip() for name in names.split(",")} <= labels, names
    assert asked and asked <= there, asked - there
