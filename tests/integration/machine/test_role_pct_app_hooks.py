# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hooks of the role pct_app: when they run, what they see, what a failing one leads to, and that their arguments are shown nowhere.

Also the doors one by one in check mode, the door `downgrade`, and the example of the role's README as it stands there.
"""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from harness import OLDEST, PIPELINING, ROOT, Ansible, system
from pct_app import (  # noqa: F401  pylint: disable=unused-import
    APT, FIRST, GUEST, LOG, NAME, PACKAGE, SECOND, UNIT, answers, at, becomes, deploy, each, failure, install, made, node, pve,
    upgrade, version)
from pve import HOST, Node, container

SECRET = "hunter2-of-the-shop"
HOOKS = ("before", "migrate", "verify", "smoke", "after_rollback", "downgrade")
RECONFIGURE = ["shop-admin", "reconfigure"]


def command(hook: str) -> list[str]:
    return ["shop-admin", hook, f"--token={SECRET}"]


def said_to(failing: str = "") -> list[dict[str, t.Any]]:
    """What the commands of the hooks answer. The failing one prints its arguments, as careless programs do."""
    bad = {"rc": 3, "stderr": f"refused: --token={SECRET} is bad\n"}
    return [{"argv": command(hook), **(bad if hook == failing else {})} for hook in HOOKS] + [{"argv": RECONFIGURE}]


def all_hooks(**more: list[t.Any]) -> dict[str, list[t.Any]]:
    return {hook: [command(hook)] for hook in HOOKS} | more


def ready(node: Node, failing: str = "", **after: t.Any) -> None:
    node.init(container(exec=answers("1.0", more=said_to(failing)), **GUEST), upgrade(more=said_to(failing), **after))


def hooks_run(node: Node) -> list[str]:
    """Which of them ran in the container, in their order."""
    return [argv[4] for argv in node.calls("exec") if argv[3] == "shop-admin" and argv[4] in HOOKS]


def changes(node: Node) -> list[list[str]]:
    """What was called that changes something."""
    inside = ("install", "update", "shop-admin", "restart")
    return [argv for argv in node.calls() if argv[0] not in ("exec", "status", "config", "list", "listsnapshot")
            or argv[0] == "exec" and [word for word in inside if word in argv]]


def test_hooks_come_in_their_order_and_see_the_inputs(each: Ansible, node: Node, tmp_path: Path) -> None:  # noqa: F811
    ready(node)
    sees = tmp_path / "sees.yml"
    seen = "{{ pct_app_hook }} {{ app_release_sha }} {{ deploy_id }} {{ app_observed.version }} {{ app_captured.name }} {{ pct_app_vmid }}"
    sees.write_text(json.dumps([{"name": "sees", "ansible.builtin.debug": {"msg": seen}}]))
    given = {"hooks": {hook: [str(sees), command(hook)] for hook in HOOKS}, "reconfigure": [RECONFIGURE]}
    checked = deploy(each, "--check", "-vvv", **given)
    assert checked.code == 0 and changes(node) == [] and node.snapshots() == [], checked.output
    run = deploy(each, "-vvv", **given)
    assert run.code == 0, run.output
    assert hooks_run(node) == ["before", "migrate", "verify", "smoke"]
    calls = node.calls()
    restart = ["systemctl", "restart", UNIT]
    wanted = [command("before"), install("2.0"), command("migrate"), RECONFIGURE, restart, command("verify"), command("smoke")]
    order = [at(calls, *words) for words in wanted]
    assert order == sorted(order) and next(at for at, argv in enumerate(calls) if argv[0] == "snapshot") < order[0]
    told = [task.msg for task in run.tasks if task.task == "sees"]
    assert told == [f"{hook} 2222222 {FIRST} 1.0 {NAME} 301" for hook in ("before", "migrate", "verify", "smoke")], told
    # Warned of before anything is changed.
    assert "WARNING: What the hook migrate changes outside of the container" in run.output.split("Install the version")[0]
    assert SECRET not in checked.output + run.output


@pytest.mark.parametrize("hook", ["before", "migrate", "smoke"])
def test_a_hook_that_fails_leads_back(pve: Ansible, node: Node, hook: str) -> None:  # noqa: F811
    ready(node, failing=hook)
    node.faults([*upgrade(more=said_to(hook))[:2], becomes("pct rollback", "301", answers("1.0", more=said_to()), at="end")])
    run = deploy(pve, "-vvv", hooks=all_hooks())
    said = failure(run)
    assert f"entry 1 of the hook {hook} (shop-admin; its arguments are not shown) ended with 3" in said, said
    assert "refused: *** is bad" in said and SECRET not in run.output, said
    assert f"rolled back to the snapshot {NAME}" in said and version(node) == "1.0" and LOG in said, said
    assert run.named("app_reverted")["app_reverted"] is True
    # What the migration did elsewhere is still there; before it there was none.
    assert ("stays behind" in said) == (hook != "before"), said
    ran = list(HOOKS[:HOOKS.index(hook) + 1])
    # The old service is verified, too.
    assert hooks_run(node) == [*ran, "after_rollback", "verify"]


def test_after_the_rollback(pve: Ansible, node: Node) -> None:  # noqa: F811
    ready(node, failing="after_rollback", ready=22)
    said = failure(deploy(pve, hooks={"after_rollback": [command("after_rollback")]}))
    words = ("ROLLED BACK, BUT WAS NOT SEEN TO RUN", "entry 1 of the hook after_rollback", "curl: (22) 500")
    assert not [word for word in words if word not in said], said
    assert version(node) == "1.0"


@pytest.mark.long
def test_a_container_that_is_left_stopped(pve: Ansible, node: Node, tmp_path: Path) -> None:  # noqa: F811
    ready(node, ready=22)
    tell = tmp_path / "tell.yml"
    tell.write_text(json.dumps([{"name": "tells somebody", "ansible.builtin.debug": {"msg": "{{ pct_app_hook }}"}}]))
    run = deploy(pve, start="never", hooks={"after_rollback": [str(tell), command("after_rollback")]})
    said = failure(run)
    assert "left stopped, as pct_app_start is never; it was not seen to run" in said and "ROLLED BACK, BUT" not in said, said
    assert node.show()["containers"]["301"]["running"] is False
    # What runs outside of the container does; what cannot run in it is said.
    assert run.named("tells somebody").msg == "after_rollback" and hooks_run(node) == []
    assert "entry 2 of the hook after_rollback did not run" in run.output


@pytest.mark.long
def test_a_reconfiguration_that_fails(pve: Ansible, node: Node) -> None:  # noqa: F811
    bad = [{"argv": RECONFIGURE, "rc": 1, "stderr": "no such key: shop.port\n"}]
    node.faults([becomes("pct exec", f"{PACKAGE}=2.0", answers("2.0", more=bad)), becomes("pct rollback", "301", answers("1.0"), at="end")])
    said = failure(deploy(pve, reconfigure=[RECONFIGURE]))
    assert "no such key: shop.port" in said and f"rolled back to the snapshot {NAME}" in said, said
    assert ["exec", "301", "--", "systemctl", "restart", UNIT] not in node.calls()


def test_the_doors_in_check_mode_and_then_for_real(pve: Ansible, node: Node) -> None:  # noqa: F811
    ready(node)
    given = {"app_name": "shop", "app_env": "prod", "deploy_id": FIRST, "app_hooks": all_hooks(), "pct_app_vmid": "301",
             "pct_app_package": PACKAGE, "pct_app_version": "2.0", "pct_app_units": [UNIT], "pct_app_settle": 0,
             "pct_app_reconfigure": [RECONFIGURE], "pct_app_retain": 1}

    def doors(*names: str) -> list[dict[str, t.Any]]:
        return [{"ansible.builtin.include_role": {"name": "reversible.deploy.pct_app", "tasks_from": name}} for name in names]

    forth = ("observe", "capture", "install", "probe", "retire")
    checked = pve.play(doors(*forth), HOST, "--check", "--diff", vars=given)
    assert checked.code == 0 and changes(node) == [] and node.snapshots() == [], checked.output
    run = pve.play(doors(*forth), HOST, vars=given)
    assert run.code == 0 and version(node) == "2.0" and hooks_run(node) == ["before", "migrate", "verify"], run.output
    before = changes(node)
    back = given | {"pct_app_rollback_id": SECOND, "pct_app_version_before": "1.0"}
    checked = pve.play(doors("revert"), HOST, "--check", "--diff", vars=back)
    assert checked.code == 0 and changes(node) == before, checked.output
    plan = checked.named("Roll back to the snapshot")["plan_id"]
    run = pve.play(doors("revert"), HOST, vars=back | {"pct_app_confirm": plan})
    assert run.code == 0 and version(node) == "1.0" and hooks_run(node)[3:] == ["after_rollback", "verify"], run.output


def test_the_door_downgrade(each: Ansible, node: Node) -> None:  # noqa: F811
    ready(node, ready=22)
    given = {"way": "downgrade", "hooks": all_hooks(), "reconfigure": [RECONFIGURE]}
    checked = deploy(each, "--check", "--diff", **given)
    assert checked.code == 0 and changes(node) == [], checked.output
    assert "would go from 1.0 to 2.0" in checked.output and "Of what the hook migrate changes" in checked.output
    said = failure(deploy(each, **given))
    words = (f"rolled back to {PACKAGE} 1.0", "Of what the hook migrate changes, only what the hook downgrade undoes goes back")
    assert not [word for word in words if word not in said], said
    calls = node.calls("exec")
    back = calls[at(calls, *command("downgrade")):]
    wanted = [command("downgrade"), install("1.0"), RECONFIGURE, ["systemctl", "restart", UNIT], command("after_rollback")]
    order = [at(back, *words) for words in wanted]
    assert order == sorted(order) and version(node) == "1.0" and node.snapshots() == []
    assert hooks_run(node) == ["before", "migrate", "downgrade", "after_rollback", "verify"]


@pytest.mark.long
def test_downgrade_by_itself(pve: Ansible, node: Node) -> None:  # noqa: F811
    ready(node)
    assert deploy(pve, way="downgrade", hooks={"migrate": [command("migrate")]}).code == 0
    back = {"door": "revert", "way": "downgrade", "version_before": "1.0", "hooks": {"migrate": [command("migrate")]}}
    before = changes(node)
    unknown = failure(deploy(pve, **back | {"version_before": ""}, deploy_id=SECOND))
    assert "give pct_app_version_before" in unknown and changes(node) == before, unknown
    checked = deploy(pve, "--check", **back)
    assert checked.code == 0 and changes(node) == before, checked.output
    assert f"{PACKAGE} would go back to 1.0" in checked.output and "app_hooks has no downgrade" in checked.output
    run = deploy(pve, **back)
    assert run.code == 0 and version(node) == "1.0", run.output


@pytest.mark.long
def test_a_downgrade_hook_that_fails_stops_there(pve: Ansible, node: Node) -> None:  # noqa: F811
    """The package of before would meet data that it does not know."""
    ready(node, failing="downgrade", ready=22)
    said = failure(deploy(pve, way="downgrade", hooks=all_hooks()))
    assert "NOT ROLLED BACK" in said and "entry 1 of the hook downgrade" in said and SECRET not in said, said
    assert version(node) == "2.0" and install("1.0") not in [argv[3:] for argv in node.calls("exec")]


@pytest.mark.long
def test_a_version_that_is_gone_from_the_newest_lists_closes_the_door(pve: Ansible, node: Node) -> None:  # noqa: F811
    node.faults([becomes("pct exec", "update", answers("1.0", offered=["2.0"])), *upgrade()])
    said = failure(deploy(pve, way="downgrade"))
    assert "1.0 is not offered" in said and "Nothing was changed" in said and version(node) == "1.0", said
    # Gone after the change: then the migrations are not taken down, either.
    ready(node, ready=22, offered=["2.0"])
    said = failure(deploy(pve, way="downgrade", hooks=all_hooks()))
    words = ("NOT ROLLED BACK: ", "Nothing was rolled back", "1.0 is not offered")
    assert not [word for word in words if word not in said] and "downgrade" not in hooks_run(node), said


def readme_example() -> str:
    text = (ROOT / "roles/pct_app/README.md").read_text(encoding="utf-8")
    # The first is whole; what stands in its place for a release is in test_role_pct_app_release.py.
    return text.split("```yaml\n")[1].split("```")[0]


@pytest.mark.parametrize("healthy", [True, False], ids=["good", "bad"])
def test_the_example_of_the_readme_runs(tmp_path: Path, node: Node, healthy: bool) -> None:  # noqa: F811
    """Just as it stands there: the node, the container and GitLab are made to fit it."""
    def gitlab(release: str, health: int = 0) -> list[dict[str, t.Any]]:
        package = "gitlab-ce"
        said = {"dpkg-query --show --showformat=${db:Status-Abbrev}|${Version} " + package: f"ii |{release}",
                "systemctl is-active gitlab-runsvdir.service": "active\n", "df --block-size=1M --output=avail,pcent /": "Avail Use%\n 9000  40%\n"}
        quiet = [[*APT, "update"], [*APT, "--allow-downgrades", "install", f"{package}=18.6.1-ce.0"], ["gitlab-ctl", "reconfigure"],
                 ["gitlab-ctl", "restart"], ["gitlab-rake", "gitlab:check"], ["gitlab-rake", "gitlab:doctor:secrets"]]
        asked = [{"argv": ["curl", "-fsS", "http://127.0.0.1/-/health"], "rc": health, "stderr": "curl: (22) 502\n" if health else ""}]
        return [{"argv": words.split(" "), "stdout": text} for words, text in said.items()] + [{"argv": argv} for argv in quiet] + asked

    def say(when: str, args: str, what: list[dict[str, t.Any]]) -> dict[str, t.Any]:
        at_end = {"at": "end"} if when == "pct rollback" else {}
        return {"command": when, "args": args, "patch": {"containers": {"2050": {"guest": {"exec": what}}}}, **at_end}

    old = gitlab("18.5.0-ce.0")
    node.init(container(vmid="2050", exec=old), [say("pct exec", "gitlab-ce=18.6.1-ce.0", gitlab("18.6.1-ce.0", 0 if healthy else 22)),
                                                 say("pct rollback", "2050", old)])
    book = tmp_path / "gitlab.yml"
    book.write_text(readme_example())
    ansible = Ansible(OLDEST, tmp_path, {"pve1": system("systemd")[HOST]}, PIPELINING)
    # Nobody waits a minute for what is known to fail.
    quick = ["-e", "pct_app_probe_retries=1", "-e", "pct_app_probe_delay=0.1"]
    checked = ansible._start(["ansible-playbook", "--check", "--diff", *quick, str(book)]).wait()
    assert checked.code == 0 and node.snapshots("2050") == [], checked.output
    run = ansible._start(["ansible-playbook", *quick, str(book)]).wait()
    answers_now = node.show()["containers"]["2050"]["guest"]["exec"]
    release = answers_now[0]["stdout"].split("|")[1]
    if healthy:
        assert run.code == 0 and release == "18.6.1-ce.0" and node.snapshots("2050") == [NAME], run.output
        assert node.calls("rollback") == []
    else:
        assert run.code == 2 and release == "18.5.0-ce.0" and "curl: (22) 502" in run.output, run.output
        assert node.snapshots("2050") == sorted([f"failed-{FIRST}", NAME])
