# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics that the playbooks write, and what the shipped alerts make of them, by promtool."""
from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest
from flows import Shop
from harness import ROOT, lab

RULES = ROOT / "collection/docs/prometheus/reversible.rules.yml"


@pytest.fixture(name="shop")
def a_shop(tmp_path) -> t.Iterator[Shop]:
    with Shop(tmp_path) as shop:
        yield shop


def firing(shop: Shop) -> list[str]:
    """Which alerts of the rules fire when the file stays as it is for a quarter of an hour."""
    tool = Path(lab("get", "prometheus")).with_name("promtool")
    metrics = Path(shop.vars["app_metrics_file"]).read_text()
    subprocess.run([tool, "check", "metrics"], input=metrics, text=True, check=True)
    series = [line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#")]
    alerts = ["DeployFailed", "DeployAbandoned", "WayBackMissing"]
    found = []
    for alert in alerts:
        test = {"interval": "1m", "input_series": [{"series": name, "values": f"{value}x20"} for name, value in series],
                "promql_expr_test": [{"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})', "eval_time": "15m",
                                      "exp_samples": [{"labels": "{}", "value": 1}]}]}
        file = shop.folder / f"{alert}.json"
        file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
        if subprocess.run([tool, "test", "rules", file], check=False, stdout=subprocess.DEVNULL).returncode == 0:
            found.append(alert)
    return found


def test_whoever_looks_writes_whether_there_is_a_way_back(shop: Shop) -> None:
    """`status` is what a timer runs: the alert fires as soon as the other colour is no way back."""
    shop.vars["app_metrics_file"] = str(shop.folder / "shop.prom")
    for number in (1, 2):
        shop.publish(number)
        deployed = shop.deploy(number)
        assert deployed.code == 0, deployed.output
    assert firing(shop) == [], "nobody has looked yet"
    looked = shop.run("status")
    assert looked.code == 0 and 'layer="color"} 1' in Path(shop.vars["app_metrics_file"]).read_text(), looked.output
    assert firing(shop) == []

    # What it would lead to dies.
    shop.reboot()
    looked = shop.run("status")
    assert looked.code == 0 and 'layer="color"} 0' in Path(shop.vars["app_metrics_file"]).read_text(), looked.output
    assert firing(shop) == ["WayBackMissing"]
