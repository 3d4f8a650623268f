# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploys broken for real, under load: the old colour serves, no request has failed, and the run says what happened. What is lost or killed in which
phase: test_flows_phases.py."""
from __future__ import annotations

import json
import socket
import typing as t

import pytest
from color_switch import answered
from edge import fetch
from flows import Shop
from harness import Run, wait_for
from releases import sha

OLD, NEW = ("green", sha(1)), ("blue", sha(2))


@pytest.fixture(name="the_shop", scope="module")
def a_shop(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Shop]:
    """With release 1 in green, and release 2 available."""
    with Shop(tmp_path_factory.mktemp("shop")) as shop:
        shop.publish(1)
        shop.publish(2)
        shop.publish(3, bad="dead")
        first = shop.deploy(1)
        assert first.code == 0 and shop.serves() == OLD, first.output
        yield shop


@pytest.fixture(name="shop")
def with_the_old_release(the_shop: Shop) -> Shop:
    """Green serves. What another test has left is put right by hand."""
    if the_shop.serves() != OLD:
        the_shop.flip("green", 1)
    return the_shop


@pytest.fixture(name="deployed")
def with_the_new_release(the_shop: Shop) -> Shop:
    """Blue serves, and green is the way back."""
    if the_shop.serves() != NEW:
        if fetch(the_shop.app_url("blue")) == " ".join(NEW):
            the_shop.flip("blue", 2)
        else:
            run = the_shop.deploy(2)
            assert run.code == 0 and the_shop.serves() == NEW, run.output
    return the_shop


def broken(shop: Shop, number: int = 2, **inputs: t.Any) -> Run:
    """A deploy that does not come to its end: what it leaves is judged here, what it says by the test."""
    outcome = shop.folder / "outcome"
    with shop.load(connections=4, pause=20) as load:
        run = shop.deploy(number, outcome_file=str(outcome), **inputs)
    assert run.code != 0, run.output
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report
    assert shop.serves() == OLD
    assert outcome.read_text().strip() == "failed_reverted", run.output
    assert "green serves" in run.output and sha(1) in run.output
    return run


def hook(shop: Shop, name: str, *steps: list[str]) -> t.Any:
    return {"app_hooks": {name: [list(step) for step in steps]}}


def test_the_release_is_not_in_the_registry(shop: Shop) -> None:
    run = broken(shop, 9)
    assert "404" in run.output or "does not have" in run.output
    assert shop.ledger()["deploys"][0]["outcome"] == "failed_reverted"


@pytest.mark.parametrize("name", ["before", "migrate"])
def test_a_hook_fails_before_the_change(shop: Shop, name: str) -> None:
    marker = shop.folder / "after-rollback"
    marker.unlink(missing_ok=True)
    hooks = {name: [["/bin/sh", "-c", "echo beginning; echo 'column exists' >&2; exit 3"]], "after_rollback": [["/bin/touch", str(marker)]]}
    run = broken(shop, app_hooks=hooks)
    said = " ".join(run.output.split())
    assert "Start the components with the release" not in [task.task for task in run.tasks], run.output
    assert f"the deploy of {sha(2)} failed. the hook {name}: /bin/sh ended with 3: column exists" in said, run.output
    assert shop.ledger()["deploys"][0]["phases"][-1]["data"]["stderr"] == "column exists", "the evidence is recorded"
    # What a migration has begun nobody takes back.
    assert ("Nothing was lost." in said) == (name == "before") and marker.exists() == (name == "migrate"), run.output
    if name == "migrate":
        assert "stay when this deploy is rolled back" in said and "ITS MIGRATIONS WERE STARTED AND DID NOT FINISH" in said, run.output


def test_the_new_release_does_not_start(shop: Shop) -> None:
    run = broken(shop, 3)
    assert "shop-staging-web-blue" in run.output and "  there is no database" in run.output


def test_a_gate_after_the_flip_fails(shop: Shop) -> None:
    marker = shop.folder / "went-back"
    hooks = {"app_hooks": {"smoke": [["/bin/false"]], "after_rollback": [["/bin/touch", str(marker)]]}}
    run = broken(shop, 2, **hooks)
    assert marker.exists()
    marker.unlink()
    deploys = shop.ledger()["deploys"]
    assert deploys[0]["outcome"] == "failed_reverted" and deploys[0]["reverted"], run.output

    # However many went back before: the next deploy is refused, and nobody is held on a release that is bad.
    last = shop.last_deploy()
    refused = shop.deploy(2, ledger_revert_cap=1, unlock="")
    assert refused.code == 2 and f"pass unlock: {last}" in " ".join(refused.output.split()) and shop.serves() == OLD, refused.output

    # The hooks around the flip, each with what is active by then; one that fails leads back as well.
    seen = {name: shop.folder / name for name in ("before_flip", "after_flip")}
    around = {name: [["/bin/cp", str(shop.map), str(copy)]] for name, copy in seen.items()}
    run = broken(shop, 2, ledger_revert_cap=1, unlock=last, app_hooks={**around, "after_flip": [*around["after_flip"], ["/bin/false"]]})
    assert "the hook after_flip: /bin/false ended with 1" in " ".join(run.output.split()), run.output
    assert [copy.read_text().split()[-1] for copy in seen.values()] == ["green", "blue"]


def test_nobody_is_moved_back_to_a_colour_that_was_worse(shop: Shop) -> None:
    """Every request fails on green, and half of them on blue: the load balancer leaves blue active, and so does the run."""
    outcome = shop.folder / "outcome"
    health = [component | {"health": "/health"} for component in shop.vars["app_components"]]
    with socket.create_server(("127.0.0.1", 0)) as asked:
        # It looks at blue, and flips when it has an answer.
        asked.settimeout(300)
        probe = {"port": asked.getsockname()[1], "tries": 1, "timeout": 600}
        running = shop.start_book("deploy_app", release_sha=sha(2), outcome_file=str(outcome), app_components=health, color_switch_probe=probe,
                                  app_error_budget={"watch": 2, "max_total": 0.2, "min_requests": 10})
        with answered(asked):
            shop.switch("green", "web", "share 100")
            shop.switch("blue", "web", "share 50")
            assert {fetch(shop.url) for _ in range(20)} == {"HTTP 500"}
    run = running.wait()
    shop.switch("green", "web", "ok")
    said = " ".join(run.output.split())
    assert run.code == 2 and outcome.read_text() == "failed_not_reverted\n" and shop.live() == "blue", run.output
    assert "NOT ROLLED BACK, since green was worse" in said and "had failed on green just before the flip" in said, run.output
    assert "No load balancer was flipped back" in said and "target_color=green" in said, run.output
    back = shop.run("rollback", mode="fast", target_color="green")
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_a_probe_from_outside_fails(shop: Shop) -> None:
    outside = {"app_outside": [{"name": "outside", "kind": "http", "url": f"{shop.url}", "release": sha(9), "release_header": "X-Release", "tries": 1}]}
    run = broken(shop, 2, **outside)
    assert "outside" in run.output


def test_the_load_balancer_is_lost_after_the_flip(shop: Shop) -> None:
    lost = shop.lost("lb1")
    book = shop.folder / "lose.yml"
    book.write_text(json.dumps([{"name": "Lose it", "ansible.builtin.file": {"path": str(lost), "state": "touch", "mode": "0644"}, "delegate_to": "localhost"},
                                {"name": "And fail", "ansible.builtin.fail": {"msg": "smoke"}}]))
    outcome = shop.folder / "outcome"
    try:
        run = shop.deploy(2, outcome_file=str(outcome), app_hooks={"smoke": [str(book)]})
    finally:
        lost.unlink(missing_ok=True)
    assert run.code != 0 and "NOT ROLLED BACK" in run.output, run.output
    assert outcome.read_text().strip() == "failed_not_reverted"
    # The ledger was there, too: the run could not be closed, and the next one is told so.
    refused = shop.run("rollback", mode="fast")
    assert refused.code != 0 and "take_over" in refused.output, refused.output
    holder = shop.ledger()["holder"]["deploy_id"]
    back = shop.run("rollback", mode="fast", take_over=holder)
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_the_host_of_the_app_was_rebooted(shop: Shop) -> None:
    """Plain processes do not come back by themselves. A deploy that was killed before goes on; the fast way back is closed, and the way that it
    names starts them."""
    killed = shop.killed("Fetch the release of each component", release_sha=sha(2))
    shop.reboot()
    taken = shop.deploy(2, take_over=killed)
    assert taken.code == 0 and shop.serves() == NEW, taken.output
    shop.reboot()
    closed = shop.run("rollback", mode="fast")
    way = f"to={shop.last_deploy()}"
    assert closed.code == 2 and "A fast rollback is not possible: " in closed.output, closed.output
    assert f"Possible are: {way} (green with {sha(1)} is started again); an older release" in " ".join(closed.output.split()), closed.output
    back = shop.run("rollback", "-e", way, confirm=True)
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_a_rollback_stays_done_when_its_ledger_is_damaged(deployed: Shop) -> None:
    """Whoever goes back at night is not sent forward again by a full disk or a line that somebody wrote by hand."""
    shop = deployed
    book, outcome = shop.folder / "ledger/ledger.jsonl", shop.folder / "outcome"
    sound = book.read_text()
    damage = {"app_hooks": {"after_rollback": [["/bin/sh", "-c", f"cp {book} {book}.sound; echo by hand >> {book}"]]}}
    back = shop.run("rollback", mode="fast", outcome_file=str(outcome), **damage)
    assert back.code == 0 and shop.serves() == OLD, back.output
    assert outcome.read_text() == "done\n" and "cannot be trusted" in " ".join(back.output.split()), back.output
    # Repaired, it still shows the run as open, and the next one takes over from it.
    opened = book.with_name("ledger.jsonl.sound").read_text()
    assert opened.startswith(sound)
    book.write_text(opened)
    holder = shop.ledger()["holder"]["deploy_id"]
    assert shop.deploy(1, take_over=holder).code == 0 and shop.ledger()["holder"] is None


def test_what_somebody_else_flips_meanwhile_is_left_to_him(deployed: Shop) -> None:
    shop = deployed
    shop.flip("green", 1)
    book, outcome = shop.folder / "flip.yml", shop.folder / "outcome"
    book.write_text(json.dumps([{
        "name": "Flip by hand", "ansible.builtin.include_role": {"name": "reversible.deploy.color_switch", "tasks_from": "once"},
        "vars": {"color_switch_color": "blue", "color_switch_prove": {}}}]))
    run = shop.deploy(2, outcome_file=str(outcome), app_hooks={"migrate": [str(book)]})
    assert run.code != 0 and "somebody made blue active; before it was green" in run.output and "NOT ROLLED BACK: lb1 serves blue" in run.output, run.output
    assert outcome.read_text().strip() == "failed_not_reverted" and shop.serves() == NEW
    back = shop.run("rollback", mode="fast", target_color="green")
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_refusals_change_nothing(shop: Shop) -> None:
    for inputs, words in (
        ({"release_sha": sha(2), "target_color": "green"}, ["green is active"]),
        ({"release_sha": "main", "target_color": "red", "app_hosts": ["app7"]},
         ["main: expected 40 hex characters", "target_color is red", "app7 is not in the inventory"]),
        ({"release_sha": sha(2), "app_hooks": {"before-flip": [["/bin/true"]]}}, ["app_hooks has before-flip: expected before, migrate"]),
        ({"release_sha": sha(2), "app_envs": ["prod"], "app_hosts": ["{{ {'prod': 'app1'}[env] }}"],
          "app_load_balancers": "{{ {'prod': ['lb1']}[env] }}"}, ["env is staging: the app is for prod"]),
    ):
        run = shop.run("deploy_app", **inputs)
        assert run.code != 0 and all(word in run.output for word in words) and shop.serves() == OLD, run.output
    outcome = shop.folder / "outcome"
    for options, words in ((["--limit", "app1"], "--limit app1"),
                           (["--tags", "flip", "--skip-tags", "slow", "--step"], "--tags flip and --skip-tags slow and --step"),
                           (["--start-at-task", "Flip"], "--start-at-task 'Flip'")):
        partly = shop.run("deploy_app", *options, release_sha=sha(2))
        assert partly.code != 0 and f"Nothing was changed. {words} would leave" in " ".join(partly.output.split()) and not partly.tasks, partly.output
    hidden = shop.run("status", environ={"ANSIBLE_ERROR_ON_UNDEFINED_VARS": "false", "ANSIBLE_ENABLE_TASK_DEBUGGER": "true"})
    assert hidden.code != 0 and "enable_task_debugger is true" in " ".join(hidden.output.split()) and not hidden.tasks, hidden.output
    assert "error_on_undefined_vars is false" in hidden.output or shop.core != "2.16", hidden.output
    # An outcome of an earlier run is nobody's any more, also where this one only looks.
    outcome.write_text("done\n")
    looked = shop.deploy(2, "--check", outcome_file=str(outcome))
    assert looked.code == 0 and not outcome.exists(), looked.output
    unknown = shop.run("rollback", mode="fats")
    assert unknown.code != 0 and "mode is fats" in unknown.output, unknown.output


def test_a_release_that_was_never_active_is_no_way_back(deployed: Shop) -> None:
    """It answers, and takes the place of the one that the load balancer remembers; nothing there would prove which it is."""
    shop = deployed
    shop.publish(4)
    needed = shop.run("cleanup_failed", color="green", confirm=True)
    said = " ".join(needed.output.split())
    events = [json.loads(line) for line in (shop.folder / "ledger/ledger.jsonl").read_text().splitlines()]
    # Not always the last run: one that was refused has no restore point.
    newest = [event["deploy"] for event in events if event["event"].get("restore_point", {}).get("name") == "green"][-1]
    assert needed.code != 0 and f"green holds {sha(1)} and is healthy: it is the last restore point, for the state before {newest}." in said, needed.output
    holder = shop.killed("Check that each component of the colour answers", release_sha=sha(4))
    wait_for(lambda: {row["status"] for row in shop.rows() if row["svname"].endswith("green")} == {"UP"}, "HAProxy has seen it")
    file = shop.folder / "status.json"
    looked = shop.run("status", status_file=str(file))
    assert looked.code == 0, looked.output
    status = json.loads(file.read_text())
    told = status["load_balancers"]["lb1"]["previous"]
    assert status["lease"]["deploy_id"] == holder
    assert (told["release"], told["open"], told["why"]) == (sha(1), False, f"app1 holds {sha(4)} there"), told
    blind = {"app_prove": {name: value for name, value in shop.vars["app_prove"].items() if not name.startswith("release")}}
    refused = shop.run("rollback", mode="fast", take_over=holder, **blind)
    assert refused.code != 0 and shop.serves() == NEW, refused.output
    said = " ".join(refused.output.split())
    assert f"green served {sha(1)}, and since then" in said and f"has put {sha(4)} there" in said and f"blue serves {sha(2)}, as before" in said, said
    ended = shop.run("cleanup_failed", color="green", confirm=True)
    assert ended.code == 0 and fetch(shop.app_url("green")) != f"green {sha(4)}" and shop.serves() == NEW, ended.output
    back = shop.run("rollback", mode="full", release_sha=sha(1), **blind)
    assert back.code == 0 and shop.serves() == OLD, back.output
