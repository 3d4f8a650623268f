# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app in two colours with its data on real ZFS: a deploy takes a restore point; `to=` puts data and colour back as one, and forth."""
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import zfs
from flows import Shop
from harness import Run
from holds import nothing_is_held, waited
from in_place import example
from releases import sha
from zfs import HOST, Machine, Pool

# Uses the data, and writes down when it is stopped and started.
SERVICE = """#!/bin/sh
case $1 in
start) echo $$ > /run/@POOL@.pid; echo start >> /run/@POOL@.log ;;
stop) rm /run/@POOL@.pid; echo stop >> /run/@POOL@.log ;;
status) [ -e /run/@POOL@.pid ] ;;
esac
"""


class Data(Shop):
    """The shop, and the host with its data; what the example adds to an app's variables stands in them."""

    def __init__(self, place: Path, machine: Machine, pool: Pool) -> None:
        self.machine, self.pool = machine, pool
        super().__init__(place, hold=True)
        script = f"/etc/init.d/{pool.name}"
        machine.run("sh", "-euc", f"mkdir -p /etc/init.d; cat > {script}; chmod 0755 {script}; {script} start",
                    given=SERVICE.replace("@POOL@", pool.name).encode())
        user = {"name": "database", "start": [script, "start"], "stop": [script, "stop"], "running": [script, "status"]}
        self.vars |= example("data", "data.yml") | {"app_data_hosts": [HOST], "app_datasets": [pool.at("shop")], "data_snapshot_users": [user],
                                                "data_snapshot_state_dir": pool.state_dir,
                                                "app_hold_hosts": ["lb1"], "app_hold_stats_socket": [self.stats]}

    def hosts(self) -> dict[str, dict[str, t.Any]]:
        return super().hosts() | {HOST: self.machine.known | {"ansible_become": False, "ansible_python_interpreter": "/nowhere/python"}}

    def write(self, text: str) -> None:
        self.pool.write("shop", text)

    @property
    def now(self) -> tuple[str, str]:
        """What the data holds, and which release serves."""
        return self.pool.read("shop"), self.serves()[1]

    def good(self, book: str, *options: str, **inputs: t.Any) -> Run:
        run = self.run(book, *options, **inputs)
        assert run.code == 0, run.output
        return run

    def status(self) -> dict[str, t.Any]:
        file = self.folder / "status.json"
        self.good("status", status_file=str(file))
        return json.loads(file.read_text())


@pytest.fixture(name="shop")
def a_shop(tmp_path: Path) -> t.Iterator[Data]:
    machine = zfs.machine()
    with machine.pool() as pool:
        pool.make("shop", "shop/db")
        with Data(tmp_path, machine, pool) as shop:
            yield shop
        machine.sh(f"rm -f /etc/init.d/{pool.name} /run/{pool.name}.*")


def test_data_and_colour_go_back_as_one(shop: Data) -> None:
    for number, text in ((1, "of release 1"), (2, "of release 2")):
        shop.publish(number)
        shop.good("deploy_app", release_sha=sha(number))
        shop.write(text)
    second = shop.ledger()["deploys"][0]
    assert [point["name"] for point in second["restore_points"]["dataset"]] == [f"pre-deploy-{second['deploy_id']}"]

    # The data alone: the release stays.
    unasked = shop.run("rollback", mode="data")
    assert unasked.code == 2 and shop.now == ("of release 2", sha(2)) and "kept: what was written to" in unasked.output, unasked.output
    with shop.load(20) as load:
        back = shop.good("rollback", mode="data", confirm=True)
    assert shop.now == ("of release 1", sha(2))
    # While what uses the data is stopped nobody's request reaches the app, or fails.
    order = ["Hold new requests", "Stop the users of the datasets", "Start the users of the datasets again", "Release the requests that wait"]
    assert [name for name in dict.fromkeys(task.task for task in back.tasks if task.status == "ok") if name in order] == order, back.output
    assert load.report["failed"] == 0 and waited(back) == 20, load.report
    nothing_is_held(shop)
    assert shop.machine.run("cat", f"/run/{shop.pool.name}.log") == ["start", "stop", "start"]

    # All of that restore point, by the id of one plan that was shown before.
    shop.write("spoilt")
    shown = shop.good("rollback", "--check", to=second["deploy_id"])
    assert shop.now == ("spoilt", sha(2)) and "flip from blue" in shown.output, shown.output
    plan = shown.output.split("The plan: ")[1][:17]
    shop.good("rollback", to=second["deploy_id"], confirm=plan)
    assert shop.now == ("of release 1", sha(1))
    status = shop.status()
    assert status["deploys"][0]["back_to"] == second["deploy_id"] and all(point["open"] for point in status["restore_points"]), status
    assert set(status["registry"].values()) == {"there"}, status["registry"]

    shop.good("rollback", to=status["deploys"][0]["deploy_id"], confirm=True)
    assert shop.now == ("spoilt", sha(2))
