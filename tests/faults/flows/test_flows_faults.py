# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each phase of a deploy broken for real, under load: the old colour serves, no request has failed, and the run says what happened."""
from __future__ import annotations

import json
import signal
import typing as t
from pathlib import Path

import pytest
from flows import Shop
from harness import Run, wait_for
from releases import sha

OLD = ("green", sha(1))


@pytest.fixture(name="shop", scope="module")
def a_shop(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Shop]:
    """With release 1 in green, and release 2 to be had."""
    with Shop(tmp_path_factory.mktemp("shop")) as shop:
        shop.publish(1)
        shop.publish(2)
        shop.publish(3, bad="dead")
        first = shop.deploy(1)
        assert first.code == 0 and shop.serves() == OLD, first.output
        yield shop


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


def ledger(shop: Shop) -> dict[str, t.Any]:
    file = shop.folder / "status.json"
    run = shop.run("status", status_file=str(file))
    assert run.code == 0, run.output
    return json.loads(file.read_text())


def hook(shop: Shop, name: str, *steps: list[str]) -> t.Any:
    return {"app_hooks": {name: [list(step) for step in steps]}}


def test_the_release_is_not_in_the_registry(shop: Shop) -> None:
    run = broken(shop, 9)
    assert "404" in run.output or "does not have" in run.output
    assert ledger(shop)["deploys"][0]["outcome"] == "failed_reverted"


@pytest.mark.parametrize("name", ["before", "migrate"])
def test_a_hook_fails_before_the_change(shop: Shop, name: str) -> None:
    run = broken(shop, **hook(shop, name, ["/bin/false"]))
    assert not any(task.task.startswith("reversible.deploy.host_app : Have the release") for task in run.tasks)
    if name == "migrate":
        assert "stay when this deploy is taken back" in run.output


def test_the_new_release_does_not_start(shop: Shop) -> None:
    run = broken(shop, 3)
    assert "shop-staging-web-blue" in run.output


def test_a_gate_after_the_flip_fails(shop: Shop) -> None:
    marker = shop.folder / "went-back"
    hooks = {"app_hooks": {"smoke": [["/bin/false"]], "after_rollback": [["/bin/touch", str(marker)]]}}
    run = broken(shop, 2, **hooks)
    assert marker.exists()
    deploys = ledger(shop)["deploys"]
    assert deploys[0]["outcome"] == "failed_reverted" and deploys[0]["reverted"], run.output
    marker.unlink()


def test_a_probe_from_outside_fails(shop: Shop) -> None:
    outside = {"app_outside": [{"name": "outside", "kind": "http", "url": f"{shop.url}", "release": sha(9), "release_header": "X-Release", "tries": 1}]}
    run = broken(shop, 2, **outside)
    assert "outside" in run.output


def test_a_host_of_the_app_is_lost(shop: Shop) -> None:
    lost = shop.lost("app1")
    book = shop.folder / "lose.yml"
    book.write_text(json.dumps([{"name": "Lose it", "ansible.builtin.file": {"path": str(lost), "state": "touch", "mode": "0644"}, "delegate_to": "localhost"}]))
    try:
        run = broken(shop, 2, app_hooks={"migrate": [str(book)]})
    finally:
        lost.unlink(missing_ok=True)
    assert "failed or unreachable: app1" in run.output


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
    assert run.code != 0 and "NOT BACK" in run.output, run.output
    assert outcome.read_text().strip() == "failed_not_reverted"
    # The ledger was there, too: the run could not be closed, and the next one is told so.
    refused = shop.run("rollback", mode="fast")
    assert refused.code != 0 and "take_over" in refused.output, refused.output
    holder = ledger(shop)["lease"]["deploy_id"]
    back = shop.run("rollback", mode="fast", take_over=holder)
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_the_controller_is_killed_and_the_same_command_takes_over(shop: Shop) -> None:
    started = shop.folder / "migrating"
    running = shop.start_book("deploy_app", release_sha=sha(2), app_hooks={"migrate": [["/bin/sh", "-c", f"touch {started}; sleep 5"]]})
    wait_for(started.exists, "the migration has begun", 120)
    running.process.send_signal(signal.SIGKILL)
    running.wait()
    assert shop.serves() == OLD
    refused = shop.deploy(2)
    assert refused.code != 0 and "take_over" in refused.output, refused.output
    holder = ledger(shop)["lease"]["deploy_id"]
    taken = shop.deploy(2, take_over=holder)
    assert taken.code == 0 and shop.serves() == ("blue", sha(2)), taken.output
    back = shop.run("rollback", mode="fast")
    assert back.code == 0 and shop.serves() == OLD, back.output


@pytest.mark.parametrize("reached", [
    "Open the deploy", "See that there is room", "Record the restore point", "Have the release of each component", "Start them with the release",
    "Flip this load balancer",
])
def test_the_controller_is_killed_in_each_phase(shop: Shop, reached: str) -> None:
    """As soon as that task has ended; the same command then comes to its end, and nobody has noticed."""
    with shop.load(connections=4, pause=20) as load:
        running = shop.start_book("deploy_app", release_sha=sha(2))
        wait_for(lambda: running.record.exists() and f'"{reached}"' in running.record.read_text(encoding="utf-8"), reached, 120)
        running.process.send_signal(signal.SIGKILL)
        running.wait()
        assert shop.serves() in (OLD, ("blue", sha(2)))
        holder = ledger(shop)["lease"]["deploy_id"]
        taken = shop.deploy(2, take_over=holder)
        assert taken.code == 0 and shop.serves() == ("blue", sha(2)), taken.output
        back = shop.run("rollback", mode="fast")
        assert back.code == 0 and shop.serves() == OLD, back.output
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report


def test_the_host_of_the_app_was_rebooted(shop: Shop) -> None:
    """Plain processes do not come back by themselves: the fast way is closed, and the way that it names starts them. A deploy that was killed
    before goes on."""
    deployed = shop.deploy(2)
    assert deployed.code == 0 and shop.serves() == ("blue", sha(2)), deployed.output
    shop.reboot()
    closed = shop.run("rollback", mode="fast")
    way = f"to={shop.last_deploy()}"
    assert closed.code == 2 and "The fast way back is closed: " in closed.output, closed.output
    assert f"What is open: {way} (green with {sha(1)} is started again); an older release" in " ".join(closed.output.split()), closed.output
    back = shop.run("rollback", "-e", way, confirm=True)
    assert back.code == 0 and shop.serves() == OLD, back.output

    running = shop.start_book("deploy_app", release_sha=sha(2))
    wait_for(lambda: running.record.exists() and '"Have the release of each component"' in running.record.read_text(), "it installs", 120)
    running.process.send_signal(signal.SIGKILL)
    running.wait()
    shop.reboot()
    taken = shop.deploy(2, take_over=shop.last_deploy())
    assert taken.code == 0 and shop.serves() == ("blue", sha(2)), taken.output
    back = shop.run("rollback", to=shop.last_deploy(), confirm=True)
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_what_somebody_else_flips_meanwhile_is_left_to_him(shop: Shop) -> None:
    book, outcome = shop.folder / "flip.yml", shop.folder / "outcome"
    book.write_text(json.dumps([{
        "name": "Flip by hand", "ansible.builtin.include_role": {"name": "reversible.deploy.color_switch", "tasks_from": "once"},
        "vars": {"color_switch_color": "blue", "color_switch_prove": {}}}]))
    there, back = shop.deploy(2), shop.run("rollback", mode="fast")
    assert there.code == back.code == 0 and shop.serves() == OLD, there.output + back.output
    run = shop.deploy(2, outcome_file=str(outcome), app_hooks={"migrate": [str(book)]})
    assert run.code != 0 and "somebody made blue active; before it was green" in run.output and "NOT BACK: lb1 serves blue" in run.output, run.output
    assert outcome.read_text().strip() == "failed_not_reverted" and shop.serves() == ("blue", sha(2))
    back = shop.run("rollback", mode="fast", target_color="green")
    assert back.code == 0 and shop.serves() == OLD, back.output


def test_refusals_change_nothing(shop: Shop, tmp_path: Path) -> None:
    for inputs, words in (
        ({"release_sha": sha(2), "target_color": "green"}, "green is active"),
        ({"release_sha": "main"}, "40 hex characters"),
        ({"release_sha": sha(2), "app_hosts": ["app7"]}, "app7 is not in the inventory"),
    ):
        run = shop.run("deploy_app", **inputs)
        assert run.code != 0 and words in run.output and shop.serves() == OLD, run.output
    limited = shop.run("deploy_app", "--limit", "app1", release_sha=sha(2))
    assert limited.code != 0 and "--limit app1" in limited.output, limited.output
    unknown = shop.run("rollback", mode="fats")
    assert unknown.code != 0 and "mode is fats" in unknown.output, unknown.output


def test_a_rollback_stays_done_when_its_ledger_is_damaged(shop: Shop) -> None:
    """Whoever goes back at night is not sent forward again by a full disk or a line that somebody wrote by hand."""
    deployed = shop.deploy(2)
    assert deployed.code == 0 and shop.serves()[1] == sha(2), deployed.output
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
    holder = ledger(shop)["lease"]["deploy_id"]
    assert shop.deploy(1, take_over=holder).code == 0 and ledger(shop)["lease"] is None


def test_a_release_that_was_never_active_is_no_way_back(shop: Shop) -> None:
    """It answers, and takes the place of the one that the load balancer remembers; nothing there would prove which it is."""
    shop.publish(4)
    flipped = shop.deploy(2)
    assert flipped.code == 0 and shop.serves() == ("blue", sha(2)), flipped.output
    installed = '"See that each component of the colour answers"'
    running = shop.start_book("deploy_app", release_sha=sha(4))
    wait_for(lambda: running.record.exists() and installed in running.record.read_text(encoding="utf-8"), installed, 120)
    running.process.send_signal(signal.SIGKILL)
    running.wait()
    wait_for(lambda: {row["status"] for row in shop.rows() if row["svname"].endswith("green")} == {"UP"}, "HAProxy has seen it")
    status = ledger(shop)
    holder, told = status["lease"]["deploy_id"], status["load_balancers"]["lb1"]["previous"]
    assert (told["release"], told["open"], told["why"]) == (sha(1), False, f"app1 holds {sha(4)} there"), told
    blind = {"app_prove": {name: value for name, value in shop.vars["app_prove"].items() if not name.startswith("release")}}
    refused = shop.run("rollback", mode="fast", take_over=holder, **blind)
    assert refused.code != 0 and shop.serves() == ("blue", sha(2)), refused.output
    said = " ".join(refused.output.split())
    assert f"green served {sha(1)}, and since then" in said and f"has put {sha(4)} there" in said and f"blue serves {sha(2)}, as before" in said, said
    back = shop.run("rollback", mode="full", release_sha=sha(1), **blind)
    assert back.code == 0 and shop.serves() == OLD, back.output
