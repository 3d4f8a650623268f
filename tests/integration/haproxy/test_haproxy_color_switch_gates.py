# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of haproxy_color_switch, against real HAProxy: what is asked before the flip, what is proven and watched after it,
and the drain."""
from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
import typing as t
from datetime import datetime, timedelta, timezone

import pytest
from edge import RELEASES, Call, Edge, call, fetch, wait_for
from color_switch import (
    GREEN, ID, INFO, MODULE, agree, all_versions, everything, flip, history, prove, recorded, refused, taken_back)


# The proof


PROOFS = {
    "release_field": {"release_field": "build.sha"},
    "another field": {"release_field": "version"},
    "release_header": {"release_header": "x-release"},
    "text": {"release_field": None, "text": '"version":"2222222"'},
    "all of them": {"release_header": "X-Release", "text": "green", "status": [201, 200]},
}
WRONG = {
    "release_field": ({}, "abc", ["build.sha", "abc", "2222222"]),
    "release_header": ({"release_field": None, "release_header": "X-Release"}, "abc", ["X-Release", "abc"]),
    "no such field": ({"release_field": "build.number"}, "", ["build.number"]),
    "text": ({"release_field": None, "text": "something else"}, "", ["something else"]),
    "status": ({"status": [201, 204]}, "", ["200", "201"]),
    "no answer": ({"url": "http://127.0.0.1:{port}/"}, "", ["refused"]),
    "too slow": ({"url": "{edge}slow?ms=600", "timeout": 0.2, "release_field": None}, "", ["asked 2 times"]),
}


@all_versions
def test_each_proof_holds_when_it_is_true(version: str) -> None:
    with Edge(version=version) as edge:
        for name, proof in PROOFS.items():
            result = flip(edge, "green", prove=prove(edge, **proof))
            assert result["changed"] and result["flip"]["proof"]["tries"] == 1, name
            flip(edge, "blue")
        # Also where nothing has to be flipped, and it fails there without changing anything.
        flip(edge, "green")
        asked = edge.counts("green")["/api/v1/health"]
        assert not flip(edge, "green", prove=prove(edge))["changed"] and edge.counts("green")["/api/v1/health"] == asked + 1
        refused(edge, "not_proven", "green is active already, but does not hold", "nothing was changed",
                **GREEN, prove=prove(edge, status=[204]))


@all_versions
def test_a_proof_that_fails_takes_the_flip_back(version: str) -> None:
    with Edge(version=version) as edge, edge.load(4) as load:
        for name, (proof, release, words) in WRONG.items():
            edge.switch("green", "web", f"release {release or RELEASES['green']}")
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))  # and nobody listens
                port = unused.getsockname()[1]
                proof = {key: value.format(port=port, edge=edge.url) if key == "url" else value for key, value in proof.items()}
                result = call(MODULE, {**edge.options, **GREEN, "prove": prove(edge, **proof)})
            taken_back(edge, result, "not_proven", "prove green at http://127.0.0.1", *words)
            assert set(result["flip"]["milliseconds"]) == {"target", "flip", "prove", "back"}, name
            assert [step["step"][:3] for step in result["steps"]] == ["set"] and len(result["plan"]) == 3
    assert load.report["failed"] == 0 and load.report["answers"]["blue"] > 0 and load.report["answers"]["green"] > 0


@all_versions
def test_a_proof_is_asked_until_it_holds(version: str) -> None:
    """A server that is up, and says its new release only after a while."""
    with Edge(version=version) as edge:
        edge.switch("green", "web", "release old")
        running = Call(MODULE, {**edge.options, **GREEN, "prove": prove(edge, tries=50, delay=0.05)})
        wait_for(lambda: edge.live() == "green", "the flip")
        time.sleep(0.2)
        edge.switch("green", "web", f"release {RELEASES['green']}")
        result = running.wait()
        assert 2 < result["flip"]["proof"]["tries"] < 50 and not result.get("failed"), result
        agree(edge, "green")


@all_versions
def test_a_proof_by_https_needs_a_certificate_that_is_trusted(version: str) -> None:
    with Edge(version=version, tls=True) as edge:
        secure = prove(edge, url=f"{edge.tls_url}health")
        own_authority(edge)
        taken_back(edge, call(MODULE, {**edge.options, **GREEN, "prove": secure}), "not_proven", "certificate")
        result = flip(edge, "green", prove={**secure, "ca_file": str(edge.certificate)})
        assert not any("insecure" in warning for warning in result.get("warnings", []))
        named = {**secure, "ca_file": str(edge.certificate), "url": secure["url"].replace("127.0.0.1", "localhost")}
        refused(edge, "not_proven", "certificate", **GREEN, prove=named)
        flip(edge, "blue")
        result = flip(edge, "green", prove={**secure, "insecure": True})
        assert "prove.insecure: the certificate is not checked" in result["warnings"]


def own_authority(edge: Edge) -> None:
    """HAProxy gets a certificate for 127.0.0.1 from an authority, which is what a client must know."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    authority, leaf = edge.folder / "authority.key", edge.folder / "leaf"
    for argv in (
        ["req", "-x509", *key, "-subj", "/CN=our own", "-keyout", authority, "-out", edge.certificate],
        ["req", "-x509", *key, "-subj", "/CN=edge", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-CA", edge.certificate, "-CAkey", authority, "-keyout", f"{leaf}.key", "-out", f"{leaf}.pem"],
    ):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)
    (edge.folder / "edge.pem").write_bytes(b"".join((edge.folder / name).read_bytes() for name in ("leaf.pem", "leaf.key")))
    edge.restart()


# Before the flip


@all_versions
def test_every_server_is_asked_before_the_flip(version: str) -> None:
    with Edge(version=version, replicas=3) as edge, edge.load(4) as load:
        probe = {"path": "/api/v1/health", "release_field": "build.sha", "tries": 2, "delay": 0.05, "timeout": 1}
        edge.switch("green", "web", "release old", replica=1)
        result = refused(edge, "target_down", "web-green2", "old", "asked 2 times", "nothing was changed", **GREEN, probe=probe)
        assert "web-green1" not in result["msg"] and "web-green3" not in result["msg"]
        edge.switch("green", "web", f"release {RELEASES['green']}", replica=1)
        before = [edge.counts("green", replica=at)["/api/v1/health"] for at in range(3)]
        assert flip(edge, "green", probe=probe)["changed"]
        assert [edge.counts("green", replica=at)["/api/v1/health"] for at in range(3)] == [count + 1 for count in before]
        agree(edge, "green")
        for wrong in ({"scheme": "https"}, {"port": 1}, {"path": "/health", "text": "no such word"}):
            refused(edge, "target_down", "web-blue1", "web-blue2", "web-blue3", color="blue", probe={"tries": 1, "timeout": 1, **wrong})
    assert load.report["failed"] == 0


@all_versions
def test_a_check_counts_only_after_the_colour_was_recreated(version: str) -> None:
    def stamp(ago: float) -> str:
        return f"{datetime.now(timezone.utc) - timedelta(seconds=ago):%Y-%m-%dT%H:%M:%S.%fZ}"

    with Edge(version=version, inter=1500) as edge:
        wait_for(lambda: all(int(row["lastchg"]) > 2 for row in edge.rows() if row["svname"] == "web-green"), "it is up for a while")
        refused(edge, "target_down", "shop-web-green/web-green was not checked since it was recreated at",
                **GREEN, since=stamp(0), target_timeout=0.3)
        began, result = time.monotonic(), flip(edge, "green", since=stamp(0))
        assert 1.5 <= time.monotonic() - began < 6 and result["flip"]["milliseconds"]["target"] > 1500  # a check must have come
        assert flip(edge, "blue", since=stamp(3600))["flip"]["milliseconds"]["target"] < 500
        refused(edge, "bad_options", "argument 'since': expected UTC", **GREEN, since="2026-11-21T08:45:00.+5Z")


# The error budget


def watch(seconds: float, **more: t.Any) -> dict[str, t.Any]:
    return {"error_budget": {"watch": seconds, **more}}


@contextlib.contextmanager
def watching(edge: Edge, **budget: t.Any) -> t.Iterator[Call]:
    """A run to green that has flipped and watches."""
    running = Call(MODULE, {**edge.options, **GREEN, **watch(**{"seconds": 8, **budget})})
    try:
        wait_for(lambda: edge.live() == "green" and recorded(edge) == "green\n", "the flip")
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()


@all_versions
def test_a_colour_that_breaks_after_the_flip_is_left_within_a_second(version: str) -> None:
    with Edge(version=version) as edge, edge.load(8) as load:
        with watching(edge, seconds=20) as running:
            time.sleep(1)
            began = time.monotonic()
            edge.switch("green", "web", "fail-app")
            result = running.wait(10)
            took = time.monotonic() - began
        taken_back(edge, result, "budget_broken", "requests failed (", "of the old colour")
        assert took < 1.5
        budget = result["flip"]["budget"]
        assert 0 < budget["failed"] < budget["requests"] and budget["share_before"] == 0 and budget["own_requests"] == 0
        assert budget["share"] == pytest.approx(budget["failed"] / budget["requests"]) and budget["share"] > 0.05
        assert f"{budget['failed']} of {budget['requests']} requests failed" in result["msg"] and 0.8 < budget["seconds"] < 3
        edge.switch("green", "web", "ok")
        counted = budget["failed"]
    # What users saw stops with the way back; the counters were read a moment before it.
    assert counted <= load.report["failed"] < counted * 3 and set(load.report["kinds"]) == {"status 500"}


@all_versions
def test_failures_are_compared_with_those_of_the_old_colour(version: str) -> None:
    with Edge(version=version) as edge, edge.load(8):
        edge.switch("blue", "web", "share 30")
        edge.switch("green", "web", "share 30")
        time.sleep(0.7)
        result = flip(edge, "green", **watch(0.6, max_share=0.1))
        assert result["flip"]["budget"]["share_before"] == pytest.approx(0.3, abs=0.06)
        assert result["flip"]["budget"]["share"] == pytest.approx(0.3, abs=0.06)
        flip(edge, "blue")
        edge.switch("green", "web", "share 60")
        result = call(MODULE, {**edge.options, **GREEN, **watch(5, max_share=0.1)})
        edge.switch("blue", "web", "ok")  # so that it says its name whenever it is asked
        taken_back(edge, result, "budget_broken", "allowed 10.0 % above the")
        edge.switch("green", "web", "share 50")
        assert flip(edge, "green", **watch(0.6, max_share=0.5))["flip"]["budget"]["failed"] > 20
        flip(edge, "blue")
        result = call(MODULE, {**edge.options, **GREEN, **watch(5, max_share=1.0, max_failed=7)})
        taken_back(edge, result, "budget_broken", "requests failed, more than 7")
        assert result["flip"]["budget"]["failed"] > 7


@all_versions
def test_when_nobody_is_awake_we_ask_ourselves_or_fail(version: str) -> None:
    with Edge(version=version) as edge:
        edge.answer()
        result = call(MODULE, {**edge.options, **GREEN, **watch(0.4)})
        taken_back(edge, result, "budget_broken", "only 0 requests in 0.4 s, and 20 are needed to judge; with prove they are asked for")
        asked = edge.counts("green").get("/api/v1/health", 0)
        result = flip(edge, "green", prove=prove(edge), **watch(0.6, min_requests=25))
        # All the proof's own requests also came to the server, which is how they count.
        assert 20 <= result["flip"]["budget"]["own_requests"] <= 25 <= result["flip"]["budget"]["requests"]
        assert edge.counts("green")["/api/v1/health"] == asked + 1 + result["flip"]["budget"]["own_requests"]
        assert flip(edge, "blue", **watch(0.2, min_requests=0))["flip"]["budget"]["requests"] == 0
        # Our own requests judge, too.
        proof = prove(edge, url=edge.url, release_field=None, text="green")
        running = Call(MODULE, {**edge.options, **GREEN, "prove": proof, **watch(2, min_requests=60)})
        wait_for(lambda: edge.counts("green").get("/", 0) > 5, "requests of our own")
        edge.switch("green", "web", "fail-app")
        taken_back(edge, running.wait(10), "budget_broken", "requests failed")


@all_versions
def test_a_component_without_servers_is_left_at_once(version: str) -> None:
    """Nobody asks for that component, so that no request fails: it is seen in the health checks."""
    with Edge(version=version, components=("web", "api")) as edge, edge.load(4) as load:
        with watching(edge, seconds=20) as running:
            time.sleep(0.3)
            began = time.monotonic()
            edge.switch("green", "api", "fail-health")
            result = running.wait(10)
        taken_back(edge, result, "budget_broken", "shop-api-{color} has no server of green that is up")
        assert time.monotonic() - began < 1.5
    assert load.report["failed"] == 0


@all_versions
@pytest.mark.parametrize("inter", [100, 2000])
def test_a_reload_or_cleared_counters_in_between_neither_break_nor_hide_anything(version: str, inter: int) -> None:
    with Edge(version=version, inter=inter) as edge, edge.load(8) as load:
        with watching(edge, seconds=2) as running:
            time.sleep(0.5)
            edge.ask("clear counters all")
            time.sleep(0.5)
            edge.reload()
            result = running.wait(10)
        assert not result.get("failed"), result["msg"]
        assert result["flip"]["budget"]["requests"] > load_of(edge)  # those before it count, too
        agree(edge, "green")
    assert load.report["failed"] == 0


def load_of(edge: Edge) -> int:
    """The requests that HAProxy counts for green since its counters were reset."""
    return sum(int(row[f"hrsp_{kind}"]) for row in edge.rows() if row["svname"] == "web-green" for kind in ("2xx", "5xx"))


@all_versions
def test_failures_before_the_counters_were_cleared_are_not_forgotten(version: str) -> None:
    with Edge(version=version) as edge:
        with watching(edge, seconds=8, max_failed=50, max_share=1) as running:
            edge.switch("green", "web", "fail-app")
            for _half in range(2):
                with edge.load(1, requests=30) as load:
                    assert load.wait()["failed"] == 30
                time.sleep(0.5)  # more than from one look to the next, before and after
                edge.ask("clear counters all")
                time.sleep(0.5)
            result = running.wait(2)
        taken_back(edge, result, "budget_broken", "60 of 60 requests failed, more than 50")


# The drain


@all_versions
def test_sessions_that_stay_are_told_and_not_cut(version: str) -> None:
    with Edge(version=version) as edge, edge.load(1, ws=True, fresh_share=1) as load:
        wait_for(lambda: call(INFO, edge.place)["colors"]["blue"]["sessions"], "the WebSocket")
        began, result = time.monotonic(), flip(edge, "green", drain_timeout=1, deploy_id=ID)
        assert 1 <= time.monotonic() - began < 2 and result["flip"]["sessions_left"] == 1
        assert result["flip"]["milliseconds"]["drain"] >= 1000 and result["changed"] and result["colors"]["blue"]["sessions"] == 1
        agree(edge, "green")
        time.sleep(0.3)
    assert load.report["failed"] == 0 and load.report["web_socket"]["cut"] is None and load.report["web_socket"]["colour"] == "blue"


@all_versions
def test_the_drain_ends_when_the_last_session_does(version: str) -> None:
    with Edge(version=version) as edge:
        assert flip(edge, "green", drain_timeout=20)["flip"]["sessions_left"] == 0
        answers: list[str] = []
        slow = threading.Thread(target=lambda: answers.append(fetch(f"{edge.url}slow?ms=700")))
        slow.start()
        wait_for(lambda: call(INFO, edge.place)["colors"]["green"]["sessions"], "the slow request")
        began, result = time.monotonic(), flip(edge, "blue", drain_timeout=20)
        slow.join()
        assert 0.2 < time.monotonic() - began < 2 and result["flip"]["sessions_left"] == 0 and answers == ["green 2222222"]


@all_versions
def test_a_signal_ends_the_drain_and_nothing_else(version: str) -> None:
    with Edge(version=version) as edge, edge.load(1, ws=True):
        wait_for(lambda: call(INFO, edge.place)["colors"]["blue"]["sessions"], "the WebSocket")
        running = Call(MODULE, {**edge.options, **GREEN, "drain_timeout": 60})
        wait_for(lambda: history(edge)[:1] == [("green", RELEASES["green"], "good")], "the record")
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        running.wait(5)
        agree(edge, "green")
        before = everything(edge)
        assert not flip(edge, "green")["changed"] and everything(edge) == before
