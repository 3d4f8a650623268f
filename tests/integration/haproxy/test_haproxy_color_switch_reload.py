# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_color_switch by reload, against real HAProxy: the configuration is replaced as a whole, loaded for sure,
and comes back byte for byte."""
from __future__ import annotations

import socket
import time
import typing as t

import pytest
from edge import RELEASES, Edge, call, wait_for
from color_switch import (
    GREEN, INFO, MODULE, VERSIONS, agree, all_versions, count, everything, flip, flipped_and_held, history, layouts, prove, recorded, refused,
    taken_back, watching)

ways = pytest.mark.parametrize("way", ["master", "pidfile"])


def by(edge: Edge, way: str) -> dict[str, t.Any]:
    """The edge's options, with this way to reload and no other."""
    if way == "pidfile":
        edge.options = {key: value for key, value in edge.options.items() if key != "master_socket"} | {"pidfile": str(edge.pidfile)}
    return edge.options


def to(edge: Edge, color: str, more: str = "", **options: t.Any) -> dict[str, t.Any]:
    return flip(edge, color, content=edge.render(color) + more, **options)


@all_versions
@layouts
@ways
def test_a_flip_and_the_way_back_under_load(version: str, layout: str, way: str) -> None:
    with Edge(version=version, method="reload", layout=layout) as edge:
        by(edge, way)
        # Bytes that no template would make are kept, too.
        first = f"# \xe9t\xe9\t \r\n\n{edge.render('blue')}\n\n# end ".encode("latin-1") + b"\xff\n\n"
        edge.config.write_bytes(first)
        edge.config.chmod(0o640)
        edge.restart()
        master, worker = edge.master_pid(), edge.worker_pid()
        with edge.load(8, ws=True, pause=2) as load:
            result = to(edge, "green", prove=prove(edge))
            agree(edge, "green")
            assert (edge.master_pid(), edge.config.stat().st_mode & 0o777) == (master, 0o640) and edge.worker_pid() != worker
            assert (edge.state_dir / "config.blue").read_bytes() == first
            assert (edge.state_dir / "config.blue").stat().st_mode & 0o777 == 0o600
            before = everything(edge)
            for content in ({"content": edge.render("green")}, {}):
                again = call(MODULE, {**edge.options, **GREEN, **content})
                assert not again["changed"] and not again.get("failed") and everything(edge) == before
            back = flip(edge, "previous", prove=prove(edge, release_field=None, text='"colour":"blue"'))
            assert edge.config.read_bytes() == first and edge.answer() == "blue 1111111" and recorded(edge) == "blue\n"
            flip(edge, "previous", prove=prove(edge))
            agree(edge, "green")
        assert load.report["failed"] == 0, load.report["kinds"]
        assert load.report["web_socket"]["cut"] is None and load.report["answers"]["green"] > 0
        assert "(blue is active) by one in which green is active, and reload HAProxy by " in result["plan"][0] and result["changed"]
        assert result["before"]["places"] == {"live": "blue", "file": "blue", "record": None}
        assert result["after"]["places"] == {"live": "green", "file": "green", "record": "green"}
        assert back["changed"] and [line[0] for line in history(edge)] == ["green", "blue", "green", "blue"]
        assert {line[2] for line in history(edge)} == {"good"}


@all_versions
@layouts
def test_check_mode_tells_what_the_run_does(version: str, layout: str) -> None:
    with Edge(version=version, method="reload", layout=layout) as edge:
        secret = "userlist people\n    user admin insecure-password s3cret-one\n"
        options = {**edge.options, **GREEN, "content": edge.render("green") + secret, "prove": prove(edge)}
        before = everything(edge)
        told = call(MODULE, options, check=True, diff=True)
        assert everything(edge) == before and told["changed"] and told["gates"] == {"target": "not evaluated", "prove": "not evaluated"}
        done = call(MODULE, options, diff=True)
        assert (told["plan"], told["plan_id"], told["before"], told["after"], told["diff"]) == (
            done["plan"], done["plan_id"], done["before"], done["after"], done["diff"])
        assert "s3cret-one" not in str(told) and "s3cret-one" not in str(done) and "user (hidden)" in str(done["diff"])
        assert edge.config.read_text().endswith(secret) and edge.answer() == "green 2222222"


@all_versions
@ways
def test_twenty_reloads_in_a_row_and_none_is_lost(version: str, way: str) -> None:
    with Edge(version=version, method="reload") as edge, edge.load(4, pause=2) as load:
        by(edge, way)
        for turn in range(20):
            color = "green" if turn % 2 == 0 else "blue"
            worker = edge.worker_pid()
            result = to(edge, color)
            # At once: nobody waits for what was reported as done.
            assert edge.answer().startswith(f"{color} ") and edge.worker_pid() != worker, (turn, result)
        agree(edge, "blue")
    assert load.report["failed"] == 0, load.report["kinds"]


# What is refused, with the old configuration untouched


@all_versions
def test_a_configuration_that_is_not_good_is_refused(version: str) -> None:
    with Edge(version=version, method="reload") as edge, edge.load(2, pause=2) as load:
        odd = edge.folder / "odd.cfg"
        refused(edge, "wrong_color", "makes blue active, not green", **GREEN, content=edge.render("blue") + "# new\n")
        broken = edge.render("green") + "backend x\n    no-such-keyword 1\n"
        result = refused(edge, "invalid_config", "HAProxy refuses the new configuration: parsing [new:", "no-such-keyword",
                         **GREEN, content=broken)
        assert result["rc"] == 1 and "no-such-keyword" in result["stderr"] and "s3cret" not in str(result)
        refused(edge, "no_content", "no earlier configuration of green is kept at", "content or src", **GREEN)
        refused(edge, "bad_options", "argument 'validate'", **GREEN, content=edge.render("green"), validate=["haproxy"])
        refused(edge, "bad_options", "content", "src", **GREEN, content="x", src="/x")
        result = call(MODULE, {**edge.options, **GREEN, "src": str(odd)})
        assert result["failed"] and f"reading the new configuration {odd}" in result["msg"], result
        edge.switch("green", "web", "fail-health")
        wait_for(lambda: "DOWN" in str(call(INFO, edge.place)["colors"]["green"]), "green is down")
        refused(edge, "target_down", "shop-web-green/web-green is DOWN", **GREEN, content=edge.render("green"), target_timeout=0.2)
    assert load.report["failed"] == 0


@all_versions
def test_a_template_may_lose_the_last_line_end_and_a_file_is_taken_as_it_is(version: str) -> None:
    with Edge(version=version, method="reload") as edge:
        assert flip(edge, "green", content=edge.render("green").rstrip("\n"))["changed"]
        assert edge.config.read_text() == edge.render("green").rstrip("\n") + "\n" and edge.answer() == "green 2222222"
        source = edge.folder / "new.cfg"
        source.write_text(edge.render("blue") + "\n\n")
        flip(edge, "blue", src=str(source))
        assert edge.config.read_bytes() == source.read_bytes() and edge.answer() == "blue 1111111"


@pytest.mark.parametrize(("version", "way"), [(version, way) for way in ("master", "pidfile") for version in VERSIONS])
def test_a_configuration_that_only_the_reload_refuses_is_taken_back(version: str, way: str) -> None:
    """It reads well, and then its port is taken: the old worker goes on, and so does the old file."""
    with Edge(version=version, method="reload") as edge, socket.socket() as taken:
        by(edge, way)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before = edge.config.read_bytes()
        new = edge.render("green") + f"frontend second\n    bind 127.0.0.1:{taken.getsockname()[1]}\n    default_backend shop-web-green\n"
        # HAProxy itself takes no connections for up to two seconds while it tries: so it must be tried once only, and not count as lost.
        result = call(MODULE, {**edge.options, **GREEN, "content": new})
        assert result["failed"] and result["reason"] == "reload_failed" and result["flip"]["reverted"], result
        wait_for(lambda: edge.answer() == "blue 1111111", "it takes connections again")
        assert edge.config.read_bytes() == before and recorded(edge) is None and history(edge) == []
        assert not list(edge.state_dir.glob("intent*"))
        taken.close()
        assert to(edge, "green")["changed"]  # and a good one recovers
        agree(edge, "green")


# Gates


@all_versions
@layouts
def test_a_proof_that_fails_brings_the_old_configuration_back(version: str, layout: str) -> None:
    with Edge(version=version, method="reload", layout=layout) as edge, edge.load(4, pause=2) as load:
        edge.switch("green", "web", "release abc")
        result = call(MODULE, {**edge.options, **GREEN, "content": edge.render("green"), "prove": prove(edge)})
        taken_back(edge, result, "not_proven", "build.sha")
        # The same colour with another configuration, which does not hold either.
        new = edge.render("blue") + "# new\n"
        result = call(MODULE, {**edge.options, "color": "blue", "content": new, "prove": prove(edge, release_field=None, text="none")})
        assert result["failed"] and result["flip"]["reverted"], result
        agree(edge, "blue")
        assert history(edge)[0][0::2] == ("blue", "good")
    assert load.report["failed"] == 0, load.report["kinds"]


@all_versions
def test_the_budget_counts_from_the_reload_on(version: str) -> None:
    with Edge(version=version, method="reload") as edge:
        to(edge, "green")
        with edge.load(4, requests=60) as load:
            load.wait()
        assert count(edge, "green")[0] > 0
        to(edge, "blue")
        with flipped_and_held(edge, content=edge.render("green"), error_budget={"watch": 0.01}) as running:
            with edge.load(4, requests=40) as load:
                load.wait()
            counted = count(edge, "green")[0]
        result = running.wait()
        assert not result.get("failed") and load.report["failed"] == 0, result
        # An old worker may have taken some, whose counts went with it.
        assert 20 <= counted <= 40 and (result["flip"]["budget"]["requests"], result["flip"]["budget"]["failed"]) == (counted, 0)
        to(edge, "blue")
        with watching(edge, content=edge.render("green")) as running:
            edge.switch("green", "web", "fail-app")
            with edge.load(1):
                result = running.wait(60)
        taken_back(edge, result, "budget_broken", "requests failed")


@all_versions
@pytest.mark.parametrize("well", [True, False])
def test_servers_that_only_the_new_configuration_brings_are_waited_for(version: str, well: bool) -> None:
    """Green is disabled until then, as a colour is that does not run: HAProxy has never checked it."""
    with Edge(version=version, method="reload", layout="one-backend") as edge:
        edge.config.write_text(edge.render("blue").replace(" backup", " disabled"))
        before = edge.config.read_bytes()
        edge.restart()
        edge.switch("green", "web", "ok" if well else "fail-health")
        options = {**edge.options, **GREEN, "content": edge.render("green").replace(" backup", " disabled"),
                   "target_timeout": 60 if well else 5}
        result = call(MODULE, options)
        if well:
            assert result["changed"] and edge.answer() == "green 2222222" and recorded(edge) == "green\n", result
        else:
            assert result["failed"] and result["reason"] == "target_down" and "web-green is DOWN" in result["msg"], result
            assert edge.config.read_bytes() == before and edge.answer() == "blue 1111111" and result["flip"]["reverted"]
            # A server that only the new configuration names is asked all the same.
            probe = {"path": "/health", "tries": 1}
            refused(edge, "target_down", "shop-web/web-green: ", **GREEN, content=edge.render("green"), probe=probe)


# By hand


@all_versions
@layouts
def test_a_configuration_that_somebody_changed_is_refused_until_it_is_settled(version: str, layout: str) -> None:
    with Edge(version=version, method="reload", layout=layout) as edge:
        to(edge, "green")
        edge.config.write_text(edge.render("green") + "# by hand\n")
        ours = f"{edge.config} is not the configuration that this module has written: someone else has changed it"
        for _loaded in range(2):
            assert ours in call(INFO, edge.place)["drift"]
            refused(edge, "drift", ours, "drift: settle", color="blue", content=edge.render("blue"))
            edge.reload()
        told = to(edge, "blue", drift="settle")
        assert ours in told["warnings"] and (edge.state_dir / "config.green").read_text().endswith("# by hand\n")
        agree(edge, "blue")


@all_versions
@layouts
def test_a_flip_by_hand_is_told_and_one_that_was_not_loaded_is_refused(version: str, layout: str) -> None:
    with Edge(version=version, method="reload", layout=layout) as edge:
        time.sleep(1.1)  # the times of files and processes are compared with a second's room
        edge.config.write_text(edge.render("green"))
        refused(edge, "drift", "haproxy.cfg", "nothing was changed", color="blue", content=edge.render("blue"))
        assert edge.answer() == "blue 1111111"
        edge.reload()
        told = call(INFO, edge.place)
        assert (told["active"], told["places"]["live"], told["drift"]) == ("green", "green", [])
        assert to(edge, "blue")["before"]["active"] == "green"
        agree(edge, "blue")
        assert history(edge) == [("blue", RELEASES["blue"], "good"), ("green", "-", "good")]
