# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load balancers say together, each case in no time; that the playbooks ask for it is seen in tests/integration/flows and tests/faults/flows."""
from __future__ import annotations

import importlib.util
import typing as t

from harness import ROOT
from releases import sha

SPEC = importlib.util.spec_from_file_location("load_balancers", ROOT / "collection/plugins/plugin_utils/load_balancers.py")
assert SPEC and SPEC.loader
load_balancers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(load_balancers)
DEPLOY, BACK = "20261121t084500z-7f3a", "20261121t090000z-0001"
DEAD = {"color_switch_host": "lb2", "unreachable": True, "msg": "no route to host"}


def edge(host: str, active: str, *history: tuple[str, int, str, str]) -> dict[str, t.Any]:
    """A load balancer with the flips that it remembers, the newest first: colour, number of the release, run, verdict."""
    entries = [{"time": "2026-11-21T09:00:01Z", "color": color, "release": sha(number), "deploy_id": run, "verdict": verdict}
               for color, number, run, verdict in history]
    other = next((entry for entry in entries if entry["color"] != active), None)
    release = next((entry["release"] for entry in entries if entry["color"] == active), None)
    previous = {"color": other["color"], "release": other["release"], "open": other["verdict"] == "good"} if other else {"color": None, "open": False}
    return {"color_switch_host": host, "active": active, "release": release, "previous": previous, "history": entries}


def deployed(host: str) -> dict[str, t.Any]:
    return edge(host, "blue", ("blue", 2, DEPLOY, "good"), ("green", 1, "20261120t084500z-7f3a", "good"))


def taken_back(host: str) -> dict[str, t.Any]:
    return edge(host, "green", ("green", 1, BACK, "good"), ("blue", 2, DEPLOY, "void"), ("green", 1, "20261120t084500z-7f3a", "good"))


def read(*looked: t.Mapping[str, t.Any], target: str = "") -> dict[str, t.Any]:
    return load_balancers.load_balancers(looked, "host", True, target)


def test_the_first_speaks_for_all_that_agree() -> None:
    said = read(deployed("lb1"), deployed("lb2"))
    assert (said["active"], said["release"], said["goal"], said["goal_release"]) == ("blue", sha(2), "green", sha(1))
    assert not said["disagree"] and not said["back_refused"] and not said["silent"] and not said["ends_split"]


def test_a_deploy_wants_all_of_them_and_a_rollback_those_that_answer() -> None:
    for looked in ((deployed("lb1"), DEAD), (DEAD | {"color_switch_host": "lb1"}, deployed("lb2"))):
        said = read(*looked)
        assert said["disagree"].startswith("Not every load balancer answers. lb") and "no route to host" in said["disagree"]
        assert not said["back_refused"] and (said["active"], said["goal"], list(said["silent"].values())) == ("blue", "green", ["no route to host"])


def test_nobody_goes_back_where_none_answers() -> None:
    assert read(DEAD)["back_refused"] == "No load balancer answers. lb2: no route to host"
    assert read()["back_refused"] == "The app has no load balancer."
    assert load_balancers.load_balancers([], "pct", False)["back_refused"] == "The strategy pct has no colours."


def test_one_that_comes_back_is_named_with_the_command_that_ends_it() -> None:
    said = read(deployed("lb1"), taken_back("lb2"))
    assert said["disagree"] == said["back_refused"] == said["split"] and not said["ends_split"]
    assert said["split"] == (f"The load balancers do not serve the same colour: blue on lb1, green on lb2. The last run that flipped is {BACK}, to green. "
                             "Make them agree first: rollback with mode=fast and target_color=green.")


def test_which_side_of_a_deploy_that_was_killed_is_to_serve_is_not_guessed() -> None:
    said = read(deployed("lb1"), edge("lb2", "green", ("green", 1, "20261120t084500z-7f3a", "good")))
    assert said["split"].endswith("target_color=<the colour that is to serve>.")


def test_what_was_void_on_one_is_void_on_the_other() -> None:
    """Otherwise the next fast rollback would lead to what was bad."""
    for looked in ((deployed("lb1"), taken_back("lb2")), (taken_back("lb1"), deployed("lb2"))):
        said = read(*looked, target="green")
        assert said["ends_split"] and said["void"] and not said["back_refused"] and said["goal_release"] == sha(1)
    forward = read(deployed("lb1"), taken_back("lb2"), target="blue")
    assert forward["ends_split"] and not forward["void"]


def test_every_flip_is_brought_to_the_ledger() -> None:
    said = read(deployed("lb1"), taken_back("lb2"))
    assert {flip["deploy_id"] for flip in said["flips"]} == {DEPLOY, BACK, "20261120t084500z-7f3a"} and len(said["flips"]) == 5
