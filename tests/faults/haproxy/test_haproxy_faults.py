# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_color_switch where something is wrong before it begins: with its options, with HAProxy, with the servers, with its files.

Each is refused for its own reason, in one sentence, and nothing is changed. What goes wrong half way is in test_haproxy_killed.py.
"""
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from edge import RELEASES, Call, Edge, call, daemon, module_binary, wait_for
from color_switch import (
    BLUE, GREEN, ID, INFO, LATER, MODULE, agree, all_versions, everything, filed, flip, history, looks, prove, recorded, refused)

BAD = {
    "color": ["red", "Blue", "", 1],
    "map_key": ["a b", "#x", ".x", "a;b", "/x", "a\nb", "x" * 129],
    "release": ["a b", "-", "x" * 129, "a\nb", "a;b"],
    "state_dir": ["state", "/a b", "/a;b"],
    "map": ["active.map", "/a b"],
    "config": ["haproxy.cfg", "/a\\b"],
    "backends": [["shop web"], ["{color}-{color}"], [""], ["shop;web"]],
    "server_name": ["web", "{color}-{color}", "{component}{component}{color}"],
    "stats_socket": [["localhost:99"], ["run/x.sock"], ["127.0.0.1"]],
    "deploy_id": ["x", "20261121", "20261321t084500z-7f3a"],
    "rollback_id": ["x"],
    "target_timeout": [-1, "soon"],
    "drain_timeout": [-0.1, 1e12],
    "since": ["yesterday", "2026-11-21"],
    "history": [0, 1, -3],
    "method": ["dns"],
    "drift": ["ignore"],
    "validate": [["true"], []],
    "master_socket": ["master.sock"],
    "content": ["global\n"],
    "probe": [{"path": "health"}, {"tries": 0}, {"port": 99999}, {"delay": -1}, {"headers": {"A b": "c"}},
              {"headers": {"X-A": "b\r\nX-C: d"}}],
    "prove": [{}, {"url": "ftp://x/"}, {"url": "127.0.0.1"}, {"url": "http://127.0.0.1/", "tries": 0},
              {"url": "http://127.0.0.1/", "timeout": "x"},
              {"url": "http://127.0.0.1/", "headers": {"X-A": "b\nc"}}],
    "error_budget": [{"watch": -1}, {"watch": 1, "max_share": 2}, {"watch": 1, "max_total": -0.1}, {"watch": 1, "max_failed": -1}, {"wait": 1}],
    "no_such_option": [1],
}


@all_versions
def test_bad_options_are_refused_by_name(version: str) -> None:
    with Edge(version=version) as edge:
        for name, values in BAD.items():
            for value in values:
                result = refused(edge, "bad_options", name, **{**GREEN, name: value})
                assert len(result["msg"]) < 400, result["msg"]
        assert not edge.state_dir.exists()
        refused(edge, "bad_options", "release_field", "release", color="green", prove=prove(edge))
        refused(edge, "bad_options", "map", color="green", method="map", map=None)
        agree(edge, "blue", record=False)


# HAProxy and its configuration


@all_versions
def test_a_configuration_that_does_not_say_what_is_needed(version: str) -> None:
    with Edge(version=version) as edge:
        found = {key: value for key, value in edge.options.items() if key != "stats_socket"}
        text, odd = edge.config.read_text(), edge.folder / "odd.cfg"
        edge.options = found | {"config": str(odd)}
        refused(edge, "no_config", f"there is no configuration {odd}", "give config", **GREEN)
        odd.mkdir()
        result = call(MODULE, {**edge.options, **GREEN})
        assert result["failed"] and str(odd) in result["msg"] and "\n" not in result["msg"], result
        odd.rmdir()
        for change, reason, words in (
            (("stats socket", "# stats socket"), "no_socket", ["stats socket <path> level admin", "give stats_socket"]),
            ((f"stats socket {edge.stats}", "stats socket ipv4@127.0.0.1:9"), "no_socket", ["stats socket <path> level admin"]),
            ((text, ""), "no_socket", ["stats socket <path> level admin"]),
            ((f"{edge.stats} ", f"{edge.stats}.none "), "no_socket", ["there is no such socket", "is HAProxy running"]),
        ):
            odd.write_text(text.replace(*change))
            refused(edge, reason, *words, **GREEN)
        odd.write_text(text)
        refused(edge, "no_backends", "for shop-staging, and not for shop-prod", "set map_key to one of them", **GREEN, map_key="shop-prod")
        odd.write_text(text.replace("shop-web-", "shop-"). replace("-blue", "-one").replace("-green", "-two").replace("str(", "req.hdr("))
        refused(edge, "no_backends", "name them in backends", **GREEN)
        odd.write_text(text)
        refused(edge, "target_down", "shop-api-{color} has no green server", **GREEN, backends=["shop-api-{color}"], target_timeout=0)
        agree(edge, "blue", record=False)


@all_versions
def test_an_haproxy_that_does_not_run(version: str) -> None:
    with Edge(version=version) as edge:
        flip(edge, "blue")
        edge.stop()
        before = everything(edge)
        for odd in ("gone", "stale", "a file"):
            Path(edge.stats).unlink(missing_ok=True)
            if odd == "stale":
                with socket.socket(socket.AF_UNIX) as dead:
                    dead.bind(edge.stats)  # as a killed process leaves it: nobody listens
            if odd == "a file":
                Path(edge.stats).write_text("")
            for module, options in ((MODULE, edge.options | GREEN), (INFO, edge.place)):
                result = call(module, options)
                reason = {"gone": "no_socket", "stale": "not_running", "a file": "not_running"}[odd]
                assert result["failed"] and result["reason"] == reason and edge.stats in result["msg"] and "\n" not in result["msg"], result
        Path(edge.stats).unlink()
        assert {key: value for key, value in everything(edge).items() if key != "folder"} == {
            key: value for key, value in before.items() if key != "folder"}
        edge.start()
        assert flip(edge, "green")["changed"]
        agree(edge, "green")


@all_versions
def test_one_of_several_processes_is_gone_and_none_is_flipped(version: str) -> None:
    with Edge(version=version, processes=2) as edge:
        daemon.end(daemon.children({edge.master_pid(1)}))
        refused(edge, "not_running" if Path(edge.all_stats[1]).exists() else "no_socket", edge.all_stats[1], **GREEN)
        assert edge.live() == "blue" and filed(edge) == "blue"


@all_versions
def test_a_process_that_has_just_been_started_is_waited_for(version: str) -> None:
    """One process has checked its servers, the other has not: they are up there by hearsay, which is neither enough nor a failure."""
    with Edge(version=version, processes=2, more="    timeout check 600s\n") as edge:
        edge.switch("green", "web", "slow 600000")  # no check ends
        edge.reload(1)
        assert not call(INFO, edge.place)["colors"]["green"]["up"]
        refused(edge, "target_down", "no check of it has passed yet", **GREEN, target_timeout=0.2)
        running = Call(MODULE, {**edge.options, **GREEN, "target_timeout": 600})
        edge.switch("green", "web", "ok")
        assert running.wait()["changed"]
        agree(edge, "green")


@all_versions
def test_somebody_who_listens_and_never_answers(version: str) -> None:
    with Edge(version=version) as edge, socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(edge.folder / "mute"))
        mute.listen()
        began = time.monotonic()
        refused(edge, "timed_out", "no complete answer within 10 s", **GREEN, stats_socket=[str(edge.folder / "mute")])
        assert time.monotonic() - began >= 10


@all_versions
def test_a_user_without_rights(version: str) -> None:
    with Edge(version=version) as edge:
        binary = Path(shutil.copy(module_binary(MODULE), edge.folder.parent / f"{edge.folder.name}.module"))
        try:
            for name, options in ((MODULE, edge.options | GREEN), (INFO, edge.place)):
                given = {**options, "_ansible_module_name": f"reversible.deploy.{name}"}
                argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary, "-"]
                done = subprocess.run(argv, input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=False)
                result = json.loads(done.stdout)
                assert done.returncode == 1 and "ermission denied" in result["msg"] and "\n" not in result["msg"], result
        finally:
            binary.unlink()
        agree(edge, "blue", record=False)


# The servers of the colour


@all_versions
@pytest.mark.parametrize("layout", ["two-backends", "one-backend"])
def test_servers_that_cannot_take_requests(version: str, layout: str) -> None:
    with Edge(version=version, layout=layout, components=("web", "api", "stream"), more="    timeout check 2s\n") as edge, \
            edge.load(2, pause=2) as load:
        backend = "shop-api-green" if layout == "two-backends" else "shop-api"
        server = f"{backend}/api-green"
        ready = f"set server {server} state ready"
        for wrong, right, words in (
            (f"set server {server} state maint", ready, f"{server} is in maintenance (`{ready}`"),
            (f"set server {server} state drain", ready, f"{server} is DRAIN"),
            (f"disable health {server}", f"enable health {server}", f"{server} is no check (give it a health check: `check`)"),
        ):
            edge.ask(wrong)
            result = refused(edge, "target_down", "green cannot be made active", "after 0.1 s", words, **GREEN, target_timeout=0.1)
            assert "web-green" not in result["msg"] and "stream-green" not in result["msg"]
            edge.ask(right)
        for mode, status in (("fail-health", "L7STS"), ("refuse", "L4CON"), ("hang", "L7TOUT")):
            edge.switch("green", "api", mode)
            wait_for(lambda status=status: ("DOWN", status) in [
                (row["status"], row["check_status"].lstrip("* ")) for row in edge.rows() if row["svname"] == "api-green"], mode)
            refused(edge, "target_down", f"{server} is DOWN ({status})", **GREEN, target_timeout=0.1)
        # What comes up while it is waited for is taken.
        with looks(edge) as looked:
            running = Call(MODULE, {**edge.options, **GREEN, "target_timeout": 600})
            looked(20)
            assert edge.live() == "blue"
            edge.switch("green", "api", "ok")
            assert running.wait()["changed"]
        agree(edge, "green")
    assert load.report["failed"] == 0


@all_versions
def test_a_server_that_flaps_is_not_waited_for(version: str) -> None:
    with Edge(version=version, components=("web", "api")) as edge:
        edge.switch("green", "api", "refuse")
        wait_for(lambda: not call(INFO, edge.place)["colors"]["green"]["up"], "api is down")
        with looks(edge) as looked:
            running = Call(MODULE, {**edge.options, **GREEN, "target_timeout": 600})
            looked(20)
            edge.switch("green", "web", "fail-health")
            result = running.wait(60)
        assert result["reason"] == "target_down" and "web-green became " in result["msg"] and "it is flapping" in result["msg"], result
        agree(edge, "blue", record=False)


@all_versions
def test_one_of_three_in_maintenance_is_left_out(version: str) -> None:
    with Edge(version=version, replicas=3) as edge:
        edge.ask("set server shop-web-green/web-green2 state maint")
        edge.switch("green", "web", "release old", replica=1)
        assert flip(edge, "green", probe={"path": "/health", "release_field": "version", "tries": 1})["changed"]


# The key


@all_versions
def test_a_key_or_a_map_that_is_not_there(version: str) -> None:
    with Edge(version=version) as edge:
        text = edge.map.read_text()
        without = text.replace(f"{edge.map_key} blue\n", "")
        refused(edge, "unknown_map", "HAProxy at", f"has no map {edge.map}.old", f"it has {edge.map}", **GREEN, map=f"{edge.map}.old")
        edge.map.write_text(without)
        # In the live map only: the file would forget it.
        refused(edge, "drift", f"is blue in the live HAProxy, and nothing in {edge.map}", **GREEN)
        edge.restart()
        assert edge.answer() == "HTTP 503"
        refused(edge, "no_key", f"has no key {edge.map_key}", f"write `{edge.map_key} blue` (or green)", "reload HAProxy", **GREEN)
        edge.map.write_text(text)
        refused(edge, "no_key", f"has no key {edge.map_key}", "has it as blue", "reload HAProxy", **GREEN)
        assert flip_after(edge, lambda: edge.reload())["changed"]
        edge.map.unlink()
        refused_without_map = call(MODULE, {**edge.options, **BLUE})
        assert refused_without_map["failed"] and f"reading the map file {edge.map}" in refused_without_map["msg"], refused_without_map
        assert edge.live() == "green"


def flip_after(edge: Edge, first: t.Callable[[], None]) -> dict[str, t.Any]:
    first()
    return flip(edge, "green")


@all_versions
def test_a_value_that_is_no_colour(version: str) -> None:
    with Edge(version=version, map_value="shop-{color}") as edge:
        for value in ("red", "greenhouse", "shop-blue-green", "Blue"):
            edge.ask(f"set map {edge.map} {edge.map_key} {value}")
            edge.map.write_text(f"{edge.map_key} {value}\n")
            refused(edge, "no_color", f'{edge.map_key} is "{value}" in the live map', "neither blue nor green", "drift: settle", **GREEN)
            assert call(INFO, edge.place)["active"] is None
        # Settled, it takes the form of the file where that has one.
        edge.map.write_text(f"{edge.map_key} shop-blue\n")
        flip(edge, "green", drift="settle")
        agree(edge, "green")


@all_versions
def test_a_key_that_stands_there_twice(version: str) -> None:
    with Edge(version=version) as edge:
        edge.map.write_text(edge.map.read_text() + f"{edge.map_key} green\n")
        edge.restart()
        refused(edge, "no_color", "blue and green", **GREEN)
        result = flip(edge, "green", drift="settle")
        assert result["changed"] and edge.live() == "green" and edge.map.read_text().count(f"{edge.map_key} green\n") == 2


# The record


@all_versions
def test_an_older_deploy_is_refused(version: str) -> None:
    with Edge(version=version) as edge:
        flip(edge, "green", deploy_id=LATER)
        for color in (BLUE, GREEN):
            refused(edge, "superseded", f"deploy {ID} was superseded by {LATER}", "nothing was changed", **color, deploy_id=ID)
        refused(edge, "superseded", LATER, **BLUE, deploy_id=LATER, rollback_id=ID)
        assert flip(edge, "blue", deploy_id=LATER)["changed"]  # equal is the same deploy
        assert flip(edge, "green")["changed"]  # and without an id there is no fence
        # A run that is refused for another reason does not raise it.
        now, far = (time.strftime("%Y%m%dt%H%M%Sz-7f3a", time.gmtime(time.time() + days * 86400)) for days in (0, 2))
        assert now > LATER
        refused(edge, "id_ahead", "more than a day ahead of this machine's clock", **BLUE, deploy_id=far)
        refused(edge, "bad_options", "history", **BLUE, deploy_id=now, history=1)
        edge.switch("blue", "web", "refuse")
        wait_for(lambda: not call(INFO, edge.place)["colors"]["blue"]["up"], "blue is down")
        refused(edge, "target_down", **BLUE, deploy_id=now, target_timeout=0)
        assert (edge.state_dir / "fence").read_text() == f"{LATER}\n"


@all_versions
@pytest.mark.parametrize("damage", ["last line torn", "first line torn", "garbage", "empty", "no line end"])
def test_a_history_that_is_damaged(version: str, damage: str) -> None:
    with Edge(version=version) as edge:
        for color in ("blue", "green"):
            flip(edge, color)
        path = edge.state_dir / "active-color.history"
        text = path.read_bytes()
        bad = {"last line torn": text[:-20], "first line torn": text[13:], "garbage": b"\xff\x00 \x1b[31m" * 9 + b"\n" + text, "empty": b"",
               "no line end": text[:-1]}[damage]
        path.write_bytes(bad)
        told = call(INFO, edge.place)
        unreadable = damage in ("last line torn", "first line torn", "garbage")
        assert any("is invalid and is ignored" in warning for warning in told.get("warnings", [])) == unreadable
        assert told["previous"]["open"] == (damage in ("first line torn", "garbage", "no line end")) and told["active"] == "green"
        assert told["release"] == (RELEASES["green"] if damage in ("last line torn", "no line end") else None)
        flip(edge, "blue")
        assert recorded(edge) == "blue\n" and path.read_text(errors="replace").splitlines()[0].split()[1:3] == ["blue", RELEASES["blue"]]
        kept = path.read_bytes().splitlines()
        if unreadable:
            torn = bad.splitlines()[-1 if damage == "last line torn" else 0]
            assert torn.decode(errors="replace") in [line.decode(errors="replace") for line in kept]  # it stands where it stood
        assert not flip(edge, "blue")["changed"]


@all_versions
@pytest.mark.parametrize("odd", ["others can write", "above it", "a link", "a file", "of another user", "read-only"])
def test_a_state_folder_that_cannot_be_used(version: str, odd: str) -> None:
    with Edge(version=version) as edge:
        above = edge.folder / "above"
        state = above / "state"
        state.mkdir(parents=True)
        edge.state_dir, edge.options["state_dir"] = state, str(state)
        mounted = False
        if odd == "others can write":
            state.chmod(0o777)
        elif odd == "above it":
            above.chmod(0o777)
        elif odd == "of another user":
            os.chown(state, 65534, 65534)
        elif odd == "read-only":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", state], check=True)
            mounted = True
        else:
            state.rmdir()
            if odd == "a link":
                (above / "open").mkdir()
                (above / "open").chmod(0o777)
                state.symlink_to(above / "open")
            else:
                state.write_text("")
        try:
            before = everything(edge)
            result = call(MODULE, {**edge.options, **GREEN, "deploy_id": ID})
            assert result["failed"] and str(above) in result["msg"] and "\n" not in result["msg"], result
            assert everything(edge) == before and edge.answer() == "blue 1111111" and filed(edge) == "blue", result
            assert not result["changed"] and not list(above.glob("open/*"))
        finally:
            if mounted:
                subprocess.run(["umount", state], check=True)


# Size


@all_versions
def test_ten_thousand_servers(version: str) -> None:
    with Edge(version=version, dummies=10_000) as edge:
        began = time.monotonic()
        flip(edge, "green")
        agree(edge, "green")
        print(f"a flip beside 10,000 servers took {(time.monotonic() - began) * 1000:.0f} ms", file=sys.stderr)


# Reloading what is not there


@all_versions
def test_a_pid_file_that_is_not_of_haproxy(version: str) -> None:
    with Edge(version=version, method="reload") as edge:
        edge.options = {key: value for key, value in edge.options.items() if key != "master_socket"}
        new = {**GREEN, "content": edge.render("green")}
        refused(edge, "no_reload", "the unit haproxy.service is not active", "give master_socket or pidfile", **new)
        pidfile = edge.folder / "other.pid"
        result = call(MODULE, {**edge.options, **new, "pidfile": str(pidfile)})
        assert result["failed"] and f"reading the pid file {pidfile}" in result["msg"], result
        with subprocess.Popen(["sleep", "60"]) as foreign:
            try:
                for pid in (foreign.pid, edge.worker_pid(), os.getpid()):
                    pidfile.write_text(f"{pid}\n")
                    refused(edge, "no_master", f"process {pid} of the pid file is not the master", **new, pidfile=str(pidfile))
                assert foreign.poll() is None  # SIGUSR2 would have ended it
            finally:
                foreign.kill()
        for text in ("", "x\n", "0\n", "1\n", "-1\n"):
            pidfile.write_text(text)
            refused(edge, "no_reload", f"{pidfile} contains no pid", **new, pidfile=str(pidfile))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(edge.folder / "dead"))
        for reason, master in (("not_running", edge.folder / "dead"), ("no_socket", edge.folder / "gone")):
            refused(edge, reason, str(master), **new, master_socket=str(master))
        agree(edge, "blue", record=False)


@all_versions
def test_an_haproxy_without_a_master(version: str) -> None:
    with Edge(version=version, method="reload") as edge:
        edge.stop()
        daemon.start(edge.folder, "haproxy", [edge.binary, "-db", "-p", edge.pidfile, "-f", edge.config])
        wait_for(lambda: edge.worker_pid() and call(INFO, edge.place)["colors"]["green"]["up"], "it runs")
        edge.pidfile.write_text(f"{edge.worker_pid()}\n")
        options = {key: value for key, value in edge.options.items() if key != "master_socket"} | {"pidfile": str(edge.pidfile)}
        pid, before = edge.worker_pid(), edge.config.read_bytes()
        result = call(MODULE, {**options, **GREEN, "content": edge.render("green")})
        assert result["failed"] and result["reason"] == "no_master" and "does HAProxy run without -W" in result["msg"], result
        assert edge.worker_pid() == pid and edge.config.read_bytes() == before and edge.answer() == "blue 1111111" and history(edge) == []
