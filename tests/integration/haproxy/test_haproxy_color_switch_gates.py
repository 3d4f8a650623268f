# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of haproxy_color_switch, against real HAProxy: what is asked before the flip, what is proven and watched after it,
and the drain."""
from __future__ import annotations

import signal
import socket
import subprocess
import time
import typing as t
from datetime import datetime, timedelta, timezone

import pytest
from edge import RELEASES, Call, Edge, call, wait_for
from color_switch import (
    GREEN, ID, INFO, MODULE, agree, all_versions, ask, count, ended, everything, flip, flipped_and_held, history, looks, prove, refused,
    taken_back, watching)


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
    "too slow": ({"url": "{edge}slow?ms=9000", "timeout": 0.2, "release_field": None}, "", ["asked 2 times"]),
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
        refused(edge, "not_proven", "green is active already, but does not answer as expected", "nothing was changed",
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
            taken_back(edge, result, "not_proven", "prove green by http://127.0.0.1", *words)
            assert set(result["flip"]["milliseconds"]) == {"target", "flip", "prove", "back"}, name
            assert [step["step"][:3] for step in result["steps"]] == ["set"] and len(result["plan"]) == 3
    assert load.report["failed"] == 0 and load.report["answers"]["blue"] > 0 and load.report["answers"]["green"] > 0


@all_versions
def test_a_proof_is_asked_until_it_holds(version: str) -> None:
    """A server that is up, and says its new release only after a while."""
    with Edge(version=version) as edge:
        edge.switch("green", "web", "release old")
        running = Call(MODULE, {**edge.options, **GREEN, "prove": prove(edge, tries=10_000, delay=0.05)})
        with ended(running):
            wait_for(lambda: edge.counts("green").get("/api/v1/health", 0) > 2, "three tries")
            assert edge.live() == "green"
            edge.switch("green", "web", f"release {RELEASES['green']}")
            result = running.wait()
        assert result["flip"]["proof"]["tries"] > 3 and not result.get("failed"), result
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
        probe = {"path": "/api/v1/health", "release_field": "build.sha", "tries": 2, "delay": 0.05, "timeout": 60}
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

    with Edge(version=version, inter=1000) as edge:
        wait_for(lambda: all(int(row["lastchg"]) > 2 for row in edge.rows() if row["svname"] == "web-green"), "it is up for a while")
        refused(edge, "target_down", "shop-web-green/web-green was not checked since it was recreated at",
                **GREEN, since=stamp(-60), target_timeout=0)
        began = time.monotonic()
        flip(edge, "green", since=stamp(0))
        assert time.monotonic() - began >= 2  # one check may have begun before, and the next one must have come
        flip(edge, "blue", since=stamp(3600), target_timeout=0)  # nothing to wait for
        refused(edge, "bad_options", "argument 'since': expected UTC", **GREEN, since="2026-11-21T08:45:00.+5Z")


# The error budget


def watch(seconds: float, **more: t.Any) -> dict[str, t.Any]:
    return {"error_budget": {"watch": seconds, **more}}


@all_versions
def test_a_colour_that_breaks_after_the_flip_is_left_before_the_watch_ends(version: str) -> None:
    with Edge(version=version) as edge:
        with looks(edge) as looked, watching(edge, error_budget={"watch": 600}) as running:
            assert ask(edge, "green", 40) == 0
            looked(1)
            edge.switch("green", "web", "fail-app")
            # Sooner or later one of these goes to blue again.
            with edge.load(1) as load:
                result = running.wait(60)
        taken_back(edge, result, "budget_broken", "requests failed (", "of the old colour")
        budget = result["flip"]["budget"]
        assert budget["requests"] == 40 + budget["failed"] and budget["share_before"] == 0 and budget["own_requests"] == 0
        assert budget["share"] == pytest.approx(budget["failed"] / budget["requests"]) and budget["share"] > 0.05
        assert f"{budget['failed']} of {budget['requests']} requests failed" in result["msg"]
        # The counters were read a moment before the way back.
        assert load.report["failed"] >= budget["failed"] and set(load.report["kinds"]) == {"status 500"}


def flip_and_ask(edge: Edge, blue: t.Callable[[], t.Any], share: int, requests: int, **budget: t.Any) -> dict[str, t.Any]:
    """To green, of whose requests that share fails; `blue` is what users do while blue still serves and green is looked at.
    All requests have come when the watch begins, which just looks at them."""
    edge.switch("green", "web", f"share {share}")
    with flipped_and_held(edge, blue, **watch(0.01, **budget)) as running:
        assert ask(edge, "green", requests) == requests * share / 100
    edge.switch("blue", "web", "ok")  # so that it says its name whenever it is asked
    return running.wait()


def asked_of_blue(edge: Edge, share: int, many: int) -> None:
    edge.switch("blue", "web", f"share {share}")
    assert ask(edge, "blue", many) == many * share / 100


@all_versions
def test_failures_are_compared_with_those_of_the_old_colour_just_before(version: str) -> None:
    def flip_to(share: int, requests: int = 100, **budget: t.Any) -> dict[str, t.Any]:
        return flip_and_ask(edge, lambda: asked_of_blue(edge, 30, 100), share, requests, **budget)

    with Edge(version=version) as edge:
        budget = flip_to(30, max_share=0.1)["flip"]["budget"]
        assert (budget["requests"], budget["failed"], budget["share"]) == (100, 30, 0.3)
        assert (budget["requests_before"], budget["share_before"]) == (100, 0.3)
        agree(edge, "green")
        flip(edge, "blue")
        broken = flip_to(60, max_share=0.1)
        taken_back(edge, broken, "budget_broken",
                   "60 of 100 requests failed (60.0 %, allowed 10.0 % above the 30.0 % of the old colour just before the flip)")
        assert flip_to(50, max_share=0.5)["flip"]["budget"]["failed"] == 50
        flip(edge, "blue")
        taken_back(edge, flip_to(100, 8, max_share=1.0, max_failed=7), "budget_broken", "8 of 8 requests failed, more than 7")
        broken = flip_to(40, max_share=0.5, max_total=0.35)
        taken_back(edge, broken, "budget_broken", "40 of 100 requests failed (40.0 %, allowed 35.0 % whatever the old colour did)")


@all_versions
def test_what_the_old_colour_did_long_ago_excuses_nothing(version: str) -> None:
    """Nor do a few requests that failed on it just before, which may be chance."""
    with Edge(version=version) as edge:
        asked_of_blue(edge, 60, 100)
        for just_before, share in ((lambda: asked_of_blue(edge, 0, 20), 0), (lambda: asked_of_blue(edge, 100, 19), 0)):
            broken = flip_and_ask(edge, just_before, 40, 100, max_share=0.02)
            taken_back(edge, broken, "budget_broken",
                       "40 of 100 requests failed (40.0 %, allowed 2.0 % above the 0.0 % of the old colour just before the flip)")
            assert broken["flip"]["budget"]["share_before"] == share
        # Counters that begin again in between hide nothing of what came after that.
        def cleared() -> None:
            edge.ask("clear counters all")
            asked_of_blue(edge, 60, 20)

        asked_of_blue(edge, 0, 100)
        budget = flip_and_ask(edge, cleared, 60, 100, max_share=0.02)["flip"]["budget"]
        assert (budget["requests_before"], budget["share_before"]) == (20, 0.6)
        agree(edge, "green")


@all_versions
def test_nobody_is_led_back_to_a_colour_that_was_worse(version: str) -> None:
    with Edge(version=version) as edge:
        result = flip_and_ask(edge, lambda: asked_of_blue(edge, 60, 20), 40, 100, max_total=0.1)
        assert result["failed"] and result["changed"] and result["reason"] == "budget_broken", result
        assert not result["flip"]["reverted"] and "allowed 10.0 % whatever the old colour did" in result["msg"]
        assert "green stays active, since 12 of 20 requests (60.0 %) had failed on blue just before the flip" in result["msg"]
        assert result["stays"].startswith("12 of 20 requests (60.0 %) had failed on blue")
        edge.switch("green", "web", "ok")
        agree(edge, "green")
        void, blue = ("green", RELEASES["green"], "void"), ("blue", "-", "good")
        assert history(edge) == [void, blue] and call(INFO, edge.place)["previous"]["open"]
        # It is no better by being asked for again: it is watched, and there is nothing to go back to.
        again = call(MODULE, {**edge.options, **GREEN, **watch(0.01)})
        assert again["failed"] and not again["changed"] and "only 0 requests" in again["msg"], again
        assert history(edge) == [void, blue] and edge.live() == "green" and not list(edge.state_dir.glob("intent*"))
        assert flip(edge, "green", prove=prove(edge), **watch(0.01, min_requests=3))["flip"]["budget"]["requests"] == 3
        assert history(edge)[0] == ("green", RELEASES["green"], "good")
        agree(edge, "green")


@all_versions
def test_when_nobody_is_awake_we_ask_ourselves_or_fail(version: str) -> None:
    with Edge(version=version) as edge:
        edge.answer()
        result = call(MODULE, {**edge.options, **GREEN, **watch(0.4)})
        taken_back(edge, result, "budget_broken", "only 0 requests in 0.4 s, but 20 are needed to judge; with prove the task makes the missing ones")
        asked = edge.counts("green").get("/api/v1/health", 0)
        result = flip(edge, "green", prove=prove(edge), **watch(0.6, min_requests=25))
        # All the proof's own requests also came to the server, which is how they count.
        assert 24 <= result["flip"]["budget"]["own_requests"] <= 25 <= result["flip"]["budget"]["requests"]
        assert edge.counts("green")["/api/v1/health"] == asked + 1 + result["flip"]["budget"]["own_requests"]
        assert flip(edge, "blue", **watch(0.2, min_requests=0))["flip"]["budget"]["requests"] == 0
        # Our own requests judge, too.
        proof = prove(edge, url=edge.url, release_field=None, text="green")
        running = Call(MODULE, {**edge.options, **GREEN, "prove": proof, **watch(600, min_requests=60_000, max_failed=3)})
        with ended(running):
            wait_for(lambda: edge.counts("green").get("/", 0) > 5, "requests of our own")
            edge.switch("green", "web", "fail-app")
            taken_back(edge, running.wait(60), "budget_broken", "requests failed, more than 3")


@all_versions
def test_a_component_without_servers_is_left_before_the_watch_ends(version: str) -> None:
    """Nobody asks for that component, so that no request fails: it is seen in the health checks."""
    with Edge(version=version, components=("web", "api")) as edge, edge.load(4, pause=2) as load:
        with watching(edge) as running:
            edge.switch("green", "api", "fail-health")
            result = running.wait(60)
        taken_back(edge, result, "budget_broken", "shop-api-{color} has no server of green that is up")
    assert load.report["failed"] == 0


@all_versions
@pytest.mark.parametrize("inter", [100, 2000])
def test_a_reload_or_cleared_counters_in_between_neither_break_nor_hide_anything(version: str, inter: int) -> None:
    with Edge(version=version, inter=inter) as edge:
        with looks(edge) as looked, watching(edge) as running:
            for reset in (lambda: edge.ask("clear counters all"), edge.reload):
                assert ask(edge, "green", 30) == 0
                looked(1)
                reset()
                looked(1)
            with edge.load(4, requests=30) as load:
                load.wait()
            looked(1)
            # The old worker may have taken one more, whose count went with it.
            assert 0 < count(edge, "green")[0] <= 30
            running.process.send_signal(signal.SIGTERM)  # it would watch for ten minutes
            result = running.wait(60)
        assert result["reason"] == "interrupted" and load.report["failed"] == 0, result
        assert (result["flip"]["budget"]["requests"], result["flip"]["budget"]["failed"]) == (60 + count(edge, "green")[0], 0)
        agree(edge, "blue", record=False)


@all_versions
def test_failures_before_the_counters_were_cleared_are_not_forgotten(version: str) -> None:
    with Edge(version=version) as edge:
        with looks(edge) as looked, watching(edge, error_budget={"max_failed": 50, "max_share": 1}) as running:
            edge.switch("green", "web", "fail-app")
            assert ask(edge, "green", 30) == 30
            looked(1)
            edge.ask("clear counters all")
            looked(1)
            with edge.load(1):
                result = running.wait(60)
        edge.switch("green", "web", "ok")
        failed = result["flip"]["budget"]["failed"]
        taken_back(edge, result, "budget_broken", f"{failed} of {failed} requests failed, more than 50")


# The drain


@all_versions
def test_sessions_that_stay_are_told_and_not_cut(version: str) -> None:
    with Edge(version=version) as edge, edge.load(1, ws=True, fresh_share=1, pause=5) as load:
        wait_for(lambda: call(INFO, edge.place)["colors"]["blue"]["sessions"], "the WebSocket")
        began, result = time.monotonic(), flip(edge, "green", drain_timeout=1, deploy_id=ID)
        assert time.monotonic() - began >= 1 and result["flip"]["sessions_left"] == 1
        assert result["flip"]["milliseconds"]["drain"] >= 1000 and result["changed"] and result["colors"]["blue"]["sessions"] == 1
        agree(edge, "green")
        before = edge.counts("blue")["frames"]
        wait_for(lambda: edge.counts("blue")["frames"] > before + 1, "the WebSocket still carries")
    assert load.report["failed"] == 0 and load.report["web_socket"]["cut"] is None and load.report["web_socket"]["colour"] == "blue"


@all_versions
def test_the_drain_ends_when_the_last_session_does(version: str) -> None:
    with Edge(version=version) as edge:
        assert flip(edge, "green", drain_timeout=600)["flip"]["sessions_left"] == 0
        with edge.load(1, ws=True, pause=5) as load:
            wait_for(lambda: call(INFO, edge.place)["colors"]["green"]["sessions"], "the WebSocket")
            with looks(edge) as looked:
                running = draining(edge, looked, "blue")
                load.end()
                result = running.wait(60)
        assert not result.get("failed") and result["flip"]["sessions_left"] == 0 and load.report["web_socket"]["cut"] is None, result
        agree(edge, "blue")


@all_versions
def test_a_signal_ends_the_drain_and_nothing_else(version: str) -> None:
    with Edge(version=version) as edge, edge.load(1, ws=True, pause=5):
        wait_for(lambda: call(INFO, edge.place)["colors"]["blue"]["sessions"], "the WebSocket")
        with looks(edge) as looked:
            running = draining(edge, looked, "green")
            running.process.send_signal(signal.SIGTERM)
            running.wait(60)
        agree(edge, "green")
        before = everything(edge)
        assert not flip(edge, "green")["changed"] and everything(edge) == before


def draining(edge: Edge, looked: t.Callable[[int], None], color: str) -> Call:
    """A run that has flipped, and waits for the sessions of the old colour, for ten minutes if need be."""
    running = Call(MODULE, {**edge.options, "color": color, "release": RELEASES[color], "drain_timeout": 600})
    wait_for(lambda: history(edge)[:1] == [(color, RELEASES[color], "good")], "the record")
    looked(10)  # more than what looking at its own work takes
    assert running.process.poll() is None, running.wait()
    return running
