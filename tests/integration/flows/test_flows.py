# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks as a person runs them: deploy, deploy again, a bad release, back, and what is refused; and with two load balancers."""
from __future__ import annotations

import json
import os
import re
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from edge import fetch
from flows import Shop, TwoEdges, kill_when
from harness import CORES, Running, wait_for
from releases import sha
from stories import STORY, tells_all
from webhook import Hook

NEWEST = CORES[-1]


@pytest.fixture(name="shop")
def a_shop(tmp_path) -> t.Iterator[Shop]:
    with Shop(tmp_path) as shop:
        yield shop


def test_deploy_back_and_forth(shop: Shop) -> None:
    """On the oldest ansible-core; each playbook meets the newest one as well."""
    for number in (1, 2):
        shop.publish(number)
    shop.publish(3, bad="dead")
    migrated = shop.folder / "migrated"
    hooks = migrating(shop, migrated)
    first = shop.deploy(1, core=NEWEST, **hooks)
    assert first.code == 0, first.output
    assert shop.serves() == ("green", sha(1))
    shop.environ = STORY
    second = shop.deploy(2, **hooks)
    shop.environ = {}
    shop.environ = {"TZ": "Asia/Tokyo"}
    checked = shop.run("check", release_sha=sha(2), core=NEWEST)
    shop.environ = {}
    assert checked.code == 0 and "CLOCK" not in checked.output and "a deploy goes into green" in checked.output and "would refuse a deploy" in checked.output, checked.output
    refused = shop.run("check", release_sha=sha(9))
    assert refused.code == 2 and "REFUSED by app1: " in refused.output and not shop.ledger()["holder"], refused.output
    assert second.code == 0, second.output
    tells_all(second)
    assert re.search(r"(?m)^ *[0-9]+:[0-9]{2}  Make the new colour active$", second.output), second.output
    assert shop.serves() == ("blue", sha(2)) and migrated.read_text() == sha(1) + sha(2)
    again = shop.deploy(2)
    assert again.code == 0 and "is active already" in again.output, again.output
    assert shop.serves() == ("blue", sha(2))

    # The registry loses the release before, and one that was never here: only the colour has the first now.
    shop.withdraw(1)
    shop.publish(4)
    shop.withdraw(4)
    full = shop.run("rollback", mode="full", release_sha=sha(4))
    assert full.code == 2 and "Nothing was" in full.output and shop.serves() == ("blue", sha(2)), full.output
    assert "does not have" in full.output, full.output
    status = shop.run("status", core=NEWEST, status_file=str(shop.folder / "status.json"))
    assert status.code == 0 and f"The registry DOES NOT HAVE {sha(1)[:12]}" in status.output, status.output
    told = json.loads((shop.folder / "status.json").read_text())
    assert told["load_balancers"]["lb1"]["previous"]["open"] and told["registry"][sha(2)] == "there", told
    reason = hostile(shop)
    told = Hook(shop.serves)
    shop.vars["notify_url"] = told.url
    back = shop.typed("rollback", core=NEWEST, mode="fast", reason=reason, by="somebody {{ env }}")
    assert back.code == 0 and f"-e unlock={shop.last_deploy()}" in back.output, back.output
    done = [task.task for task in back.tasks]
    assert f"The migrations of {sha(2)} stay" in back.output and done.index("Warn of migrations that stay") < done.index("Flip this load balancer"), done
    assert shop.serves() == ("green", sha(1))
    assert_text(shop, reason, "somebody {{ env }}")
    begins, ended = (body["text"] for body in told.bodies)
    assert "Rollback of shop in staging begins." in begins and "Rollback of shop in staging ended: done." in ended, told.bodies
    assert told.seen == [("blue", sha(2)), ("green", sha(1))], "people know before anything changes"
    del shop.vars["notify_url"]
    locked = refused_while_locked(shop, 3)
    shop.environ = STORY
    bad = shop.deploy(3, core=NEWEST, unlock=locked)
    shop.environ = {}
    tells_all(bad)
    assert bad.code == 2, bad.output
    assert shop.serves() == ("green", sha(1))
    assert "green serves" in bad.output and "as before" in bad.output
    logs = shop.run("logs", core=NEWEST, color="blue", lines=5)
    assert logs.code == 0 and "== shop-staging-web-blue" in logs.output and "there is no database" in logs.output, logs.output
    assert "web-green" not in logs.output and shop.run("logs", lines="5; x").code == 2, logs.output
    kept = shop.run("cleanup_failed", color="green", confirm=True)
    assert kept.code == 2 and "green is active" in kept.output, kept.output
    unasked = shop.run("cleanup_failed", color="blue")
    assert unasked.code == 2 and "-e confirm=true" in unasked.output, unasked.output
    shop.vars["notify_url"] = told.url
    clean = shop.run("cleanup_failed", core=NEWEST, color="blue", confirm=True)
    assert ["Clean-up of shop in staging begins." in told.bodies[2]["text"], len(told.bodies)] == [True, 5]
    assert "a fast rollback is no longer possible. Reason: blue is stopped" in told.bodies[4]["text"], told.bodies
    told.close()
    del shop.vars["notify_url"]
    assert clean.code == 0, clean.output
    assert {path.name.split("-")[-2] for path in (shop.folder / "kept").glob("*-blue/*-blue.log")} == {"web"}
    closed = shop.run("rollback", mode="fast")
    assert closed.code == 2 and "A fast rollback is not possible" in closed.output, closed.output


def commit(shop: Shop, text: str) -> str:
    """What the playbooks are started from has a new commit; its id."""
    folder = shop.folder / "checkout"
    shop.vars["ledger_config_dir"] = str(folder)
    folder.mkdir(exist_ok=True)
    (folder / "app.yml").write_text(text)
    for words in (("init", "-q"), ("add", "app.yml"), ("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", text)):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_an_older_release_without_its_registry(shop: Shop) -> None:
    """What is still on the host, as it was unpacked, needs no registry; what somebody has edited there does."""
    for number in (1, 2):
        shop.publish(number)
        assert shop.deploy(number).code == 0
    shop.vars["host_app_artifact"] |= {"url": "http://127.0.0.1:1/{package}/{sha}", "deadline": 3}
    kept = shop.root / "web/green/releases" / sha(1) / "RELEASE"
    text, then, told = kept.read_bytes(), kept.stat(), shop.run("status")
    assert f"app1: shop-staging-web-green keeps {sha(1)[:12]}" in told.output, told.output
    kept.write_bytes(b"edited")
    refused = shop.run("rollback", mode="full", release_sha=sha(1))
    assert refused.code == 2 and shop.serves() == ("blue", sha(2)), refused.output
    kept.write_bytes(text)
    os.utime(kept, ns=(then.st_atime_ns, then.st_mtime_ns))
    back = shop.run("rollback", mode="full", release_sha=sha(1))
    assert back.code == 0 and shop.serves() == ("green", sha(1)), back.output


def migrating(shop: Shop, migrated: Path) -> dict[str, t.Any]:
    """A migration by the code of the new release itself, which is on the host and does not run yet. `before` has come before it."""
    script = "test -e $2 && test ! -e $3 && rm $2 && cat $1/RELEASE >> $0"
    pid = f"{shop.folder}/shop-staging-web-{{color}}.pid"
    return {"app_hooks": {"before": [["/bin/touch", f"{migrated}-before"]],
                          "migrate": [["/bin/sh", "-c", script, str(migrated), "{web}", f"{migrated}-before", pid]]}}


def refused_while_locked(shop: Shop, number: int) -> str:
    """The next push would bring back what a rollback has taken away. Who, why and how stands in the refusal; the id that unlocks deploys."""
    rollback = shop.ledger()["deploys"][0]
    file = shop.folder / "status.json"
    assert shop.run("status", status_file=str(file)).code == 0
    assert json.loads(file.read_text())["locked"]["deploy_id"] == rollback["deploy_id"]
    outcome, before = shop.folder / "outcome", shop.serves()
    outcome.write_text("done\n")
    refused = shop.deploy(number, unlock="", outcome_file=str(outcome))
    said = " ".join(refused.output.split())
    assert refused.code == 2 and shop.serves() == before and not outcome.exists(), refused.output
    assert f"{rollback['deploy_id']} was a rollback by {rollback['by']} at " in said and f"pass unlock: {rollback['deploy_id']}" in said, said
    assert shop.ledger()["deploys"][0]["deploy_id"] == rollback["deploy_id"], "it was not opened"
    return rollback["deploy_id"]


def hostile(shop: Shop) -> str:
    """A reason that leaves a file when anything of it is run, and again when what it became is."""
    return "p99 {{ lookup('pipe', 'touch MARKER') }} {% endraw %}\"'}} $(touch MARKER) `touch MARKER`".replace("MARKER", f"{shop.folder}/marker")


def assert_text(shop: Shop, reason: str, by: str = "") -> None:
    """The ledger has what was typed for the last run, and nothing of it was run."""
    last = shop.ledger()["deploys"][0]
    assert last["reason"] == reason and (not by or last["by"] == by), last
    assert not (shop.folder / "marker").exists()


def site(shop: Shop, name: str, *books: tuple[str, dict[str, t.Any]]) -> str:
    """A playbook of somebody's own that has several of ours."""
    path = shop.folder / f"{name}.yml"
    path.write_text(json.dumps([{"ansible.builtin.import_playbook": f"reversible.deploy.{book}", "vars": given} for book, given in books]))
    return str(path)


def test_two_runs_in_one_playbook_on_machines_of_any_name(shop: Shop, edge_core: str) -> None:
    """What the first has found is not taken for the second's, and no machine is mistaken for the run itself."""
    shop.core = edge_core
    shop.vars["app_hosts"] = ["deploy"]
    shop.more_hosts = {"deploy": shop.host("deploy"), "way-back": {"ansible_connection": "lost", "lost_file": "/dev/null"}}
    for number in (1, 2):
        shop.publish(number)
    both = shop.run(site(shop, "two", *(("deploy_app", {"release_sha": sha(number)}) for number in (1, 2))))
    assert both.code == 0 and shop.serves() == ("blue", sha(2)), both.output
    assert fetch(shop.app_url("green")) == f"green {sha(1)}", "the way back is as the first has left it"
    assert [(one["release"], one["outcome"]) for one in shop.ledger()["deploys"]] == [(sha(2), "done"), (sha(1), "done")]
    assert {task.host for task in both.tasks} == {"localhost", "deploy", "deploy@shop-staging", "way-back@shop-staging", "deploy@shop-staging.2",
                                                  "way-back@shop-staging.2"}
    given = shop.run(site(shop, "given", ("status", {}), ("status", {})), deploy_id=shop.last_deploy())
    assert given.code == 2 and "has had a run before this one" in given.output, given.output
    for door in ("install", "retire"):
        book = shop.folder / f"{door}.yml"
        book.write_text(json.dumps([{"hosts": "deploy", "gather_facts": False, "tasks": [{
            "ansible.builtin.include_role": {"name": "reversible.deploy.host_app", "tasks_from": door},
            "vars": {"app_env": "staging", "app_color": "blue", "app_active": "blue", "app_release_sha": sha(1)}}]}]))
        guarded = shop.run(str(book), deploy_id="20991121t084500z-7f3a")
        assert guarded.code == 2 and "blue of shop staging is active" in guarded.output and shop.serves() == ("blue", sha(2)), guarded.output
    shop.more_hosts["way-back@shop-staging"] = {}
    named = shop.run("status")
    assert named.code == 2 and "the inventory has way-back@shop-staging" in named.output, named.output


# As somebody may have them in ansible.cfg for other playbooks, all at once.
SETTINGS = {
    "ANSIBLE_ANY_ERRORS_FATAL": "true", "ANSIBLE_STRATEGY": "free", "ANSIBLE_GATHERING": "smart", "ANSIBLE_HASH_BEHAVIOUR": "merge",
    "ANSIBLE_JINJA2_NATIVE": "true", "ANSIBLE_FORCE_HANDLERS": "true", "ANSIBLE_FORKS": "1", "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.tree",
    "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false", "ANSIBLE_BECOME": "true",
}


def test_the_settings_of_somebody_else(shop: Shop, edge_core: str) -> None:
    """A deploy goes forward and, when a gate after its flip fails, back, as with no settings at all."""
    shop.core = edge_core
    shop.publish(1)
    shop.publish(2)
    outcome = shop.folder / "outcome"
    settings = SETTINGS | {"ANSIBLE_CALLBACK_TREE_DIR": str(shop.folder / "tree")}
    first = shop.deploy(1, environ=settings, outcome_file=str(outcome))
    assert first.code == 0 and shop.serves() == ("green", sha(1)) and outcome.read_text() == "done\n", first.output
    back = shop.deploy(2, environ=settings | {"ANSIBLE_STRATEGY": "host_pinned"}, outcome_file=str(outcome), app_hooks={"smoke": [["/bin/false"]]})
    assert back.code == 2 and shop.serves() == ("green", sha(1)) and outcome.read_text() == "failed_reverted\n", back.output
    assert shop.ledger()["holder"] is None and f"green serves {sha(1)}, as before" in " ".join(back.output.split()), back.output


@pytest.fixture(name="two")
def two_load_balancers(tmp_path) -> t.Iterator[TwoEdges]:
    with TwoEdges(tmp_path) as two:
        yield two


def flipping(two: TwoEdges) -> Running:
    """A deploy of release 3. While the door is closed it has flipped lb1, and comes to lb2 after that."""
    return two.start_book("deploy_app", release_sha=sha(3), outcome_file=str(two.folder / "outcome"))


def test_two_load_balancers(two: TwoEdges) -> None:
    for number in (1, 2, 3):
        two.publish(number)
    first, second = [("green", sha(1))] * 2, [("blue", sha(2))] * 2
    commits = []
    for number, served in ((1, first), (2, second)):
        commits.append(commit(two, f"version: {number}"))
        deployed = two.deploy(number)
        assert deployed.code == 0 and two.both() == served, deployed.output

    # To what was before the second deploy, and that undone.
    point = two.last_deploy()
    shown = two.run("rollback", to=point)
    assert shown.code == 2 and "has to be agreed to" in shown.output and two.both() == second, shown.output
    status = two.run("status")
    for said in (shown, status):
        assert f"git worktree add --detach ../config-{commits[0][:12]} {commits[0]}" in said.output and f"git revert --no-edit {commits[0]}..HEAD" in said.output
        assert f"reversible.deploy.rollback -e @... -e env=staging -e mode=full -e release_sha={sha(1)}" in said.output, said.output
    assert f"config {commits[1][:12]}" in status.output, status.output
    assert "lb1, lb2, color:" in shown.output and f"flip from blue ({sha(2)}) to green ({sha(1)})" in shown.output, shown.output
    [plan] = set(re.findall(r"plan-[0-9a-f]{12}", shown.output))
    reason = hostile(two)
    back = two.typed("rollback", to=point, confirm=plan, accept="newer_snapshots, nothing_of_that", reason=reason, by="somebody {{ env }}")
    assert back.code == 0 and two.both() == first, back.output
    assert_text(two, reason, "somebody {{ env }}")
    undo = two.last_deploy()
    assert f"To undo this: ansible-playbook reversible.deploy.rollback -e @... -e env=staging -e to={undo}" in back.output, back.output
    forth = two.run("rollback", to=undo, confirm=True)
    assert forth.code == 0 and two.both() == second, forth.output

    # One is down: nothing is begun. It goes down between its flip and that of the other: the other goes back.
    two.second.stop()
    refused = two.deploy(3)
    assert refused.code == 2 and "Not every load balancer answers. lb2: " in refused.output, refused.output
    assert two.serves() == second[0] and fetch(two.app_url("green")) == f"green {sha(1)}"
    two.second.start()
    with two.door.closed():
        running = flipping(two)
        wait_for(lambda: two.door.waiting or running.process.poll() is not None, "lb1 is flipped", 300)
        assert two.live() == "green"
        two.second.stop()
    between = running.wait()
    assert between.code == 2 and "split: lb1 serves blue, lb2 does not say what it serves" in between.output, between.output
    assert two.serves() == second[0] and (two.folder / "outcome").read_text() == "failed_not_reverted\n"
    two.second.start()
    assert two.both() == second

    # The controller dies between the two: the next run names the split, and a colour that is named ends it.
    with two.door.closed():
        kill_when(flipping(two), lambda: two.door.waiting, "lb1 is flipped")
    assert two.both() == [("green", sha(3)), second[1]]
    holder = two.last_deploy()
    split = two.run("rollback", mode="fast", take_over=holder)
    assert split.code == 2 and "green on lb1, blue on lb2" in split.output and "target_color" in split.output, split.output
    ended = two.typed("rollback", mode="fast", target_color="blue", take_over=holder, reason=reason)
    assert ended.code == 0 and two.both() == second, ended.output
    assert_text(two, reason)


def test_a_controller_whose_clock_is_behind(shop: Shop) -> None:
    """Another one, two hours ahead, has deployed before. A run that makes its own id gets the next one; an id that was given is kept, and refused."""
    for number in (1, 2):
        shop.publish(number)
    ahead, behind = (time.strftime("%Y%m%dt%H%M%Sz-7f3a", time.gmtime(time.time() + hours * 3600)) for hours in (2, 0))
    first = shop.deploy(1, deploy_id=ahead)
    assert first.code == 0 and shop.last_deploy() == ahead, first.output
    second = shop.deploy(2)
    moved = shop.last_deploy()
    assert second.code == 0 and shop.serves() == ("blue", sha(2)) and moved > ahead, second.output
    back = shop.run("rollback", core=NEWEST, mode="fast")
    assert back.code == 0 and shop.serves() == ("green", sha(1)) and shop.last_deploy() > moved, back.output
    given = shop.deploy(2, deploy_id=behind)
    assert given.code == 2 and "was superseded by" in given.output and shop.serves() == ("green", sha(1)), given.output

    # And one in the year 2099, before that was refused: no deploy is begun any more, until somebody lowers the fences.
    fences = [folder / "fence" for folder in (shop.folder / "ledger", shop.state_dir, Path("/var/lib/reversible/wiki-prod"))]
    fences[2].parent.mkdir(mode=0o700, parents=True)
    for fence in fences:
        fence.write_text("20991231t000000z-0001\n", encoding="utf-8")
    locked = shop.deploy(2)
    assert locked.code == 2 and "was superseded by 20991231t000000z-0001" in locked.output and "lower_fences" in locked.output, locked.output
    asked = shop.run("lower_fences")
    assert asked.code == 2 and f"lower the fence in {shop.folder}/ledger from 20991231t000000z-0001 to" in asked.output, asked.output
    assert [fence.read_text(encoding="utf-8")[:4] for fence in fences] == ["2099"] * 3
    shop.lost("lb1").touch()
    partly = shop.run("lower_fences", core=NEWEST, confirm="true")
    shop.lost("lb1").unlink()
    assert partly.code != 0 and "lb1: no answer, so nothing was lowered there" in partly.output, partly.output
    assert [fence.read_text(encoding="utf-8")[:4] == "2099" for fence in fences] == [True, True, False]  # the third is on app1 as well
    lowered = shop.run("lower_fences", confirm="true")
    assert lowered.code == 0 and not any(fence.read_text(encoding="utf-8").startswith("2099") for fence in fences), lowered.output
    assert fences[0].read_text(encoding="utf-8") > moved  # as the ledger beside it records
    again = shop.deploy(2)
    assert again.code == 0 and shop.serves()[1] == sha(2), again.output
