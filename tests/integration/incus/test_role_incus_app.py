# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role incus_app on a real Incus: each of its doors, what it refuses, and the documentation's example as a whole story under load."""
from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
import yaml
from edge import fetch
from flows import TOKEN
from harness import ROOT, wait_for
from incus import BLUE, FIRST, GREEN, Doors, Incus, IncusShop, a_machine, a_shop  # noqa: F401  pylint: disable=unused-import
from releases import sha

EXAMPLE = ROOT / "collection/docs/examples/incus"
OLDER, NEWER = "20261121t084000z-0001", "20261121t090000z-1c2d"


def test_the_doors(machine: Incus, shop: IncusShop, one_core: str) -> None:
    shop.publish(1)
    doors = Doors(shop, one_core)
    [component] = shop.vars["app_components"]
    proxy = {"type": "proxy", "listen": "tcp:127.0.0.1:18081", "connect": "tcp:127.0.0.1:8080", "bind": "host"}
    component |= {
        "config": {"limits.memory": "64MiB", "user.note": "ours"},
        "files": [{"path": "/etc/shop/shop.conf", "content": "color={{ app_color }}\n", "mode": "0640"}],
        "env": {"SECRET": "it's a $secret"}, "inside": ["test", "-e", "/etc/shop/shop.conf"], "logs": ["/etc/shop"],
        "devices_by_color": {"green": {"door": proxy}},
    }
    before = machine.status()
    checked = doors.play("observe", "preflight", "capture", "install", "probe", options=("--check",))
    assert checked.code == 0 and machine.status() == before, checked.output
    assert f"{GREEN} would be made with {sha(1)}" in checked.output

    made = doors.play("observe", "preflight", "capture", "install", "probe", "observe")
    assert made.code == 0, made.output
    assert machine.status() == {**before, GREEN: "Running"}
    assert machine.marks(GREEN) == {"app": "shop-staging", "component": "web", "color": "green", "release": sha(1), "deploy_id": FIRST,
                                    "installed": FIRST, "supervisor": "process"}
    config = machine.instances()[GREEN]
    assert (config["config"]["limits.memory"], config["config"]["user.note"], config["devices"]["door"]) == ("64MiB", "ours", proxy)
    assert fetch("http://127.0.0.1:18081/") == f"green {sha(1)}"
    assert machine.inside(GREEN, "cat", "/etc/shop/shop.conf") == "color=green\n"
    assert machine.inside(GREEN, "stat", "-c", "%a %u", "/etc/shop/shop.conf", "/opt/shop/web/run").split() == ["640", "0", "700", "0"]
    environ = machine.inside(GREEN, "sh", "-c", "tr '\\0' '\\n' < /proc/$(cat /run/shop-web.pid)/environ")
    assert "SECRET=it's a $secret" in environ.splitlines()
    assert machine.inside(GREEN, "readlink", "/opt/shop/web/current").strip() == sha(1)
    seen = [task for task in made.tasks if task.task.endswith("Set the observed facts")][-1]["ansible_facts"]["app_observed"]
    well = {"release": sha(1), "well": True, "state": "running", "why": ""}
    none = {"release": None, "well": False, "state": "absent", "why": ""}
    assert seen["colors"] == {"green": {"components": {"web": well}, "release": sha(1), "well": True},
                              "blue": {"components": {"web": none}, "release": None, "well": False}}
    assert "$secret" not in made.output
    again = doors.play("install", "probe")
    assert again.code == 0 and "changed=0" in again.output, again.output
    shop.withdraw(1)   # what lies whole on the host needs no registry
    kept = doors.play("preflight", "unpack", "install")
    assert kept.code == 0 and "changed=0" in kept.output, kept.output

    machine.create(BLUE, start=False)
    theirs = shop.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4301, 4301)
    said = doors.refused(
        ("install", {"app_active": "green"}), ("retire", {"app_active": "green"}),
        ("install", {"deploy_id": OLDER}), ("retire", {"deploy_id": OLDER}),
        ("install", {"app_color": "blue"}), ("retire", {"app_color": "blue"}),
        ("revert", {"app_release_sha": sha(2)}), ("preflight", {"app_release_sha": sha(9)}),
        ("preflight", {"incus_app_profiles": ["default", "nowhere"]}), ("preflight", {"incus_app_image": "nowhere"}),
        ("preflight", {"incus_app_free": 2.0}), ("preflight", {"incus_app_kept_logs": str(theirs / "kept")}),
    )
    for words, text in zip((
        "Nothing was changed. green of shop staging on app1 is active", "Nothing was changed. green of shop staging on app1 is active",
        f"was changed by {FIRST}, which is newer than {OLDER}", f"was changed by {FIRST}, which is newer than {OLDER}",
        f"{BLUE} on app1 was not made for shop-staging", f"{BLUE} on app1 was not made for shop-staging",
        "to return to it, deploy that release again",
        sha(9), "observe the profiles: incus query /1.0/profiles/nowhere?project=default: Fetch profile: Profile not found",
        'observe the images: incus image info nowhere --project default: Image "nowhere" not found',
        "Nothing was changed. The pool default on app1 has", f"keeping logs in {theirs}/kept: ",
    ), said, strict=True):
        assert words in text and "\n" not in text, said
    assert machine.status() == {**before, GREEN: "Running", BLUE: "Stopped"}
    machine.remove(BLUE)

    machine.ask("stop", "--force", GREEN)
    back = doors.play("revert", "revert")
    assert back.code == 0 and machine.status()[GREEN] == "Running", back.output
    assert "shop" in machine.inside(GREEN, "cat", "/opt/shop/web/run")

    would = doors.play("revert", "retire", options=("--check",), deploy_id=NEWER)
    assert would.code == 0 and machine.status()[GREEN] == "Running" and not (shop.folder / "kept").exists(), would.output
    # What a run that was killed has pulled, and a link that the container has made.
    kept = shop.folder / "kept" / f"{FIRST}-green" / "web"
    (kept / "shop").mkdir(parents=True)
    machine.inside(GREEN, "ln", "-s", "/etc/hostname", "/etc/shop/link")
    gone = doors.play("retire", "retire", deploy_id=NEWER)
    assert gone.code == 0 and machine.status() == before, gone.output
    assert sorted(path.name for path in kept.parent.iterdir()) == ["web"]
    assert {str(path.relative_to(kept)) for path in kept.rglob("*")} == {"shop-web.log", "shop", "shop/shop.conf"}
    assert (shop.root / "web/releases" / sha(1) / "bin/app").exists()


def test_a_component_under_systemd(machine: Incus, shop: IncusShop, one_core: str) -> None:
    shop.publish(1)
    doors = Doors(shop, one_core)
    shop.vars["incus_app_image"] = machine.image_with_systemd()
    [component] = shop.vars["app_components"]
    component |= {"user": "nobody", "env": {"SECRET": 'a "$secret" of \\ours'}}
    shop.vars["app_components"].append({"name": "mail", "kind": "worker", "package": "shop-web", "proof": {"log": "is (ready)"},
                                        "command": ["/bin/sh", "-c", "echo mail is '(ready)'; exec sleep 600"]})
    made = doors.play("install", "probe", "start_workers", "start_workers")
    assert made.code == 0 and "$secret" not in made.output, made.output
    assert machine.marks(GREEN)["supervisor"] == "systemd"
    # What it has written before this start is no proof.
    said = machine.inside("shop-staging-mail-green", "journalctl", "--no-pager", "--quiet", "--boot", "--unit=shop-mail", "--grep=mail is", "--output=cat")
    assert said == "mail is (ready)\n", said

    def unit(name: str) -> str:
        return machine.inside(GREEN, "systemctl", "show", "--value", "--property", name, "shop-web.service").strip()

    def page() -> str:
        return machine.ask("exec", GREEN, "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/", ok=(0, 1)).strip()

    assert (unit("ActiveState"), unit("User"), unit("UnitFileState")) == ("active", "nobody", "enabled")
    assert machine.inside(GREEN, "stat", "-c", "%a %u", "/etc/shop-web.env").strip() == "600 0"
    environ = machine.inside(GREEN, "sh", "-c", f"tr '\\0' '\\n' < /proc/{unit('MainPID')}/environ")
    assert 'SECRET=a "$secret" of \\ours' in environ.splitlines(), environ
    machine.inside(GREEN, "kill", "-9", unit("MainPID"))
    wait_for(lambda: unit("NRestarts") == "1" and page() == f"green {sha(1)}", "systemd to start it again", 60)
    machine.ask("restart", "--force", GREEN)
    wait_for(lambda: page() == f"green {sha(1)}", "it runs after a restart of the container", 60)
    # It answers before the journal of this start has been written.
    wait_for(lambda: "Started shop-web" in machine.inside(GREEN, "journalctl", "--no-pager", "--unit", "shop-web"), "the journal of the start", 60)
    logs = shop.run("logs", color="green")
    assert logs.code == 0 and f"== {GREEN}" in logs.output and "Started shop-web.service" in logs.output, logs.output
    assert "$secret" not in logs.output and "systemd-tmpfiles" not in logs.output, "of its unit alone"
    gone = doors.play("retire", deploy_id=NEWER)
    assert gone.code == 0 and GREEN not in machine.status(), gone.output
    journal = (shop.folder / "kept" / f"{FIRST}-green" / "web/journal.log").read_text(encoding="utf-8")
    assert "Started shop-web.service - shop staging: web, green" in journal, journal[-2000:]


@pytest.fixture(name="example")
def the_example(machine: Incus, tmp_path: Path) -> t.Iterator[IncusShop]:
    """The shop of the documentation; its addresses, its image and its patience are this machine's."""
    with IncusShop(tmp_path, machine) as shop:
        written = yaml.safe_load((EXAMPLE / "app.yml").read_text(encoding="utf-8"))
        known = yaml.safe_load((EXAMPLE / "inventory.yml").read_text(encoding="utf-8"))["all"]["hosts"]
        assert set(known) == {*written["app_hosts"], *written["app_load_balancers"]}
        prove = written["app_prove"] | {"url": f"{shop.url}health", "tries": 3, "delay": 0.1}
        theirs = ("app_components", "app_hosts", "app_prove", "incus_app_release_header")
        here = {key: value for key, value in shop.vars.items() if key not in theirs}
        shop.vars = {**written, **here, "app_prove": prove, "app_error_budget": {"watch": 2, "max_share": 0.02}, "app_ledger_host": "lb1"}
        there = shop.hosts
        shop.hosts = lambda: {"lb1": there()["lb1"], "incus1": there()["app1"]}
        yield shop


@pytest.mark.long   # Molecule's scenario tells the same story
def test_the_example_deployed_and_taken_back(machine: Incus, example: IncusShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_TOKEN", TOKEN)
    shop = example
    for number, bad in ((1, ""), (2, ""), (3, "dead")):
        shop.publish(number, bad)
    checked = shop.deploy(1, "--check")
    assert checked.code == 0 and GREEN not in machine.status(), checked.output
    first = shop.deploy(1)
    assert first.code == 0 and shop.serves() == ("green", sha(1)), first.output
    with shop.load(connections=4, pause=20) as load:
        second = shop.deploy(2)
        assert second.code == 0 and shop.serves() == ("blue", sha(2)), second.output
        back = shop.run("rollback", mode="fast")
        assert back.code == 0 and shop.serves() == ("green", sha(1)), back.output
        outcome = shop.folder / "outcome"
        bad = shop.deploy(3, outcome_file=str(outcome))
        assert bad.code != 0 and shop.serves() == ("green", sha(1)), bad.output
        assert outcome.read_text().strip() == "failed_reverted" and BLUE in bad.output, bad.output
        clean = shop.run("cleanup_failed", color="blue", confirm=True)
        assert clean.code == 0 and machine.status() == {GREEN: "Running"}, clean.output
    assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report
    status = shop.run("status")
    assert status.code == 0 and f"incus1: green holds {sha(1)[:12]}, healthy" in status.output, status.output
    assert "incus1: blue holds no release" in status.output, status.output
    logs = shop.run("logs")
    assert logs.code == 0 and f"== {GREEN}" in logs.output and "CANNOT BE READ" not in logs.output and BLUE not in logs.output, logs.output


def test_the_datasets_of_an_instance_that_is_not_on_zfs(machine: Incus, shop: IncusShop, one_core: str) -> None:
    """What the role data_snapshot reads is the real thing's; with ZFS it is tried before stand-ins."""
    machine.create("shop-postgres", start=False)
    try:
        doors = Doors(shop, one_core)
        for name, words in (("shop-postgres", "The pool default of the instance shop-postgres is not on ZFS"), ("shop-nobody", "")):
            door = {"name": "data", "ansible.builtin.include_role": {"name": "reversible.deploy.data_snapshot"}}
            run = doors.ansible.play([door], "app1", vars=doors.inputs(data_snapshot_users=[{"preset": "incus", "name": name}]))
            assert run.code == 2 and words in run.output, run.output
        assert "not found" in run.output
    finally:
        machine.remove("shop-postgres")
