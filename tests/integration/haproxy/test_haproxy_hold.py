# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_hold against real HAProxy, with two threads: requests wait while the only server restarts, and how that ends.

What is killed half way is in tests/faults/haproxy/test_haproxy_hold_killed.py.
"""
from __future__ import annotations

import time
import typing as t

import pytest
from color_switch import ID, LATER, all_versions
from edge import Edge, call, wait_for
from holds import BACKEND, INFO, MODULE, Request, held, hold, nothing_is_held, options, wait_until_waiting

MANY = 20


def status_of(edge: Edge) -> str:
    return next(row["status"] for row in edge.rows() if row["svname"] == "web-blue")


def refused(edge: Edge, reason: str, *words: str, **more: t.Any) -> None:
    """In one line, and nothing was changed."""
    before = edge.shape.hold_map.read_text() if edge.shape.hold else None
    result = call(MODULE, options(edge, **more))
    assert result.get("failed") and result["reason"] == reason and not result.get("changed"), result
    assert all(word in result["msg"] for word in words) and "\n" not in result["msg"], result["msg"]
    assert before is None or edge.shape.hold_map.read_text() == before


@pytest.mark.every_version
@all_versions
def test_nobody_fails_while_the_only_server_restarts(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        with edge.load(MANY) as load:
            began = time.monotonic()
            there = hold(edge, "held", backends=[BACKEND])
            wait_until_waiting(edge, MANY)
            edge.stop_app("blue")
            wait_for(lambda: status_of(edge) == "DOWN", "HAProxy sees that the server is down")
            edge.start_app("blue")
            # It has waited for a second at least, of which each request was there for all but the beginning.
            wait_for(lambda: time.monotonic() - began > 1.2, "a second")
            back = hold(edge, "released", backends=[BACKEND])
            asked = edge.counts("blue")
            wait_for(lambda: sum(edge.counts("blue").values()) > sum(asked.values()) + MANY, "requests go on")
        assert load.report["failed"] == 0, load.report["kinds"]
        assert load.report["milliseconds"]["max"] > 1000
        assert there["changed"] and there["undo"].startswith("state: released") and there["loss"] == []
        assert there["hold"]["held"] and there["hold"]["under_way"] == 0 and "warnings" not in there
        numbers = back["hold"]
        assert back["changed"] and not numbers["held"] and "warnings" not in back, back
        assert numbers["waited"] == MANY and numbers["waiting"] == 0 and 1 < numbers["longest"] < 30
        assert (numbers["refused"], numbers["expired"], numbers["left"], numbers["under_way"]) == (0, 0, 0, 0)
        nothing_is_held(edge)


@all_versions
def test_check_mode_shows_the_plan_and_the_second_run_does_nothing(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        shown = hold(edge, "held", check=True, deploy_id=ID, backends=[BACKEND])
        nothing_is_held(edge)
        assert not edge.state_dir.exists()
        done = hold(edge, "held", deploy_id=ID, backends=[BACKEND])
        assert done["changed"] and shown["plan"] == done["plan"] and len(done["plan"]) == 2 and shown["plan_id"] == done["plan_id"]
        file = edge.shape.hold_map.read_text()
        assert file.startswith(f"{edge.map_key} since=") and file.endswith(f",by={ID}\n")
        again = hold(edge, "held", deploy_id=ID, backends=[BACKEND])
        assert not again["changed"] and again["hold"] == done["hold"] and edge.shape.hold_map.read_text() == file
        told = held(edge)[edge.map_key]
        assert told["held"] and told["deploy_id"] == ID and done["hold"] == told | {"under_way": 0}
        # A newer run takes over; an older one is refused from then on, and cannot release either.
        assert hold(edge, "held", deploy_id=LATER)["hold"]["deploy_id"] == LATER
        for state in ("held", "released"):
            refused(edge, "superseded", LATER, state=state, deploy_id=ID)
        gone = hold(edge, "released", check=True)
        assert gone["changed"] and gone["plan"] == hold(edge, "released")["plan"]
        nothing_is_held(edge)
        assert not hold(edge, "released")["changed"] and hold(edge, "released")["hold"] is None


@all_versions
def test_who_comes_when_enough_wait_is_refused_at_once(version: str) -> None:
    with Edge(version=version, hold=True, hold_requests=3) as edge:
        hold(edge, "held")
        waiting = [Request(edge) for _ in range(3)]
        wait_until_waiting(edge, 3)
        said = [Request(edge).answer() for _ in range(2)]
        for answer in said:
            head = answer.partition("\r\n\r\n")[0].lower().splitlines()
            assert head[0].startswith("http/1.1 503 ") and "retry-after: 1" in head, answer
        assert not any(request.has_answer() for request in waiting)
        back = hold(edge, "released")
        assert all(request.answer().startswith("HTTP/1.1 200 ") for request in waiting)
        assert (back["hold"]["waited"], back["hold"]["refused"]) == (3, 2)
        assert "2 requests" in back["warnings"][0] and "since 3 waited" in back["warnings"][0]
        assert call(INFO, {"stats_socket": edge.all_stats})["limits"] == {"seconds": 60, "requests": 3}


@all_versions
def test_a_hold_that_nobody_releases_ends_by_itself(version: str) -> None:
    """As when the controller is lost: nothing more is done."""
    with Edge(version=version, hold=True, more="    timeout client 500ms\n    timeout http-request 500ms\n") as edge:
        hold(edge, "held", most=1.5)
        began, request = time.monotonic(), Request(edge)
        wait_until_waiting(edge, 1)
        assert request.answer().startswith("HTTP/1.1 200 ")
        assert time.monotonic() - began > 1
        told = held(edge)[edge.map_key]
        assert not told["held"] and (told["waited"], told["expired"], told["waiting"]) == (1, 1, 0) and told["longest"] > 1
        assert edge.answer().startswith("blue ")
        assert held(edge)[edge.map_key]["waited"] == 1
        back = hold(edge, "released", backends=[BACKEND])
        assert back["changed"] and "ended by itself" in back["warnings"][0] and back["plan"][0].startswith("release ")
        nothing_is_held(edge)
        assert not hold(edge, "released")["changed"]
        # What the script takes for a mistake, such as a clock that was set back, holds nobody.
        edge.ask(f"add map {edge.shape.hold_map} {edge.map_key} since=1,until=99999999999999,by=-")
        assert edge.answer().startswith("blue ") and not held(edge)[edge.map_key]["held"]
        hold(edge, "released")


@all_versions
def test_a_reload_neither_frees_nor_forgets_who_waits(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        with edge.load(MANY) as load:
            hold(edge, "held")
            wait_until_waiting(edge, MANY)
            edge.reload()
            new = Request(edge)
            # Those of the worker that the reload has left, and the one that the new worker holds.
            wait_until_waiting(edge, MANY + 1)
            assert not new.has_answer()
            back = hold(edge, "released")
            assert new.answer().startswith("HTTP/1.1 200 ")
            asked = edge.counts("blue")
            wait_for(lambda: sum(edge.counts("blue").values()) > sum(asked.values()) + MANY, "requests go on")
        assert load.report["failed"] == 0, load.report["kinds"]
        assert back["hold"]["waited"] == MANY + 1 and back["hold"]["waiting"] == 0 and back["hold"]["expired"] == 0
        nothing_is_held(edge)


@all_versions
def test_who_goes_away_takes_nobodys_place_in_the_next_hold(version: str) -> None:
    with Edge(version=version, hold=True, hold_requests=2) as edge:
        hold(edge, "held")
        gone, stays = Request(edge), Request(edge)
        wait_until_waiting(edge, 2)
        gone.leave()
        back = hold(edge, "released")
        assert stays.answer().startswith("HTTP/1.1 200 ")
        assert back["hold"]["waited"] == 2 and back["hold"]["expired"] == 0
        hold(edge, "held")
        both = [Request(edge), Request(edge)]
        wait_until_waiting(edge, 2)
        assert hold(edge, "released")["hold"]["refused"] == 0
        assert all(request.answer().startswith("HTTP/1.1 200 ") for request in both)


@all_versions
def test_another_app_does_not_wait(version: str) -> None:
    with Edge(version=version, hold=True, components=("web", "other")) as edge:
        hold(edge, "held")
        request = Request(edge)
        wait_until_waiting(edge, 1)
        with edge.load(8, component="other", requests=400) as load:
            assert load.wait()["failed"] == 0
        assert not request.has_answer() and set(held(edge)) == {edge.map_key}
        # Both are held, and one is released.
        hold(edge, "held", map_key="other-staging")
        other = Request(edge, "/other/")
        wait_until_waiting(edge, 1, "other-staging")
        assert set(held(edge)) == {edge.map_key, "other-staging"}
        assert hold(edge, "released")["hold"]["waited"] == 1 and request.answer().startswith("HTTP/1.1 200 ")
        assert not other.has_answer() and set(held(edge)) == {"other-staging"}
        hold(edge, "released", map_key="other-staging")
        assert other.answer().startswith("HTTP/1.1 200 ")
        nothing_is_held(edge)


@all_versions
def test_servers_that_do_not_come_are_not_waited_for_without_end(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        hold(edge, "held")
        edge.stop_app("blue")
        wait_for(lambda: status_of(edge) == "DOWN", "HAProxy sees that the server is down")
        request = Request(edge)
        wait_until_waiting(edge, 1)
        back = hold(edge, "released", backends=[BACKEND], up_timeout=0.3)
        assert "no server up: shop-web-blue" in back["warnings"][0] and request.answer().startswith("HTTP/1.1 503 ")
        nothing_is_held(edge)


@all_versions
def test_requests_that_are_under_way_are_waited_for_and_told(version: str) -> None:
    with Edge(version=version, hold=True) as edge:
        edge.switch("blue", "web", "hang")
        request = Request(edge)
        wait_for(lambda: any(row["svname"] == "web-blue" and row["scur"] != "0" for row in edge.rows()), "a request at the server")
        there = hold(edge, "held", backends=[BACKEND], drain_timeout=0.2)
        assert there["hold"]["under_way"] == 1 and "still under way" in there["warnings"][0]
        request.line.close()
        hold(edge, "released")


@all_versions
def test_what_cannot_be_held_is_refused(version: str) -> None:
    with Edge(version=version) as edge:
        refused(edge, "no_script", "reversible.deploy.haproxy", "adopting.md", "nothing was changed")
        assert call(INFO, {"stats_socket": edge.all_stats})["reason"] == "no_script" and not edge.state_dir.exists()
    with Edge(version=version, hold=True, hold_seconds=5, processes=2) as edge:
        refused(edge, "too_long", "5 s", "haproxy_hold_seconds", most=6)
        refused(edge, "no_backend", "shop-web-red", most=5, backends=["shop-web-red"])
        for odd in ("a b", "a;b", "", ".a", "a\nb"):
            refused(edge, "bad_options", "map_key", map_key=odd)
        refused(edge, "bad_options", "most", most=0)
        refused(edge, "no_socket", "is HAProxy running", stats_socket=[edge.stats, str(edge.folder / "none")])
        nothing_is_held(edge)
        # Of one file, at both of its processes.
        hold(edge, "held", most=5)
        assert all(f"{edge.map_key} since=" in edge.ask(f"show map {edge.shape.hold_map}", process) for process in (0, 1))
        # What is left of a hold in one place only is found, and removed.
        edge.ask(f"del map {edge.shape.hold_map} {edge.map_key}")
        assert hold(edge, "released")["changed"]
        nothing_is_held(edge)
