# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test edge tells the truth: whatever a web app does, the load sees as what it is, and a flip that cuts users off is reported."""
from __future__ import annotations

import os
import signal
import time
import typing as t
import urllib.request
from pathlib import Path

import pytest
from edge import Edge, ask, call, fetch
from harness import CORES, Ansible, system, wait_for

WEB = {"ok": 0, "fail": 1, "fail-app": 1, "fail-health": 0, "share 20": 0.2, "slow 40": 0, "hang": 1, "close": 1, "refuse": 1}
KIND = {"fail": "status 500", "fail-app": "status 500", "share 20": "status 500", "hang": "no answer within the timeout",
        "close": "closed without an answer", "refuse": "connect: connection refused"}


@pytest.fixture(scope="module", name="edge")
def an_edge() -> t.Iterator[Edge]:
    with Edge() as edge:
        yield edge


@pytest.mark.parametrize("mode", WEB)
def test_the_load_sees_what_the_web_app_does(edge: Edge, mode: str) -> None:
    url = edge.app_url("blue")
    try:
        assert edge.switch("blue", "web", mode) == "ok"
        with edge.load(4, url=url, requests=400 if mode != "hang" else 8, timeout=60 if mode != "hang" else 0.3) as load:
            load.wait()
        report = load.report
        assert report["failed"] == report["requests"] * WEB[mode]
        # A connection that was closed while it was opened is a reset for who asks.
        kinds = {"closed without an answer" if kind in ("connection reset", "broken pipe") else kind for kind in report["kinds"]}
        assert kinds == ({KIND[mode]} if mode in KIND else set())
        assert sum(report["answers"].values()) == report["requests"] - report["failed"]
        assert set(report["answers"]) <= {"blue"}
        if mode == "slow 40":
            assert report["milliseconds"]["p50"] >= 40
        health = {"fail": "HTTP 500", "fail-health": "HTTP 500", "hang": "", "close": "", "refuse": ""}.get(mode)
        if mode != "hang":  # it would be waited for
            assert fetch(f"{url}health") == health if health is not None else '"status":"ok"' in fetch(f"{url}health")
    finally:
        edge.switch("blue", "web", "ok")
    assert fetch(url) == "blue 1111111"


def test_a_kept_connection_that_is_closed_is_no_failure_where_it_can_be_tried_again(edge: Edge) -> None:
    """Each kept connection is cut once between two requests. A client may ask again for GET, and not for POST."""
    for method in ("GET", "POST"):
        with edge.load(4, url=edge.app_url("green"), requests=8, fresh_share=0, pause=600_000, method=method) as load:
            edge.switch("green", "web", "refuse")  # all of them have had an answer, and pause
            edge.switch("green", "web", "ok")
            load.end_a_pause()
            load.wait()
        assert load.report["keepalive_retries"] == (4 if method == "GET" else 0)
        assert load.report["failed"] == (0 if method == "GET" else 4)


def test_releases_and_counts(edge: Edge) -> None:
    edge.switch("green", "web", "release abc")
    try:
        with urllib.request.urlopen(edge.app_url("green") + "api/v1/health", timeout=5) as answer:
            assert answer.headers["X-Release"] == "abc"
            assert answer.read() == b'{"build":{"sha":"abc"},"colour":"green","status":"ok","version":"abc"}\n'
    finally:
        edge.switch("green", "web", "release 2222222")
    before = edge.counts("green").get("/counted", 0)
    assert fetch(edge.app_url("green") + "counted?x=1") == "green 2222222"
    assert edge.counts("green")["/counted"] == before + 1
    begun = time.monotonic()
    assert fetch(edge.app_url("green") + "slow?ms=150") == "green 2222222"
    assert time.monotonic() - begun >= 0.15


def test_a_flip_is_seen_when_it_was_made_and_cuts_nothing(edge: Edge) -> None:
    # One alone has its answers in the order of its questions.
    with edge.load(8, ws=True) as load, edge.load(1, path="one") as one:
        made, seen = {}, {}
        for colour in ("green", "blue"):
            asked, made[colour] = edge.counts(colour).get("/one", 0), time.monotonic_ns()
            edge.ask(f"set map {edge.map} {edge.map_key} {colour}")
            assert edge.live() == colour
            # By the second question it has heard what came of the first.
            wait_for(lambda colour=colour, asked=asked: edge.counts(colour).get("/one", 0) > asked + 1, f"requests to {colour}")
            seen[colour] = time.monotonic_ns()
        wait_for(lambda: edge.counts("blue")["frames"] > 3, "frames of the WebSocket")
    report = load.report
    runs = one.report["runs"]
    assert [color for color, *_ in runs] == ["blue", "green", "blue"]
    for color, first, *_ in runs[1:]:
        assert made[color] < first < seen[color]
    assert report["failed"] == one.report["failed"] == 0 and report["keepalive_retries"] == 0, report["kinds"]
    assert report["fresh"] > 0
    assert report["web_socket"]["colour"] == "blue" and report["web_socket"]["cut"] is None and report["web_socket"]["echoed"] > 3


def test_a_flip_in_the_wrong_order_is_reported(edge: Edge) -> None:
    try:
        with edge.load(8) as load:
            before = failed(edge)
            edge.ask("set server shop-web-blue/web-blue state maint")
            wait_for(lambda: failed(edge) > before + 20, "requests that nobody takes")
            edge.ask(f"set map {edge.map} {edge.map_key} green")
    finally:
        edge.ask("set server shop-web-blue/web-blue state ready")
        edge.ask(f"set map {edge.map} {edge.map_key} blue")
        wait_for(lambda: edge.answer() == "blue 1111111", "blue again")
    assert load.report["kinds"].get("status 503", 0) > 10
    assert load.report["failed"] == sum(load.report["kinds"].values())


def failed(edge: Edge) -> int:
    """The requests that HAProxy itself has answered with an error, or an app."""
    return next(int(row["hrsp_5xx"]) for row in edge.rows() if row["svname"] == "FRONTEND")


def test_a_web_socket_that_is_cut_is_reported(edge: Edge) -> None:
    with edge.load(2, ws=True) as load:
        edge.switch("blue", "web", "refuse")
        edge.switch("blue", "web", "ok")
    assert load.report["web_socket"]["cut"]
    wait_for(lambda: edge.answer() == "blue 1111111", "blue again")


@pytest.mark.parametrize("layout", ["two-backends", "one-backend"])
@pytest.mark.parametrize("method", ["map", "reload"])
def test_every_layout_says_its_colour(method: str, layout: str) -> None:
    with Edge(method=method, layout=layout, components=("web", "api"), active="green", tls=True, tcp_stats=True, dummies=1500) as edge:
        assert {edge.answer("web"), edge.answer("api")} == {"green 2222222"}
        assert edge.live() == "green"
        assert edge.counts("green", "api").get("/api/", 0) > 0
        if method == "reload":
            edge.config.write_text(edge.render("blue"), encoding="utf-8")
        else:
            edge.map.write_text(edge.map.read_text(encoding="utf-8").replace("staging green", "staging blue"), encoding="utf-8")
        edge.reload()
        wait_for(lambda: {edge.answer("web"), edge.answer("api")} == {"blue 1111111"}, "blue after a reload")
        assert call("haproxy_color_switch_info", edge.place).get("active") == "blue"
        assert edge.ask("show stat").count("\n") > 1500


def test_several_processes_on_one_folder() -> None:
    with Edge(processes=3) as edge:
        assert len({edge.worker_pid(at) for at in range(3)}) == 3
        edge.ask(f"set map {edge.map} {edge.map_key} green", 1)
        assert [edge.live(at) for at in range(3)] == ["blue", "green", "blue"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_an_edge(how: int) -> None:
    with Edge() as edge:
        edge.reload()
        os.kill(edge.master_pid(), how)
    assert not edge.folder.exists()
    assert not of_folder(edge.folder)


def test_systemd_reloads_haproxy_for_real() -> None:
    """Debian's own unit in a machine of its own: the reload is a new worker, and a broken configuration is refused by it."""
    host = system("systemd")["systemd_root"]
    edge = host["edge"]
    machine = Ansible(CORES[-1], Path(), {"machine": host})

    def worker() -> str:
        return next(line for line in ask(edge["stats"], "show info").splitlines() if line.startswith("Pid:"))

    assert fetch(edge["url"]) == "blue 1111111"
    before = worker()
    machine.on("machine", "systemctl reload haproxy.service")
    wait_for(lambda: worker() != before, "another worker after the reload")
    config = Path(edge["config"])
    good = config.read_text(encoding="utf-8")
    try:
        config.write_text(f"{good}\nnonsense\n", encoding="utf-8")
        assert "failed" in machine.on("machine", "systemctl reload haproxy.service 2>&1 && echo reloaded || echo failed")
    finally:
        config.write_text(good, encoding="utf-8")
    assert fetch(edge["url"]) == "blue 1111111"


def of_folder(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace") if path.exists() else ""
        found += [words] if str(folder) in words else []
    return found
