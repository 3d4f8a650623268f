# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate against a real Prometheus: ratio, p99, windows, alerts, what fails closed.

It scrapes nothing: the tests write what was measured, also in the past and for the next minutes, so that a window is full whenever the gate
comes to ask, and no test waits for time to go by.
"""
from __future__ import annotations

import itertools
import json
import math
import struct
import subprocess
import time
import typing as t
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from gate import Servers, answer, fails, gate, holds, serve  # noqa: F401  (serve is a fixture)
from harness import LOCAL, Ansible, lab, wait_for
from labkit import daemon

RATIO = 'sum(rate(shop_requests_total{{shop="{0}",code=~"5.."}}[60s])) / sum(rate(shop_requests_total{{shop="{0}"}}[60s]))'
P99 = 'histogram_quantile(0.99, sum by (le) (rate(shop_seconds_bucket{{shop="{0}"}}[60s])))'
CONFIG = "global: {evaluation_interval: 500ms}\nrule_files: [rules.yml]\n"
RULES = """\
groups:
  - name: shop
    rules:
      - {alert: ShopBroken, expr: shop_broken > 0, labels: {severity: page}}
      - {alert: ShopOdd, expr: shop_odd > 0, labels: {severity: ticket}}
      - {alert: ShopSlowToFire, expr: shop_broken > 0, for: 1h}
"""


# Seconds before and after the moment in which a test writes: what it asks for is to be found until then.
PAST, FUTURE = 400, 600
GONE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]   # the value by which Prometheus marks the end of a series
Samples = t.Iterable[t.Tuple[float, float]]


def number(value: int) -> bytes:
    """As protobuf and snappy write one: seven bits a byte, the lowest first."""
    return (bytes([value & 0x7F | 0x80]) + number(value >> 7)) if value > 0x7F else bytes([value])


def field(at: int, content: bytes) -> bytes:
    return number(at << 3 | 2) + number(len(content)) + content


def snappy(content: bytes) -> bytes:
    """Nothing is made smaller: the format may hold all of it as literals."""
    pieces = [content[at:at + 0x10000] for at in range(0, len(content), 0x10000)]
    return number(len(content)) + b"".join(bytes([61 << 2]) + struct.pack("<H", len(piece) - 1) + piece for piece in pieces)


def written(labels: dict[str, str], samples: Samples) -> bytes:
    """A WriteRequest of one series; the times are seconds from now."""
    now = time.time()
    series = b"".join(field(1, field(1, name.encode()) + field(2, labels[name].encode())) for name in sorted(labels))
    for after, value in samples:
        moment = number(2 << 3) + number(round((now + after) * 1000))
        series += field(2, number(1 << 3 | 1) + struct.pack("<d", value) + moment)
    return field(1, series)


def always(value: float, since: float = -PAST, until: float = FUTURE) -> Samples:
    return ((after, value) for after in range(round(since), round(until)))


def counted(each: float) -> Samples:
    """A counter that grows by so much each second."""
    return ((after, each * (PAST + after)) for after in range(-PAST, FUTURE))


class Prometheus(t.NamedTuple):
    url: str

    def probe(self, query: str, **more: t.Any) -> dict[str, t.Any]:
        return {"name": "it", "kind": "prometheus", "url": self.url, "query": query, **more}

    def write(self, name: str, samples: Samples, **labels: str) -> None:
        body = snappy(written({"__name__": name, "instance": "127.0.0.1:9100", **labels}, samples))
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0"}
        self._open(urllib.request.Request(f"{self.url}/api/v1/write", body, headers))

    def value(self, query: str) -> float | None:
        result = json.loads(self._open(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})))["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def _open(self, asked: t.Any) -> bytes:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60) as answered:
            return answered.read()

    def shop(self, name: str, failing: int = 0, slow: int = 0, requests: int = 100) -> None:
        """One with so many requests a second; `failing` of them are errors and `slow` take more than half a second."""
        self.write("shop_requests_total", counted(requests - failing), shop=name, code="200")
        self.write("shop_requests_total", counted(failing), shop=name, code="500")
        for le, count in (("0.5", requests - slow), ("4", requests), ("+Inf", requests)):
            self.write("shop_seconds_bucket", counted(count), shop=name, le=le)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Prometheus]:
    binary, folder = lab("get", "prometheus"), tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIG, encoding="utf-8")
    (folder / "rules.yml").write_text(RULES, encoding="utf-8")
    port = daemon.free_port()
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                                    f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver",
                                    "--query.lookback-delta=1h"], stdout=log, stderr=log, cwd=folder)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: _answers(prometheus) or process.poll() is not None, "Prometheus is up", 60)
        assert process.poll() is None, Path(folder / "log").read_text(encoding="utf-8")
        for name, value in (("shop_value", 1.5), ("shop_nan", math.nan), ("shop_inf", math.inf)):
            prometheus.write(name, always(value))
        for shard, value in (("a", 1), ("b", 2)):
            prometheus.write("shop_each", always(value), shard=shard)
        yield prometheus
    finally:
        process.terminate()
        process.wait(60)


def _answers(prometheus: Prometheus) -> bool:
    try:
        return prometheus.value("vector(1)") == 1
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
    ("sum(shop_nan)", "the value is NaN, which is not a finite number"),
    ("sum(shop_inf)", "the value is inf, which is not a finite number"),
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
    def probes(shop: str) -> list[dict[str, t.Any]]:
        return [server.probe(RATIO.format(shop), max=0.05), {**server.probe(P99.format(shop), max=2), "name": "p99"}]

    server.shop("well", failing=2)
    server.shop("broken", failing=8, slow=5)
    server.shop("not asked", requests=0)
    result = gate(*probes("well"))
    assert not result.get("failed") and 0.01 < result["probes"][0]["value"] < 0.03 and result["probes"][1]["value"] < 1, result
    result = gate(*probes("broken"))
    assert result["failed_probes"] == ["it", "p99"] and "is above 0.05" in result["msg"] and "is above 2" in result["msg"]
    # A ratio of nothing is no good news.
    fails(probes("not asked")[0], "the value is NaN")


def test_windows(server: Prometheus) -> None:
    window = {"window": 100, "step": 5, "max": 10}
    server.write("shop_window", always(1.5), was="calm")
    holds(server.probe('sum(shop_window{was="calm"})', **window, min_samples=21))
    # It is fine now, and was not a moment ago.
    server.write("shop_window", itertools.chain(always(1.5, until=-50), always(20, -50, -20), always(1.5, since=-20)), was="bad for 30 s")
    moment = 'sum(shop_window{was="bad for 30 s"})'
    holds(server.probe(moment, max=10))
    fails(server.probe(moment, **window), "samples: 20 is above 10")
    holds(server.probe(moment, **{**window, "for": 75}))
    server.write("shop_window", itertools.chain(always(1.5, until=-150), always(20, -150)), was="bad since then")
    fails(server.probe('sum(shop_window{was="bad since then"})', **{**window, "for": 75}), "for 75 s without a break: 20 is above 10")


def test_a_series_that_is_new_or_gone(server: Prometheus) -> None:
    window = {"max": 10, "step": 5}
    fails(server.probe("sum(shop_new)", **window, window=200), "no data")
    server.write("shop_new", always(1, since=-5))
    fails(server.probe("sum(shop_new)", **window, window=200, min_samples=41), "samples in the window, at least 41 are needed")
    server.write("shop_gone", itertools.chain(always(1, until=-30), [(-30, GONE)]))
    fails(server.probe("sum(shop_gone)", max=10), "no data")
    fails(server.probe("sum(shop_gone)", **window, window=200), "no data for the last")
    fails(server.probe("sum(shop_gone)", **window, **{"for": 200}), "no data for the last")


def test_compared_with_before(server: Prometheus) -> None:
    def load(value: float) -> dict[str, t.Any]:
        server.write("shop_load", always(value), now=str(value))
        return server.probe(f'sum(shop_load{{now="{value}"}})', max_factor=1.5, min_factor=0.5)

    before = gate(load(10))
    assert not before.get("failed") and before["probes"][0]["value"] == 10
    for value, words in ((15, ""), (16, "16 is more than 1.5 times the 10 of the baseline"), (5, ""), (4, "4 is less than 0.5 times the 10")):
        if words:
            fails(load(value), words, baseline=before)
        else:
            holds(load(value), baseline=before)
    row = {"name": "it", "kind": "prometheus"}
    holds(server.probe("sum(shop_value)", max_rise=0), baseline={"probes": [{**row, "value": 1.5}]})
    low = {"probes": [{**row, "value": 0.25}]}
    fails(server.probe("sum(shop_value)", max_rise=1), "1.5 is more than 1 above the 0.25", baseline=low)
    fails(load(10.5), "the baseline has no value", baseline={"probes": []})
    fails(server.probe("shop_each", max_factor=2), "must give one series: use sum or max", baseline=before)


def test_alerts_that_did_not_fire_before(server: Prometheus) -> None:
    alerts = {"name": "it", "kind": "alerts", "url": server.url}

    def firing(count: int) -> None:
        query = 'count(ALERTS{alertstate="firing"}) or vector(0)'
        wait_for(lambda: server.value(query) == count, f"{count} alerts fire", 60)

    firing(0)
    assert holds(alerts)["answer"] == "0 firing"
    server.write("shop_odd", [(0, 1)])
    firing(1)
    fails(alerts, 'firing: ShopOdd{instance="127.0.0.1:', 'severity="ticket"}')
    before = gate(alerts, require=0)
    assert holds(alerts, baseline=before)["answer"] == "1 firing, 1 of them in the baseline too"
    server.write("shop_broken", [(0, 1)])
    firing(2)
    row = fails(alerts, "firing: ShopBroken{", baseline=before)
    assert "ShopOdd" not in row["why"] and "ShopSlowToFire" not in row["why"]
    fails({**alerts, "labels": {"severity": "page"}}, "firing: ShopBroken{")
    holds({**alerts, "labels": {"severity": "page"}, "ignore_alerts": ["ShopBroken"]})
    holds({**alerts, "labels": {"team": "nobody"}})
    fails(alerts, "the baseline has no list of firing alerts", baseline={"probes": []})
    for name in ("shop_odd", "shop_broken"):
        server.write(name, [(0, 0)])
    firing(0)


SERIES = '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "%s"]}]}}'


@pytest.mark.parametrize("body, status, words", [
    ("<html>", "200 OK", "status 200 and no JSON: is it a Prometheus server?"),
    ("", "502 Bad Gateway", "status 502 and no JSON"),
    ("{}", "200 OK", "refused the query with status 200: it gives no reason"),
    ('{"status": "success"}', "200 OK", "the query gives no numbers"),
    (SERIES % "x", "200 OK", "a sample of the answer is not a number"),
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
    task = {"name": "gate", "reversible.deploy.health_gate": {"probes": "{{ health_probes_metrics | map('combine', once) | list }}"}}
    inputs = {"once": {"tries": 1, "consecutive": 1, "timeout": 60}, "health_probes_metrics_prometheus": server.url, "health_probes_metrics_labels": 'job="shop"'}
    run = Ansible(edge_core, tmp_path, LOCAL).play([have, task], "local", vars=inputs)
    why = {row["name"]: row["why"] for row in run.named("gate")["probes"]}
    assert why["alerts"] is None and why["p99"].startswith("no data: the query gives no series"), why
    assert why["error ratio"].startswith("no data: the query gives no series"), why


def test_shares_are_of_all_requests(server: Prometheus, edge_core: str, tmp_path: Path) -> None:
    """One that has never failed has no series of errors, and is well; so is one after a rollback, and one with too many errors is not."""
    for job, failing in (("calm", 0), ("back", 3), ("bad", 8)):
        server.write("http_requests_total", counted(100 - failing), job=job, code="200")
        if failing:
            server.write("http_requests_total", counted(failing), job=job, code="500")
        for le, count in (("0.5", 100), ("+Inf", 100)):
            server.write("http_request_duration_seconds_bucket", counted(count), job=job, le=le)
    names = {"before": "health_probes_metrics", "after": "health_probes_metrics_after_rollback"}
    tasks: list[dict[str, t.Any]] = [{"ansible.builtin.include_role": {"name": "reversible.deploy.health_probes", "public": True}}]
    for job in ("calm", "back", "bad"):
        for when, name in names.items():
            probes = f"{{{{ {name} | rejectattr('name', 'equalto', 'alerts') | map('combine', once) | list }}}}"
            tasks.append({"name": f"{job} {when}", "reversible.deploy.health_gate": {"probes": probes}, "ignore_errors": True,
                          "vars": {"health_probes_metrics_labels": f'job="{job}"'}})
    inputs = {"once": {"tries": 1, "consecutive": 1, "timeout": 60}, "health_probes_metrics_prometheus": server.url, "health_probes_metrics_before": "3m"}
    run = Ansible(edge_core, tmp_path, LOCAL).play(tasks, "local", vars=inputs)
    failed = {task: run.named(task)["failed_probes"] for task in (f"{job} {when}" for job in ("calm", "back", "bad") for when in names)}
    assert failed == {"calm before": [], "calm after": [], "back before": [], "back after": ["error ratio after the rollback"],
                      "bad before": ["error ratio"], "bad after": ["error ratio after the rollback"]}, run.output
