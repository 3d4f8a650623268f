# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate against a real Prometheus that scrapes a small exporter each half second: ratio, p99, windows, alerts, what fails closed."""
from __future__ import annotations

import http.server
import json
import math
import subprocess
import threading
import time
import typing as t
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from gate import Servers, answer, fails, gate, holds, serve  # noqa: F401  (serve is a fixture)
from harness import LOCAL, Ansible, lab, wait_for
from labkit import daemon

RATIO = 'sum(rate(shop_requests_total{code=~"5.."}[3s])) / sum(rate(shop_requests_total[3s]))'
P99 = "histogram_quantile(0.99, sum by (le) (rate(shop_seconds_bucket[3s])))"
CONFIG = """\
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
RULES = """\
groups:
  - name: shop
    rules:
      - {alert: ShopBroken, expr: shop_broken > 0, labels: {severity: page}}
      - {alert: ShopOdd, expr: shop_odd > 0, labels: {severity: ticket}}
      - {alert: ShopSlowToFire, expr: shop_broken > 0, for: 1h}
"""


class Shop:
    """An exporter. Each scrape counts 100 more requests; `failing` of them are errors and `slow` take more than two seconds."""

    def __init__(self) -> None:
        self.failing, self.slow, self.requests = 0, 0, 100
        self.gauges: dict[str, str] = {"shop_value": "1.5", 'shop_each{shard="a"}': "1", 'shop_each{shard="b"}': "2", "shop_nan": "NaN",
                                       "shop_inf": "+Inf", "shop_broken": "0", "shop_odd": "0", "shop_gone": "1"}
        self._good = self._bad = self._fast = self._slow = 0
        shop = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = shop.metrics().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: t.Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def metrics(self) -> str:
        if self.requests:
            self._good, self._bad = self._good + self.requests - self.failing, self._bad + self.failing
            self._fast, self._slow = self._fast + self.requests - self.slow, self._slow + self.slow
        lines = [f"{name} {value}" for name, value in self.gauges.items()]
        lines += [f'shop_requests_total{{code="200"}} {self._good}', f'shop_requests_total{{code="500"}} {self._bad}']
        total = self._fast + self._slow
        lines += [f'shop_seconds_bucket{{le="{le}"}} {count}' for le, count in (("0.5", self._fast), ("4", total), ("+Inf", total))]
        return "\n".join(lines) + "\n"


class Prometheus(t.NamedTuple):
    url: str
    shop: Shop

    def probe(self, query: str, **more: t.Any) -> dict[str, t.Any]:
        return {"name": "it", "kind": "prometheus", "url": self.url, "query": query, **more}

    def value(self, query: str) -> float | None:
        asked = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=5) as answered:
            result = json.load(answered)["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def until(self, query: str, good: t.Callable[[float], bool]) -> None:
        def look() -> bool:
            value = self.value(query)
            return value is not None and good(value)
        wait_for(look, f"{query} in Prometheus", 30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Prometheus]:
    binary, folder, shop = lab("get", "prometheus"), tmp_path_factory.mktemp("prometheus"), Shop()
    (folder / "prometheus.yml").write_text(CONFIG.format(port=shop.server.server_address[1]), encoding="utf-8")
    (folder / "rules.yml").write_text(RULES, encoding="utf-8")
    port = daemon.free_port()
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                                    f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, cwd=folder)
    prometheus = Prometheus(f"http://127.0.0.1:{port}", shop)
    try:
        wait_for(lambda: _answers(prometheus) or process.poll() is not None, "Prometheus is up", 60)
        assert process.poll() is None, Path(folder / "log").read_text(encoding="utf-8")
        prometheus.until("min_over_time(up[3s])", lambda value: value == 1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
        shop.server.shutdown()


def _answers(prometheus: Prometheus) -> bool:
    try:
        return prometheus.value("up") == 1
    except OSError:
        return False


def test_a_value_within_bounds(server: Prometheus) -> None:
    row = holds(server.probe("shop_value", min=1, max=2))
    assert (row["answer"], row["value"]) == ("1.5", 1.5)
    assert holds(server.probe("scalar(shop_value) * 2", min=3, max=3))["value"] == 3
    fails(server.probe("shop_value", max=1.25), 'shop_value{instance="127.0.0.1:', ": 1.5 is above 1.25")
    fails(server.probe("sum(shop_value)", min=2), "1.5 is below 2")
    # Each series must hold.
    assert holds(server.probe("shop_each", max=2))["answer"] == "2 series"
    fails(server.probe("shop_each", max=1), 'shard="b"', "2 is above 1")


@pytest.mark.parametrize("query, words", [
    ("shop_nothing", "no data: the query gives no series"),
    ("shop_value > 100", "no data"),
    ("sum(shop_nan)", "the value is NaN, which is no number"),
    ("sum(shop_inf)", "the value is inf, which is no number"),
    ("0 / 0", "the value is NaN"),
    ('"text"', "the query gives no numbers"),
    ("shop_value[1m]", "the query gives a range, not a value"),
    ("sum(", "refused the query with status 400: invalid parameter"),
])
@pytest.mark.parametrize("bounds", [{"min": -1e300}, {"max": 1e300}])
def test_what_is_no_number_fails(server: Prometheus, query: str, words: str, bounds: dict[str, float]) -> None:
    row = fails(server.probe(query, **bounds), words)
    assert row["value"] is None


def test_the_error_ratio_and_the_p99_of_the_runbook(server: Prometheus) -> None:
    ratio, p99 = server.probe(RATIO, max=0.05), {**server.probe(P99, max=2), "name": "p99"}
    server.shop.failing, server.shop.slow = 2, 0
    server.until(RATIO, lambda value: 0.01 < value < 0.03)
    server.until(P99, lambda value: value < 1)
    result = gate(ratio, p99)
    assert not result.get("failed") and 0.01 < result["probes"][0]["value"] < 0.03, result
    server.shop.failing, server.shop.slow = 8, 5
    server.until(RATIO, lambda value: value > 0.07)
    server.until(P99, lambda value: value > 2)
    result = gate(ratio, p99)
    assert result["failed_probes"] == ["it", "p99"] and "is above 0.05" in result["msg"] and "is above 2" in result["msg"]
    # Nobody asks any more: a ratio of nothing is no good news.
    server.shop.requests = 0
    server.until(RATIO, math.isnan)
    fails(ratio, "the value is NaN")
    server.shop.requests, server.shop.failing, server.shop.slow = 100, 0, 0
    server.until(RATIO, lambda value: value == 0)


def test_windows(server: Prometheus) -> None:
    window = {"window": 4, "step": 0.5, "max": 10}
    time.sleep(4)  # until the window holds nothing of the tests before
    holds(server.probe("sum(shop_value)", **window, min_samples=8))
    server.shop.gauges["shop_value"] = "20"
    server.until("shop_value", lambda value: value == 20)
    time.sleep(1)
    server.shop.gauges["shop_value"] = "1.5"
    server.until("shop_value", lambda value: value == 1.5)
    # It is fine now, and was not a moment ago.
    holds(server.probe("sum(shop_value)", max=10))
    fails(server.probe("sum(shop_value)", **window), "samples: 20 is above 10")
    holds(server.probe("sum(shop_value)", **{**window, "for": 3}))
    server.shop.gauges["shop_value"] = "20"
    server.until("min_over_time(shop_value[4s])", lambda value: value == 20)
    fails(server.probe("sum(shop_value)", **{**window, "for": 3}), "for 3 s without a break: 20 is above 10")
    server.shop.gauges["shop_value"] = "1.5"


def test_a_series_that_is_new_or_gone(server: Prometheus) -> None:
    fails(server.probe("sum(shop_new)", max=10, window=30, step=0.5), "no data")
    server.shop.gauges["shop_new"] = "1"
    server.until("shop_new", lambda value: value == 1)
    fails(server.probe("sum(shop_new)", max=10, window=30, step=0.5, min_samples=60), "samples in the window, at least 60 are needed")
    server.shop.gauges.pop("shop_gone")
    wait_for(lambda: server.value("shop_gone") is None, "the series has gone", 30)
    time.sleep(2)
    fails(server.probe("sum(shop_gone)", max=10), "no data")
    fails(server.probe("sum(shop_gone)", max=10, window=20, step=0.5), "no data for the last")
    fails(server.probe("sum(shop_gone)", max=10, step=0.5, **{"for": 20}), "no data for the last")


def test_compared_with_before(server: Prometheus) -> None:
    server.shop.gauges["shop_load"] = "10"
    server.until("shop_load", lambda value: value == 10)
    probe = server.probe("sum(shop_load)", max_factor=1.5, min_factor=0.5)
    before = gate(probe)
    assert not before.get("failed") and before["probes"][0]["value"] == 10
    steps = (("15", ""), ("16", "16 is more than 1.5 times the 10 of the baseline"), ("5", ""), ("4", "4 is less than 0.5 times the 10"))
    for load, words in steps:
        server.shop.gauges["shop_load"] = load
        server.until("shop_load", lambda value, load=load: value == float(load))
        if words:
            fails(probe, words, baseline=before)
        else:
            holds(probe, baseline=before)
    row = {"name": "it", "kind": "prometheus"}
    holds(server.probe("sum(shop_value)", max_rise=0), baseline={"probes": [{**row, "value": 1.5}]})
    low = {"probes": [{**row, "value": 0.25}]}
    fails(server.probe("sum(shop_value)", max_rise=1), "1.5 is more than 1 above the 0.25", baseline=low)
    fails(probe, "the baseline has no value", baseline={"probes": []})
    fails(server.probe("shop_each", max_factor=2), "must give one series: use sum or max", baseline=before)


def test_alerts_that_did_not_fire_before(server: Prometheus) -> None:
    alerts = {"name": "it", "kind": "alerts", "url": server.url}

    def firing(count: int) -> None:
        server.until('count(ALERTS{alertstate="firing"}) or vector(0)', lambda value: value == count)

    firing(0)
    assert holds(alerts)["answer"] == "0 firing"
    server.shop.gauges["shop_odd"] = "1"
    firing(1)
    fails(alerts, 'firing: ShopOdd{instance="127.0.0.1:', 'severity="ticket"}')
    before = gate(alerts, require=0)
    assert holds(alerts, baseline=before)["answer"] == "1 firing, 1 of them in the baseline too"
    server.shop.gauges["shop_broken"] = "1"
    firing(2)
    row = fails(alerts, "firing: ShopBroken{", baseline=before)
    assert "ShopOdd" not in row["why"] and "ShopSlowToFire" not in row["why"]
    fails({**alerts, "labels": {"severity": "page"}}, "firing: ShopBroken{")
    holds({**alerts, "labels": {"severity": "page"}, "ignore_alerts": ["ShopBroken"]})
    holds({**alerts, "labels": {"team": "nobody"}})
    fails(alerts, "the baseline does not say which alerts fired then", baseline={"probes": []})
    server.shop.gauges |= {"shop_odd": "0", "shop_broken": "0"}
    firing(0)


SERIES = '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "%s"]}]}}'


@pytest.mark.parametrize("body, status, words", [
    ("<html>", "200 OK", "status 200 and no JSON: no Prometheus?"),
    ("", "502 Bad Gateway", "status 502 and no JSON"),
    ("{}", "200 OK", "refused the query with status 200: it does not say why"),
    ('{"status": "success"}', "200 OK", "the query gives no numbers"),
    (SERIES % "x", "200 OK", "a sample of the answer is no number"),
    (SERIES % "1", "503 Service Unavailable", "refused the query"),
])
def test_what_is_no_prometheus(serve: Servers, body: str, status: str, words: str) -> None:
    fails({"kind": "prometheus", "url": serve(answer(body, status)).url, "query": "up", "max": 1e9}, words)


def test_a_path_and_a_token_before_it(serve: Servers) -> None:
    server = serve(answer('{"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}'))
    probe = {"kind": "prometheus", "url": f"{server.url}prom/", "query": 'up{a="ü"}', "max": 1}
    holds({**probe, "headers": {"Authorization": "Bearer s3cr3t-token"}})
    assert server.requests[0].startswith("GET /prom/api/v1/query?query=up%7Ba%3D%22%C3%BC%22%7D HTTP/1.1\r\n")
    assert "Authorization: Bearer s3cr3t-token\r\n" in server.requests[0]


def test_the_queries_of_the_role(server: Prometheus, edge_core: str, tmp_path: Path) -> None:
    """Prometheus understands them once Ansible has filled them in. The shop has no metrics of these names, so there is no data."""
    have = {"ansible.builtin.include_role": {"name": "reversible.deploy.health_probes", "public": True}}
    task = {"name": "gate", "reversible.deploy.health_gate": {"probes": "{{ health_probes_metrics }}", "deadline": 1}}
    inputs = {"health_probes_metrics_prometheus": server.url, "health_probes_metrics_labels": 'job="shop"'}
    run = Ansible(edge_core, tmp_path, LOCAL).play([have, task], "local", vars=inputs)
    why = {row["name"]: row["why"] for row in run.named("gate")["probes"]}
    assert why["alerts"] is None and why["p99"].startswith("no data: the query gives no series"), why
    assert why["error ratio"].startswith("no data: the query gives no series"), why
