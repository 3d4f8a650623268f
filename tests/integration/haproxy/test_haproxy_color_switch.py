# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_color_switch by map, against real HAProxy: the flip itself, its record, the way to `previous`, adoption, and what info tells.

The gates are in test_haproxy_color_switch_gates.py, the method reload in test_haproxy_color_switch_reload.py, what goes wrong in
tests/faults.
What is essential runs on each version of HAProxy, the rest on one of them (see harness.py).
"""
from __future__ import annotations

import copy
import os
import re
import typing as t
from pathlib import Path

import pytest
from color_switch import (
    BLUE, GREEN, ID, INFO, LATER, MODULE, TIME, VERSIONS, agree, all_versions, everything, flip, history, layouts, prove, recorded, refused)
from edge import RELEASES, Call, Edge, call, wait_for
from harness import CORES, GOES_ON, LOCAL, Ansible

# The flip


@pytest.mark.every_version
@all_versions
@layouts
def test_a_flip_and_the_way_back_under_load(version: str, layout: str) -> None:
    with Edge(version=version, layout=layout) as edge:
        pid, others = edge.worker_pid(), edge.map.read_text().splitlines()[:2]
        with edge.load(8, ws=True) as load:
            there = flip(edge, "green", prove=prove(edge), deploy_id=ID)
            agree(edge, "green")
            back = flip(edge, "previous", prove=prove(edge, release_field=None, text='"colour":"blue"'))
            agree(edge, "blue")
        assert edge.worker_pid() == pid and edge.map.read_text().splitlines()[:2] == others
        assert load.report["failed"] == 0 and load.report["keepalive_retries"] == 0, load.report["kinds"]
        # Not by `changes`, which two flips may be too near to each other for.
        words = [word for word, *_ in load.report["runs"]]
        assert words[0] == "blue" and "green" in words and "blue" in words[words.index("green"):], words
        assert load.report["web_socket"]["cut"] is None
        assert there["changed"] and there["active"] == "green" and there["release"] == RELEASES["green"] and there["drift"] == []
        assert there["undo"] == "color: previous, or color: blue" and there["loss"] == []
        assert there["flip"]["proof"]["status"] == 200 and there["flip"]["proof"]["tries"] == 1 and not there["flip"]["reverted"]
        assert set(there["flip"]["milliseconds"]) == {"target", "flip", "prove", "record"}
        assert [step["step"] for step in there["steps"]] == there["plan"] and len(there["plan"]) == 3
        assert back["previous"] == {"color": "green", "release": RELEASES["green"], "open": True, "why": None}
        # Blue was found active: whatever it holds, nobody has told its release.
        assert history(edge) == [("blue", "-", "good"), ("green", RELEASES["green"], "good"), ("blue", "-", "good")]
        assert ID in (edge.state_dir / "active-color.history").read_text().splitlines()[1]
        assert {path.name: path.stat().st_mode & 0o777 for path in edge.state_dir.glob("active-color*")} == {
            "active-color": 0o644, "active-color.history": 0o644}


@all_versions
@layouts
def test_check_mode_tells_what_the_run_does_and_the_second_run_does_nothing(version: str, layout: str) -> None:
    with Edge(version=version, layout=layout) as edge:
        options = {**edge.options, **GREEN, "prove": prove(edge), "error_budget": {"watch": 0.3, "min_requests": 3}, "drain_timeout": 1}
        before = everything(edge)
        asked = edge.counts("green").get("/api/v1/health", 0)
        told = call(MODULE, options, check=True, diff=True)
        assert everything(edge) == before and edge.counts("green").get("/api/v1/health", 0) == asked
        assert told["changed"] and set(told["gates"].values()) == {"not evaluated"}
        assert set(told["gates"]) == {"target", "prove", "error_budget", "drain"}
        done = call(MODULE, options, diff=True)
        assert (told["plan"], told["plan_id"], told["before"], told["after"], told["undo"]) == (
            done["plan"], done["plan_id"], done["before"], done["after"], done["undo"])
        assert told["diff"] == done["diff"] and "set shop-staging from blue to green" in done["diff"][1]["prepared"]
        assert done["diff"][0]["before"]["active"] == "blue" and done["diff"][0]["after"]["active"] == "green"
        assert done["flip"]["sessions_left"] == 0 and done["flip"]["budget"]["requests"] >= 3
        after = everything(edge)
        for check in (True, False):
            again = call(MODULE, options, check=check, diff=True)
            assert not again["changed"] and again["plan"] == [] and again["active"] == "green", again
        assert everything(edge) == after and len(history(edge)) == 2


@all_versions
def test_components_flip_together(version: str) -> None:
    components = ("web", "api", "stream")
    with Edge(version=version, components=components, processes=1) as edge:
        result = flip(edge, "green")
        agree(edge, "green")
        assert {server["backend"] for server in result["colors"]["green"]["servers"]} == {f"shop-{name}-green" for name in components}
        assert result["colors"]["green"]["up"] and result["colors"]["blue"]["up"]


FILE = (b"# shop-staging shop-green, they say\r\n\n  other-app  shop-blue \nshop-staging-2 shop-blue\r\nshop-staging\t shop-blue \r\n"
        b"shop shop-blue\n#shop-staging shop-green\n\xc3\xa9t\xc3\xa9 shop-staging\nlast shop-blue")


@all_versions
def test_only_the_value_of_the_key_changes(version: str) -> None:
    with Edge(version=version, map_value="shop-{color}") as edge:
        edge.map.write_bytes(FILE)
        edge.map.chmod(0o640)
        os.chown(edge.map, 12345, 54321)
        edge.restart()
        assert edge.live() == "shop-blue" and edge.answer() == "blue 1111111"
        result = flip(edge, "green")
        expected = FILE.replace(b"\t shop-blue \r", b"\t shop-green \r")
        assert expected != FILE and edge.map.read_bytes() == expected
        assert (edge.map.stat().st_mode & 0o777, edge.map.stat().st_uid, edge.map.stat().st_gid) == (0o640, 12345, 54321)
        assert edge.live() == "shop-green" and edge.answer() == "green 2222222" and result["places"]["live"] == "shop-green"
        assert recorded(edge) == "green\n"
        edge.restart()  # what the file says is what HAProxy reads
        assert edge.answer() == "green 2222222"
        flip(edge, "blue")
        assert edge.map.read_bytes() == FILE


@all_versions
def test_each_of_several_processes_is_flipped(version: str) -> None:
    with Edge(version=version, processes=3) as edge, edge.load(4) as load:
        result = flip(edge, "green")
        agree(edge, "green")
        assert "of 3 HAProxy processes" in result["plan"][0] and result["places"]["live"] == "green"
        assert len(result["colors"]["green"]["servers"]) == 3
    assert load.report["failed"] == 0


@all_versions
@pytest.mark.parametrize("how", ["tcp", "unix prefix", "found", "named"])
def test_sockets_and_backends_are_named_or_found(version: str, how: str) -> None:
    with Edge(version=version, tcp_stats=how == "tcp") as edge:
        given = dict(edge.options)
        del given["stats_socket"]
        given |= {
            "tcp": {"stats_socket": [edge.tcp_stats]}, "unix prefix": {"stats_socket": [f"unix@{edge.stats}"]}, "found": {},
            # Then the configuration need not even be there.
            "named": {"stats_socket": [edge.stats], "backends": ["shop-web-{color}"], "config": "/nonexistent/haproxy.cfg"},
        }[how]
        result = call(MODULE, given | GREEN)
        assert result["changed"] and not result.get("failed"), result
        agree(edge, "green")
        assert [server["server"] for server in result["colors"]["green"]["servers"]] == ["web-green"]


def test_as_a_task_of_a_playbook(tmp_path: Path) -> None:
    with Edge(version=VERSIONS[0]) as edge:
        hosts = {"local": {**LOCAL["local"], "ansible_python_interpreter": "/nonexistent"}}
        ansible = Ansible(CORES[-1], tmp_path, hosts)
        header = {"Authorization": "Bearer s3cret-of-a-header"}
        task = {**edge.options, **GREEN, "prove": prove(edge, headers=header), "probe": {"path": "/health", "headers": header}}
        failing = {**task, **BLUE, "prove": prove(edge, headers=header, status=[299], url=f"{edge.url}api/v1/health?a")}
        runs = [ansible.one(MODULE, task, "local", "--check", "--diff"), ansible.one(MODULE, task, "local", "--diff"),
                ansible.one(MODULE, task, "local"), ansible.one(MODULE, failing, "local", "--diff", **GOES_ON),
                ansible.one(INFO, edge.place, "local")]
        agree(edge, "green")
        check, done, again, back, info = (run.only for run in runs)
        assert [one.status for one in (check, done, again, back, info)] == ["ok", "ok", "ok", "failed", "ok"], [run.output for run in runs]
        assert check["changed"] and done["changed"] and not again["changed"] and check["plan"] == done["plan"]
        assert back["reason"] == "not_proven" and back["flip"]["reverted"] and info["active"] == "green"
        for run in runs:
            assert "s3cret-of-a-header" not in run.output and "s3cret" not in str([task.result for task in run.tasks])
        assert all(f"shop-staging from blue to green in the live map {edge.map}" in run.output for run in runs[:2])


# The way to previous


@all_versions
def test_previous_goes_there_and_back_and_knows_the_release(version: str) -> None:
    with Edge(version=version) as edge:
        refused(edge, "no_previous", "the history has no entry of green", "name the color", color="previous")
        flip(edge, "blue")
        flip(edge, "green")
        asked = {"release_field": "build.sha"}
        result = flip(edge, "previous", prove=prove(edge, **asked), probe={"path": "/health", "tries": 1, **asked})
        assert result["release"] == RELEASES["blue"] and "release 1111111" in result["plan"][0]
        agree(edge, "blue")
        assert flip(edge, "previous", prove=prove(edge))["release"] == RELEASES["green"]
        agree(edge, "green")
        assert [line[0] for line in history(edge)] == ["green", "blue", "green", "blue"]


@all_versions
def test_previous_is_refused_where_one_must_not_go(version: str) -> None:
    with Edge(version=version) as edge:
        flip(edge, "blue")
        flip(edge, "green", void=True)
        assert history(edge) == [("green", RELEASES["green"], "good"), ("blue", RELEASES["blue"], "void")]
        why = "blue holds release 1111111, which is void"
        assert call(INFO, edge.place)["previous"] == {"color": "blue", "release": RELEASES["blue"], "open": False, "why": why}
        refused(edge, "void", why, "name the color", color="previous")
        assert any("1111111 on blue was marked as void" in warning for warning in flip(edge, "blue")["warnings"])
        flip(edge, "green")
        edge.switch("blue", "web", "fail-health")
        wait_for(lambda: "DOWN" in str(call(INFO, edge.place)["colors"]["blue"]), "blue is down")
        assert not call(INFO, edge.place)["previous"]["open"] and "DOWN" in call(INFO, edge.place)["previous"]["why"]
        refused(edge, "target_down", "shop-web-blue/web-blue is DOWN", color="previous", target_timeout=0.2)


@all_versions
def test_a_rollback_is_done_once_under_its_id(version: str) -> None:
    with Edge(version=version) as edge:
        flip(edge, "blue")
        flip(edge, "green", deploy_id=ID)
        assert flip(edge, "previous", rollback_id=LATER)["changed"]
        agree(edge, "blue")
        before = everything(edge)
        again = flip(edge, "previous", rollback_id=LATER)
        assert not again["changed"] and "is not done again" in str(again["warnings"]) and again["active"] == "blue"
        assert everything(edge) == before
        assert LATER in (edge.state_dir / "active-color.history").read_text().splitlines()[0]
        assert flip(edge, "previous")["changed"] and flip(edge, "previous")["changed"]  # without an id it goes there and back
        agree(edge, "blue")


@all_versions
def test_as_many_lines_are_kept_as_were_asked_for(version: str) -> None:
    with Edge(version=version) as edge:
        for turn in range(7):
            flip(edge, "green" if turn % 2 == 0 else "blue", history=5 if turn < 6 else 2)
            assert len(history(edge)) == min(turn + 2, 5) if turn < 6 else 2
        refused(edge, "bad_options", "argument 'history': expected at least 2", color="blue", history=1)


# Adoption


@all_versions
def test_a_flip_by_hand_while_we_were_away_is_told_and_not_undone(version: str) -> None:
    with Edge(version=version) as edge:
        flip(edge, "blue")
        edge.ask(f"set map {edge.map} {edge.map_key} green")
        edge.map.write_text(edge.map.read_text().replace(f"{edge.map_key} blue", f"{edge.map_key} green"))
        told = call(INFO, edge.place)
        note = f"{edge.state_dir}/active-color says \"blue\", but green is active: someone has flipped by hand"
        assert told["active"] == "green" and told["drift"] == [note] and told["release"] is None
        assert told["places"] == {"live": "green", "file": "green", "record": "blue"}
        result = flip(edge, "green")
        assert result["changed"] and note in result["warnings"] and len(result["plan"]) == 1  # only the record
        agree(edge, "green")
        assert history(edge) == [("green", RELEASES["green"], "good"), ("blue", RELEASES["blue"], "good")]
        assert call(INFO, edge.place)["drift"] == [] and not flip(edge, "green")["changed"]


@all_versions
@pytest.mark.parametrize("where", ["live", "file", "live, never adopted"])
def test_what_was_changed_by_hand_in_one_place_only_is_refused_until_it_is_settled(version: str, where: str) -> None:
    with Edge(version=version) as edge:
        if where != "live, never adopted":
            flip(edge, "blue")
        if where == "file":
            edge.map.write_text(edge.map.read_text().replace(f"{edge.map_key} blue", f"{edge.map_key} green"))
        else:
            edge.ask(f"set map {edge.map} {edge.map_key} green")
        live, file = ("blue", "green") if where == "file" else ("green", "blue")
        sentence = f"the value of shop-staging is {live} in the live HAProxy, and {file} in {edge.map}"
        for color in ("blue", "green"):
            result = refused(edge, "drift", sentence, "nothing was changed", "drift: settle", color=color)
            assert result["drift"] == [sentence]
        assert sentence in call(INFO, edge.place)["drift"]
        told = call(MODULE, {**edge.options, **GREEN, "drift": "settle"}, check=True)
        done = flip(edge, "green", drift="settle")
        assert told["plan"] == done["plan"] and told["after"] == done["after"] and sentence in done["warnings"]
        agree(edge, "green")


# What info tells


@all_versions
def test_info_tells_what_is_and_changes_nothing(version: str) -> None:
    def told() -> dict[str, t.Any]:
        before = everything(edge)
        result = call(INFO, edge.place)
        assert everything(edge) == before and result.pop("changed") is False
        return result

    with Edge(version=version) as edge:
        new = told()
        assert not edge.state_dir.exists()
        server = {"backend": "shop-web-blue", "server": "web-blue", "status": "UP", "check": "L7OK", "sessions": 0,
                  "address": edge.app_url("blue").split("/")[2]}
        assert new["colors"]["blue"] == {"up": True, "sessions": 0, "servers": [server]}
        del new["colors"]
        assert new == {"active": "blue", "release": None, "drift": [], "history": [], "unfinished": None,
                       "previous": {"color": None, "release": None, "open": False, "why": "the history has no entry of green"},
                       "places": {"live": "blue", "file": "blue", "record": None}}
        result = flip(edge, "green", deploy_id=ID)
        adopted = told()
        shared = copy.deepcopy({key: result[key] for key in adopted if key != "colors"})
        assert {key: adopted[key] for key in shared} == shared
        assert adopted["history"][0].pop("time") and adopted["history"][0] == {
            "color": "green", "release": RELEASES["green"], "deploy_id": ID, "verdict": "good"}
        assert adopted["release"] == RELEASES["green"] and adopted["previous"]["open"]
        with edge.load(2, path="slow?ms=300"):
            assert told()["colors"]["green"]["sessions"] > 0
        edge.switch("blue", "web", "refuse")
        wait_for(lambda: not told()["colors"]["blue"]["up"], "blue is seen down")
        down = told()
        assert down["colors"]["blue"]["servers"][0]["check"] in ("L4CON", "L7RSP") and not down["previous"]["open"]
        edge.switch("blue", "web", "ok")
        call_that_dies = Call(MODULE, {**edge.options, **BLUE, "error_budget": {"watch": 30}, "target_timeout": 5})
        wait_for(lambda: edge.live() == "blue", "the flip")
        call_that_dies.kill()
        killed = told()
        assert re.fullmatch(TIME, killed["unfinished"]) and killed["active"] == "blue" and list(edge.state_dir.glob("intent*"))
        edge.ask(f"del map {edge.map} {edge.map_key}")
        nothing = told()
        assert nothing["active"] is None and nothing["places"]["live"] is None and not nothing["previous"]["open"]
        assert nothing["previous"]["why"] == "the active colour is not known"
