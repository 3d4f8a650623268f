# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks decide by the ledger's record and by what the hosts say, each case in no time; that ansible-playbook asks for it is seen in
tests/integration/flows."""
from __future__ import annotations

import sys
import typing as t

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "collection/plugins"))
from plugin_utils import app_status, color_flips, deploy_records, run_goal, run_progress  # noqa: E402  (the path comes first)

A, B, C = (f"20261121t08450{number}z-7f3a" for number in range(3))
RUN = "20261121t090000z-0001"


def point(name: str, host: str = "app1", digest: str = "", **data: t.Any) -> dict[str, t.Any]:
    return {"name": name, "host": host, "digest": digest, "data": data}


def deploy(number: str, outcome: str | None = "done", back_to: str | None = None, phases: list[t.Any] | None = None, **points: t.Any) -> dict[str, t.Any]:
    return {"deploy_id": number, "outcome": outcome, "back_to": back_to, "phases": phases or [], "restore_points": points}


def planned(run: str, plan: str) -> list[dict[str, t.Any]]:
    return [{"phase": "plan", "data": {"rollback": {"id": run, "plan_id": plan}}}]

# Ways back


def test_the_newest_restore_point_of_each_layer_is_the_way_of_its_mode() -> None:
    record = [deploy(C, "failed_reverted", dataset=[point("c")]), deploy(B, container=[point("b", half_way=A)], dataset=[point("b")]),
              deploy(A, container=[point("a")], dataset=[point("a")])]
    assert deploy_records.restore_points_by_mode(record) == {"data": B, "snapshot": A}
    assert deploy_records.restore_points_by_mode([deploy(B, back_to=A, dataset=[point("b")])]) == {} == deploy_records.restore_points_by_mode([])


def test_the_database_goes_back_to_before_the_newest_deploy_also_of_one_that_went_back_by_itself() -> None:
    record = [deploy(C, "failed_reverted", database=[point("c")]), deploy(B, database=[point("b")], dataset=[point("b")])]
    assert deploy_records.restore_points_by_mode(record) == {"data": B, "database": C}
    # What was made live is no restore point any more; the rollback that did it is undone by its own id.
    gone_back = deploy(RUN, "done", back_to=C, database=[point("parked")])
    assert deploy_records.restore_points_by_mode([gone_back, *record])["database"] == B
    assert deploy_records.restore_points_by_mode([deploy(RUN, "failed_reverted", back_to=C), *record])["database"] == C


def test_a_colour_that_does_not_run_is_a_way_before_the_whole_deploy() -> None:
    record = [deploy(B, color=[point("blue", digest="4f2a")]), deploy(A, color=[point("blue", digest="4f2a")], compose=[point("a")])]
    ways = deploy_records.possible_rollbacks(record, {"color": "blue", "release": "4f2a"})
    assert ways[:2] == [f"to={B} (blue with 4f2a is started again)", f"mode=backup (before {A})"] and "mode=full" in ways[2] and len(ways) == 3
    for previous in ({"color": "blue", "release": "other"}, {}):
        assert "started" not in str(deploy_records.possible_rollbacks(record, previous))

# A run that was killed in place


@pytest.mark.parametrize("record, said", [
    ([], ""),
    ([deploy(A, None, container=[point("a")])], ""),                                        # app2 had none yet: nothing was changed
    ([deploy(A, None, container=[point("a"), point("a", "app2")])], A),
    ([deploy(RUN, None, container=[point("a"), point("a", "app2")])], ""),                  # that is the one that asks
    ([deploy(A, None, back_to=B)], ""), ([deploy(A, None, back_to=B, phases=planned(A, "plan-1"))], A),
    ([deploy(B, "failed_reverted"), deploy(A, None, compose=[point("a"), point("a", "app2")])], A),   # it went back to what was half changed
    ([deploy(B, "done"), deploy(A, None, compose=[point("a"), point("a", "app2")])], ""),
    ([deploy(B, "failed_not_reverted"), deploy(A, None, compose=[point("a"), point("a", "app2")])], ""),
    ([deploy(B, None, compose=[point("b"), point("b", "app2")]), deploy(A, None, compose=[point("a"), point("a", "app2")])], A),
])
def test_who_was_killed_half_way(record: list[t.Any], said: str) -> None:
    assert deploy_records.unfinished_run(record, ["app1", "app2"], RUN) == said

# Where a rollback goes


HOSTS = {"all": ["app1", "app2", "db1"], "colors": ["app1", "app2"]}


def test_a_restore_point_is_found_by_its_mode_or_by_its_deploy() -> None:
    record = [deploy(B, color=[point("blue", "lb1", "4f2a")], dataset=[point("b", "db1")]), deploy(A, dataset=[point("a", "db1")])]
    found = deploy_records.restore_point(record, RUN, "", "data", HOSTS)
    assert (found["id"], list(found["layers"]), found["hosts"], found["refused"]) == (B, ["dataset"], ["db1"], "")
    assert (found["rollback_id"], found["resumes"], found["agreed"]) == (RUN, False, "")
    found = deploy_records.restore_point(record, RUN, B, "fast", HOSTS)
    assert set(found["layers"]) == {"color", "dataset"} and found["hosts"] == ["app1", "app2", "db1"]
    assert deploy_records.restore_point(record, RUN, A, "fast", HOSTS)["hosts"] == ["db1"]
    # What must not meet a database is stopped on the hosts of the colours; in place the app's own layer names its hosts.
    record = [deploy(B, database=[point("b", "db1")])]
    assert deploy_records.restore_point(record, RUN, "", "database", HOSTS)["hosts"] == ["app1", "app2", "db1"]
    assert deploy_records.restore_point(record, RUN, "", "database", HOSTS | {"colors": []})["hosts"] == ["db1"]


def test_a_database_and_what_holds_it_do_not_go_back_together() -> None:
    places = {"data_directory": "/d", "places": [{"path": "/d", "source": "tank/pg", "filesystem": "zfs"}]}
    record = [deploy(B, database=[point("b", "db1", database="shop", storage=places)], dataset=[point("b", "db1", datasets=["tank/pg"])])]
    found = deploy_records.restore_point(record, RUN, B, "fast", HOSTS)
    assert found["hosts"] == [] and found["refused"] == (
        f"The database shop lies in the dataset tank/pg, and the restore point of {B} has both: one would go back over the other. Go back with one of them: "
        f"-e to={B} -e mode=database, or -e to={B} -e mode=data.")
    for mode in ("database", "data"):
        assert deploy_records.restore_point(record, RUN, B, mode, HOSTS)["refused"] == ""


@pytest.mark.parametrize("to, mode, words", [
    ("", "backup", "no restore point for mode=backup."), (C, "fast", f"no restore point for {C}."), (A, "backup", f"no restore point for {A} in mode=backup."),
    (A, "data", f"The restore point of {A} lies on old1, which is in none of app_hosts, app_data_hosts and app_databases."),
])
def test_a_restore_point_that_is_not_available(to: str, mode: str, words: str) -> None:
    found = deploy_records.restore_point([deploy(A, dataset=[point("a", "old1"), point("a", "db1")])], RUN, to, mode, HOSTS)
    assert words in found["refused"] and found["hosts"] == []


@pytest.mark.parametrize("outcome, goes_on", [(None, True), ("failed_not_reverted", True), ("failed_reverted", False), ("done", False)])
def test_a_rollback_that_did_not_come_to_its_end_is_gone_on_with(outcome: str | None, goes_on: bool) -> None:
    record = [deploy(C, outcome, back_to=A, phases=planned(B, "plan-1")), deploy(A, dataset=[point("a", "db1")])]
    found = deploy_records.restore_point(record, RUN, A, "fast", HOSTS)
    assert (found["resumes"], found["rollback_id"], found["agreed"]) == ((True, B, "plan-1") if goes_on else (False, RUN, ""))
    other = deploy_records.restore_point([record[0], deploy(B, dataset=[point("b", "db1")])], RUN, B, "fast", HOSTS)
    assert not other["resumes"]


@pytest.mark.parametrize("layers, earlier, services, said", [
    (["compose"], None, [], ""), (["compose"], None, ["web"], ""), (["dataset", "compose"], None, [], ""),
    (["dataset", "compose"], None, ["web"], f"The restore point of {A} has dataset as well"),
    (["compose"], ["web", "db"], ["db", "web"], ""), (["compose"], [], [], ""),
    (["compose"], ["web"], [], f"The unfinished rollback to {A} is of web alone: go on with -e services=web."),
    (["compose"], ["web"], ["db"], f"The unfinished rollback to {A} is of web alone"),
    (["compose"], [], ["web"], f"The unfinished rollback to {A} is of the whole project: go on without services."),
])
def test_which_services_may_go_back_alone(layers: list[str], earlier: list[str] | None, services: list[str], said: str) -> None:
    phases = [{"phase": "plan", "data": {"rollback": {"id": B, "plan_id": "plan-1", "services": earlier}}}]
    record = [deploy(C, None, back_to=A, phases=phases)] if earlier is not None else []
    record += [deploy(A, **{layer: [point("a", "app1")] for layer in layers})]
    found = deploy_records.restore_point(record, RUN, A, "fast", HOSTS)
    refusal = deploy_records.services_refusal(found, services)
    assert refusal.startswith(said) and bool(refusal) == bool(said), refusal


@pytest.mark.parametrize("layers, has_colors, goal", [
    ({"color": [point("blue", "lb1", "4f2a")], "dataset": [point("a")]}, True, ("4f2a", "blue", "4f2a", True)),
    ({"color": [point("green", "lb1", "new")]}, True, ("new", "green", "new", False)),
    ({"dataset": [point("a")]}, True, ("new", "green", "", False)),          # the data alone leaves the release as it is
    ({"dataset": [point("a")]}, False, ("new", "green", "", False)),
    ({"compose": [point("a", digest="old")]}, False, ("old", "green", "", False)), ({"container": [point("a")]}, False, ("", "green", "", False)),
])
def test_what_serves_at_the_end(layers: dict[str, t.Any], has_colors: bool, goal: tuple[t.Any, ...]) -> None:
    assert tuple(deploy_records.restore_goal(layers, "green", "new", has_colors).values()) == goal


def test_each_host_has_the_newest_point_of_its_own_layers() -> None:
    layers = {"container": [point("old"), point("new", undo="x"), point("other", "app2")], "dataset": [point("d")], "color": [point("blue", "app1")]}
    assert deploy_records.layers_here(layers, "app1") == [{"layer": "dataset", "name": "d", "data": {}},
                                                         {"layer": "container", "name": "new", "data": {"undo": "x"}}]
    assert deploy_records.layers_here(layers, "app3") == []
    several = {"database": [point("shop1", database="shop"), point("bill1", database="bill"), point("shop2", database="shop")]}
    assert [one["name"] for one in deploy_records.layers_here(several, "app1")] == ["shop2", "bill1"]

# Its plan


def part(host: str, seen: str, *words: str) -> dict[str, t.Any]:
    return {"dataset": {"layer": "dataset", "host": host, "seen": seen, "loss": [{"what": "it", "accept": word} for word in (*words, "")]}}


def test_the_id_of_a_plan_is_that_of_all_its_parts() -> None:
    plans = [part("db1", "plan-1", "newer_snapshots"), part("db2", "plan-2", "newer_snapshots", "clones")]
    plan = deploy_records.joint_plan(plans, A, [])
    assert plan["accept"] == ["clones", "newer_snapshots"] and [one["host"] for one in plan["parts"]] == ["db1", "db2"]
    others = [(plans[:1], A, []), (plans, B, []), (plans, A, ["green", "blue", "4f2a"])]
    assert len({plan["id"], *(deploy_records.joint_plan(*other)["id"] for other in others)}) == 4
    assert plan["id"] == deploy_records.joint_plan(plans[::-1], A, [])["id"]


PLAN = {"id": "plan-0123456789ab", "accept": ["clones"]}


@pytest.mark.parametrize("confirm, accept, agreed, words", [
    (PLAN["id"], [], "", ""), ("plan-ffffffffffff", [], "plan-ffffffffffff", ""), (True, ["clones"], "", ""), ("Yes", ["clones", "more"], "", ""),
    (True, [], "", "would lose more"), ("plan-ffffffffffff", ["clones"], "", "by now the plan is another"), ("", ["clones"], "", "has to be agreed to"),
    ("false", ["clones"], "", "has to be agreed to"), (False, [], "", "has to be agreed to"),
])
def test_what_was_not_agreed_to_is_not_done(confirm: t.Any, accept: list[str], agreed: str, words: str) -> None:
    said = deploy_records.plan_refusal(PLAN, confirm, accept, agreed)
    assert words in said and bool(said) == bool(words) and (not said or """-e '{"confirm": true, "accept": ["clones"]}'""" in said)

# How far the hosts have come


def test_only_what_was_reached_in_this_run_counts() -> None:
    facts = {"app1": {"flow": {"run": RUN, "installed": True}}, "app2": {"flow": {"run": RUN, "installed": False, "failure": "no room"}},
             "app3": {"flow": {"run": A, "installed": True, "failure": "another run"}}, "app4": {}, "app5": {"flow": "a variable of somebody's own"}}
    assert run_progress.hosts_reached(list(facts), facts, "installed", RUN) == ["app1"]
    assert run_progress.hosts_lacking(list(facts), facts, "installed", RUN) == {"hosts": ["app2", "app3", "app4", "app5"], "why": "app2: no room"}
    assert run_progress.notes_of(facts["app3"]["flow"], RUN) == run_progress.notes_of(facts["app5"]["flow"], RUN) == {"run": RUN}
    assert run_progress.seen(["app1"], {"app1": {"flow": {"run": RUN, "data": 1}}}, "data", RUN) == {"app1": 1}
    assert run_progress.seen(["app1"], {"app1": {"flow": {"run": A, "data": 1}}}, "data", RUN) == {"app1": None}

# Where a run goes, and whether it is back

ASKED = {"name": "shop prod", "release": "new", "target_color": "", "again": False, "has_colors": True}
BLUE = {"active": "blue", "release": "old", "previous": {"color": "green", "release": "older", "open": True}}
READING = {**BLUE, "goal": "green", "goal_release": "older", "ends_split": False, "back_refused": "", "void": False, "silent": {"lb2": "no route"},
           "history": [{"color": "blue", "deploy_id": B}, {"color": "green", "deploy_id": A}]}


def test_where_a_deploy_goes() -> None:
    goal = run_goal.deploy_goal(BLUE, ASKED)
    assert (goal["color"], goal["before"], goal["release_before"], goal["nothing_to_do"], goal["refused"]) == ("green", "blue", "old", False, "")
    assert goal["says"] == ("new goes into green. A rollback returns to blue, which serves old. It takes the place of older, to which the fast way back "
                            "leads until then; afterwards mode=full leads there.")
    assert "leave target_color out" in run_goal.deploy_goal(BLUE, {**ASKED, "target_color": "blue"})["refused"]
    first = run_goal.deploy_goal({"active": "", "release": "", "previous": {}}, ASKED)
    assert first["color"] == "blue" and "no way back from it" in first["says"]
    again = run_goal.deploy_goal(BLUE, {**ASKED, "release": "old"})
    assert again["nothing_to_do"] and again["says"] == "shop prod: old is active already (blue); -e again=true deploys it again into green."
    assert not run_goal.deploy_goal(BLUE, {**ASKED, "release": "old", "again": True})["nothing_to_do"]
    in_place = run_goal.deploy_goal({"active": "", "release": "old", "previous": {}}, {**ASKED, "has_colors": False})
    assert in_place["color"] == "" and in_place["refused"] == "" and in_place["says"].startswith("In place")


def test_where_a_fast_rollback_goes() -> None:
    way = run_goal.fast_goal(READING, "", False)
    assert way == {"refused": "", "left_out": {"lb2": "no route"}, "color": "green", "release": "older", "before": "blue", "release_before": "old",
                   "void": True}
    closed = {**READING, "previous": {"color": "green", "open": False, "why": "it is void"}}
    assert run_goal.fast_goal(closed, "", False)["refused"] == "A fast rollback is not possible: it is void."
    assert run_goal.fast_goal(closed, "green", False)["refused"] == "", "whoever names the colour goes forward again"
    named = {**READING, "goal": "blue"}
    assert run_goal.fast_goal(named, "blue", False)["refused"] == "blue is active already." and not run_goal.fast_goal(named, "blue", True)["refused"]
    assert run_goal.fast_goal({**READING, "goal": "", "active": "", "previous": {}}, "", False)["refused"].endswith("no earlier colour is known.")
    assert run_goal.fast_goal({**READING, "back_refused": "No load balancer answers."}, "green", True)["refused"] == "No load balancer answers."
    split = run_goal.fast_goal({**READING, "ends_split": True, "back_refused": "split", "void": False}, "green", False)
    assert (split["refused"], split["before"], split["release_before"], split["void"]) == ("", "", "", False)


def test_a_colour_that_has_got_another_release_since_is_refused() -> None:
    assert run_goal.fast_opened({}, READING) == {"refused": "", "stays": [], "unrecorded": ""}
    assert run_goal.fast_opened({"taken": None, "unrecorded": "no route"}, READING)["unrecorded"] == "no route"
    taken = {"taken": {"green": {"release": "newer", "deploy_id": C}}}
    assert run_goal.fast_opened(taken, READING)["refused"] == f"A fast rollback is not possible: green served older, and since then {C} has put newer there."
    older = {"taken": {"green": {"release": "newer", "deploy_id": A}}}
    assert run_goal.fast_opened(older, READING)["refused"] == run_goal.fast_opened(taken, {**READING, "goal_release": "newer"})["refused"] == ""


def test_where_a_rollback_to_a_restore_point_goes() -> None:
    layers = {"color": [point("blue", digest="old")], "database": [point("d")]}
    way = deploy_records.restore_target({"id": B, "layers": layers}, {"active": "green", "release": "new"}, [deploy(B)], True, [])
    assert (way["before"], way["color"], way["stops"], way["goal"]["release"], way["goal"]["flips"]) == ("green", "blue", "green", "old", True)
    in_place = {"id": B, "layers": {"compose": [point("c", digest="old")], "database": [point("d")]}}
    assert deploy_records.restore_target(in_place, {"active": "", "release": "new"}, [deploy(B)], False, [])["stops"] == "app"
    assert deploy_records.restore_target(in_place, {"active": "", "release": "new"}, [deploy(B)], False, ["web"])["goal"]["release"] == ""


def test_whether_a_run_is_back() -> None:
    facts = {"app1": {"flow": {"run": RUN, "changes": True, "reverted": True}}, "app2": {"flow": {"run": RUN, "changes": True}},
             "app3": {"flow": {"run": A, "changes": True}}}
    assert run_goal.came_back(list(facts), facts, RUN, [], [], None) == {"serves": {}, "now": "", "not_reverted": ["app2"], "reverted_all": False}
    assert run_goal.came_back(["app1", "app3"], facts, RUN, [], [], None)["reverted_all"]
    looked = [{"active": "blue"}, {"msg": "no route"}]
    split = run_goal.came_back([], {}, RUN, looked, ["lb1", "lb2"], "blue")
    assert split == {"serves": {"lb1": "blue", "lb2": "unknown"}, "now": "blue and unknown", "not_reverted": [], "reverted_all": False}
    assert run_goal.came_back([], {}, RUN, looked[:1], ["lb1"], "blue")["reverted_all"]
    assert run_goal.came_back([], {}, RUN, looked, ["lb1", "lb2"], None)["reverted_all"]

# What status shows


def test_a_colour_that_holds_another_release_is_no_way_back() -> None:
    looked = [{"color_switch_host": "lb1", "active": "green", "release": "new", "previous": {"color": "blue", "release": "4f2a", "open": True, "why": None}},
              {"color_switch_host": "lb2", "msg": "no route"}]
    hosts = {"app1": {"colors": {"blue": {"release": "other"}}}, "app2": None}
    shown = app_status.load_balancers(looked, hosts)
    assert shown["lb1"]["previous"] == {"color": "blue", "release": "4f2a", "open": False, "why": "app1 holds other there"}
    assert shown["lb2"]["failure"] == "no route" and shown["lb2"]["previous"] is None and shown["lb1"]["failure"] is None
    assert app_status.load_balancers(looked, {"app1": {"colors": {"blue": {"release": "4f2a"}}}})["lb1"]["previous"]["open"]


def test_a_restore_point_is_open_when_the_ledger_says_so() -> None:
    record = [deploy(A, dataset=[point("snap", "db1") | {"open": False, "why": "dataset: snap is gone"}],
                     container=[point("pre-a") | {"open": True, "why": None}], compose=[point("pre-b")])]
    assert [(one["name"], one["open"], one["why"]) for one in app_status.restore_points(record)] == [
        ("snap", False, "dataset: snap is gone"), ("pre-a", True, ""), ("pre-b", False, "")]
    hosts = {"app1": {"rollbacks": {"snapshot": {"open": ["pre-a"]}}}, "app2": None}
    facts = {host: {"app_observed": seen and seen | {"run": RUN}} for host, seen in hosts.items()}
    told = app_status.app_status({"msg": "it is gone"}, [], facts, list(facts), [], RUN)
    assert told["hosts"] == hosts
    assert told["ledger_failure"] == "it is gone" and told["deploys"] == [] and told["lease"] is None

# What came of a flip


def test_a_load_balancer_that_says_nothing_is_astray() -> None:
    before = {host: {"active": "blue"} for host in ("lb1", "lb2", "lb3", "lb4")}
    now = {"lb1": {"active": "blue", "unfinished": None}, "lb2": {"active": "green"}, "lb3": {"msg": "no route"}, "lb4": {"active": "blue", "unfinished": "x"}}
    assert color_flips.changed_load_balancers(list(before), before, now) == ["lb2", "lb3", "lb4"]


def test_after_a_failure_the_result_is_what_is_there() -> None:
    before, done = {"lb1": {"active": "blue"}}, {"lb1": {"active": "green", "release": "4f2a", "plan": ["flip"], "flip": {"milliseconds": {"live": 3}}}}
    told = color_flips.flip_results(["lb1"], before, done, {}, "")["lb1"]
    assert told == {"before": "blue", "after": "green", "release": "4f2a", "changed": True, "milliseconds": {"live": 3}, "plan": ["flip"]}
    assert color_flips.flip_results(["lb1"], before, done, {"lb1": {"active": "blue", "release": "old"}}, "lb1")["lb1"]["changed"] is False
    assert color_flips.flip_results(["lb1"], before, {}, {"lb1": {"msg": "no route"}}, "lb1")["lb1"]["after"] is None


RELEASES = ("4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a", "0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a4f2a9c1e")
ENDED = {"name": "shop staging", "env": "staging", "kind": "deploy", "release": RELEASES[0], "deploy_id": "this", "color": "", "captured": False}
BACK = "ansible-playbook reversible.deploy.rollback -e @... -e env=staging"
GREEN = {"color": "green", "before": "blue", "release_before": RELEASES[1]}
COST = "With --check this shows what has been written since and would be lost."


@pytest.mark.parametrize(("noted", "run", "says"), [
    (GREEN, {}, ["shop staging: green serves 4f2a9c1e0b7d (deploy this).", f"To go back to blue (0b7d63f58a2c): {BACK} -e mode=fast. No data is lost."]),
    ({**GREEN, "release_before": ""}, {}, ["shop staging: green serves 4f2a9c1e0b7d (deploy this).",
                                           "There is no earlier release to go back to: none is recorded for blue."]),
    ({**GREEN, "migrations": "done"}, {"captured": True},
     ["shop staging: green serves 4f2a9c1e0b7d (deploy this).",
      f"To go back to blue (0b7d63f58a2c): {BACK} -e mode=fast. No data is lost. The migrations of this release stay in the database.",
      f"To restore the data as it was before it: {BACK} -e to=this. {COST}"]),
    ({"release_before": "1.2.3"}, {"release": "1.3.0"},
     ["shop staging: 1.3.0 serves (deploy this).", f"To restore the state before it (1.2.3): {BACK} -e to=this. {COST}"]),
    ({"color": "blue", "before": "green"}, {"kind": "rollback"},
     ["shop staging: blue serves 4f2a9c1e0b7d (rollback this).", f"To undo this: {BACK} -e mode=fast -e target_color=green"]),
    ({"color": "blue", "point": {"id": "old"}}, {"kind": "rollback"},
     ["shop staging is in the state before old again: blue serves 4f2a9c1e0b7d.", f"To undo this: {BACK} -e to=this"]),
    # Blue serves, and green is where it would have gone.
    ({**GREEN, "nothing_to_do": True}, {}, []),
    ({}, {"kind": "restore test", "release": ""}, []),
    ({}, {"kind": "clean-up", "color": "blue"},
     [f"shop staging: blue is stopped, and its logs are kept. A rollback to its release is a whole deploy now: {BACK} -e mode=full"]),
])
def test_a_run_ends_with_what_serves_and_how_to_go_back(noted: dict[str, t.Any], run: dict[str, t.Any], says: list[str]) -> None:
    assert run_goal.run_summary(noted, ENDED | run) == says
