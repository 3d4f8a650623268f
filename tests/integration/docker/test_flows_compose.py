# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a Compose project of a real engine: the first deploy, a second, a broken one, back to the backup, and that undone; and
whether its backups can be restored."""
from __future__ import annotations

import json
import os
import time
import typing as t

import pytest
from compose import Engine, an_engine  # noqa: F401
from compose_app import SERVES, App
from edge import Edge, call, haproxy_binary, wait_for, web_binary
from harness import Run, within
from holds import BACKEND, nothing_is_held, waited
from in_place import InPlace, example
from releases import sha


class Shop(InPlace):
    """The example for Compose, with the project of a test in its place."""

    def __init__(self, on: Engine) -> None:
        self.app = App(on)
        super().__init__(example("compose") | {
            "compose_app_project_dir": str(self.app.folder), "compose_app_backup_dir": str(self.app.backups),
            "compose_app_state_dir": str(self.app.state), "compose_app_source_files": ["compose.yml"],
            "compose_app_wait_timeout": 30,
        }, {"shop1": {}})
        self.environ |= on.environ

    def deploy(self, number: int, *options: str) -> Run:
        source = str(self.app.place / "releases" / str(number))
        own = {"compose_app_source": source, "compose_app_env": {"VERSION": str(number)}}
        return self.run("deploy_app", *options, release_sha=sha(number), **own)

    def close(self) -> None:
        self.app.remove()
        super().close()


@pytest.fixture(name="shop")
def a_shop(on: Engine) -> t.Iterator[Shop]:
    with Shop(on) as shop:
        yield shop


def test_deployed_broken_back_and_forth(shop: Shop) -> None:
    for number in (1, 2):
        run = shop.deploy(number)
        assert run.code == 0 and (shop.outcome, shop.app.version) == ("done", str(number)), run.output
    bad = shop.deploy(3)
    assert bad.code == 2 and (shop.outcome, shop.app.version) == ("failed_reverted", "2"), bad.output
    assert "cannot open the database" in bad.output and f"Every host is rolled back to {sha(2)}" in bad.output, bad.output

    logs = shop.run("logs", lines=20)
    assert logs.code == 0 and "CANNOT BE READ" not in logs.output and logs.output.count("== ") == 1, logs.output
    wrong = shop.run("rollback", mode="backup", confirm="plan-000000000000")
    assert wrong.code == 2 and (shop.outcome, shop.app.version) == ("", "2"), wrong.output
    assert "by now the plan is another one" in wrong.output, wrong.output
    plan = wrong.output.split("The plan: ")[1][:17]
    shop.good("rollback", mode="backup", confirm=plan)
    assert shop.app.version == "1"
    status = shop.status()
    newest = status["deploys"][0]
    assert (newest["release"], newest["back_to"]) == (sha(1), status["deploys"][2]["deploy_id"]), status["deploys"]
    assert [point["open"] for point in status["restore_points"]] == [True] * 3, status["restore_points"]
    shop.good("rollback", to=newest["deploy_id"], confirm=True)
    assert shop.app.version == "2"
    # A backup in the middle of a deploy would be of neither release, and its fence would refuse the rest of that deploy.
    run = {"app": shop.vars["app_name"], "env": "staging", "path": shop.vars["app_ledger_path"]}
    run["deploy_id"] = time.strftime("%Y%m%dt%H%M%Sz-ffff", time.gmtime())
    assert not call("deploy_ledger", {**run, "state": "open", "purpose": "maintenance"}).get("failed")
    refused = shop.run("restore_test")
    assert refused.code == 2 and f"deploy {run['deploy_id']} holds the lease" in " ".join(refused.output.split()), refused.output
    assert not call("deploy_ledger", {**run, "state": "closed", "outcome": "failed_reverted"}).get("failed")
    proven = shop.good("restore_test")
    assert shop.ledger()["current"]["release"] == sha(2) and shop.ledger()["deploys"][0]["purpose"] == "maintenance", shop.ledger()
    assert "was restored as a separate project, ran, and was removed again" in proven.output and shop.app.version == "2", proven.output


WORKER = """\
  worker:
    image: reversible-lab/busybox:1
    init: true
    command: [sleep, "600"]
    volumes: ["./own:/own"]
"""


class Before(Edge):
    """A HAProxy in the engine's network, whose only server is the port that the project publishes."""

    def _start_apps(self) -> None:
        """Compose does."""


def test_requests_wait_while_it_goes_back(on: Engine) -> None:
    for get in (web_binary, lambda: haproxy_binary("2.6")):   # before the network in which nothing can be fetched
        get()
    with within(on.offer["pid"], {**on.environ, "PATH": f"{on.offer['path']}:{os.environ['PATH']}"}), Before(hold=True, inter=200) as edge, Shop(on) as shop:
        shop.own = {**shop.own, "lb1": {}}
        # It takes longer to start than HAProxy tries to connect: without the hold its requests fail.
        serves = json.dumps(["sh", "-c", "sleep 2; cp /www/index.html /www/health; " + SERVES.replace("$", "$$")])
        published = f"ports: ['127.0.0.1:{edge.ports['blue', 'web'][0]}:80']\n    command: {serves}"
        for number in (1, 2):
            file = shop.app.place / f"releases/{number}/compose.yml"
            file.write_text(file.read_text().replace("    environment:", f"    {published}\n    environment:"))
            run = shop.deploy(number)
            assert run.code == 0 and shop.app.version == str(number), run.output
        wait_for(lambda: edge.answer() == "release 2", "HAProxy sees that it runs")
        shop.vars |= {"app_hold_hosts": ["lb1"], "app_hold": 60, "app_hold_backends": [BACKEND], "app_hold_stats_socket": [edge.stats]}
        with edge.load(4, pause=50) as load:
            back = shop.good("rollback", mode="backup", confirm=True)
            assert shop.app.version == "1" and edge.answer() == "release 1", back.output
        assert load.report["failed"] == 0 and load.report["requests"] > 0, load.report
        assert waited(back) > 0, back.output
        nothing_is_held(edge)


def test_one_service_goes_back_and_the_others_run_on(shop: Shop) -> None:
    for number in (1, 2):
        file = shop.app.place / f"releases/{number}/compose.yml"
        file.write_text(file.read_text().replace("volumes: {box", f"{WORKER}volumes: {{box"))
        run = shop.deploy(number)
        assert run.code == 0 and shop.app.version == str(number), run.output
    worker, own = started(shop, "worker"), shop.app.folder / "own/log"
    own.write_text("stays\n")
    files = {name: (shop.app.folder / name).read_text() for name in ("compose.yml", ".env")}

    for services, words in (("web,wroker", 'has no service "wroker"; it has web, worker'), ("web;x", "services has web;x: expected names of services")):
        refused = shop.run("rollback", mode="backup", services=services, confirm="true")
        assert refused.code == 2 and said(refused, words) and shop.app.version == "2", refused.output
    data = shop.run("rollback", mode="snapshot", services="web")
    assert data.code == 2 and said(data, "services is web: only a Compose project that is changed in place"), data.output
    whole = plan_of(shop.run("rollback", "--check", mode="backup"))
    shown = shop.run("rollback", "--check", mode="backup", services="web")
    assert said(shown, "only web of the project is restored: worker and the compose and env files stay as they are"), shown.output
    assert said(shown, "start web with the recorded images") and plan_of(shown) != whole, shown.output
    other = shop.run("rollback", mode="backup", services="web", confirm=whole)
    assert other.code == 2 and said(other, "by now the plan is another one") and shop.app.version == "2", other.output

    back = shop.good("rollback", mode="backup", services="web", confirm=plan_of(shown))
    assert shop.app.version == "1" and (shop.app.folder / "data/log").read_text().splitlines()[-1] == "release 1", back.output
    assert started(shop, "worker") == worker and own.read_text() == "stays\n"
    assert files == {name: (shop.app.folder / name).read_text() for name in files}
    # Of which release all of it is, nobody can say; and all of what was parked comes back.
    newest = shop.ledger()["deploys"][0]
    assert not newest["release"], newest
    shop.good("rollback", to=newest["deploy_id"], confirm=True)
    assert shop.app.version == "2" and own.read_text() == "stays\n"


def started(shop: Shop, service: str) -> list[tuple[str, str]]:
    return [(one["Id"], one["State"]["StartedAt"]) for one in shop.app.containers() if f"-{service}-" in one["Name"]]


def said(run: Run, words: str) -> bool:
    return words in " ".join(run.output.replace('\\"', '"').split())


def plan_of(run: Run) -> str:
    return run.output.split("The plan: ")[1][:17]
