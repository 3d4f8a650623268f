# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role color_switch on two real load balancers: both flip, or both serve what they served before, or the split is named.

Each has servers of its own and was made by the role haproxy. A test leaves nothing behind: `balancers` puts both back to blue.
"""
from __future__ import annotations

import re
import shutil
import tempfile
import typing as t
from pathlib import Path

import pytest
from harness import EDGES, OLDEST, Ansible, Run, wait_for
from edge_site import COLLECTIONS, KEY, RELEASES, Site

BLUE = {"color": "blue", "release": RELEASES["blue"]}
GREEN = {"color": "green", "release": RELEASES["green"]}
FIRST = "20261121t084500z-0001"


class Pair:
    """Two load balancers, hosts lb1 and lb2 of an inventory, and a third host that is none."""

    def __init__(self, folder: Path, records: Path) -> None:
        self.folder, self.records = folder, records
        self.sites = {name: self._site(folder / name) for name in ("lb1", "lb2")}

    @staticmethod
    def _site(folder: Path) -> Site:
        (folder / "etc").mkdir(parents=True)
        return Site("2.6", folder / "etc")

    def start(self) -> None:
        for site in self.sites.values():
            site.good()

    def clean(self) -> None:
        """Blue everywhere, no record of anything, all servers well."""
        for site in self.sites.values():
            for server in site.servers.values():
                server.status, server.then = 200, lambda: None
            site.flip("blue")
            shutil.rmtree(self.state(site), ignore_errors=True)
            wait_for(lambda: site.tell("show stat").count(",UP,") >= 12, "all servers are up")

    def state(self, site: Site) -> Path:
        return self.records / site.folder.parent.name

    def host(self, name: str, **more: t.Any) -> dict[str, t.Any]:
        site = self.sites[name]
        prove = {"url": f"http://127.0.0.1:{site.port}/", "headers": {"Host": "shop.test"}, "release_header": "X-Release"}
        prove |= {"tries": 2, "delay": 0.1, "timeout": 60}
        return {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3", "color_switch_map": str(site.map),
                "color_switch_config": str(site.config), "color_switch_state_dir": str(self.state(site)),
                "color_switch_prove": prove, **more}

    def play(self, *options: str, core: str = OLDEST, on: str = "other", lb2: dict | None = None, rescue: bool = False,
             serial: int = 0, **inputs: t.Any) -> Run:
        hosts = {"lb1": self.host("lb1"), "lb2": self.host("lb2", **lb2 or {}), "other": {"ansible_connection": "local"}}
        ansible = Ansible(core, self.folder, hosts, collections=COLLECTIONS)
        given = {"app": "shop", "env": "staging", "target_timeout": 1} | ({} if "lb" in on else {"hosts": ["lb1", "lb2"]}) | inputs
        show = {"ansible.builtin.debug": {"var": "color_switch_result"}}
        role = {"name": "reversible.deploy.color_switch"}
        tasks = [{"ansible.builtin.include_role": role, "vars": {f"color_switch_{key}": value for key, value in given.items()}},
                 {"name": "the result", **show}]
        tasks = [{"block": tasks, "rescue": [{"name": "rescued", **show}]}] if rescue else tasks
        return ansible.play(tasks, on, *options, **({"serial": serial} if serial else {}))

    def failed(self, **inputs: t.Any) -> str:
        run = self.play(**inputs)
        assert run.code != 0, run.output
        said = [task for task in run.tasks if task.status == "failed"]
        # All hosts of the play fail, each with the same words.
        assert said[-1:] == run.tasks[-1:] and "the result" not in {task.task for task in run.tasks}, run.output
        assert {task.msg for task in said if task.task == said[-1].task} == {said[-1].msg}
        return said[0].msg

    def serves(self) -> list[str]:
        """Who answers, who is in the map file, what the record says: of each load balancer, as far as they agree."""
        said = []
        for site in self.sites.values():
            record = self.state(site) / "active-color"
            filed = dict(line.split() for line in site.map.read_text().splitlines())[KEY]
            live = site.ask()[1].split("-")[1]
            agreed = {live, filed, record.read_text().strip() if record.exists() else live}
            said.append(agreed.pop() if len(agreed) == 1 else f"disagrees: {agreed}")
        return said

    def history(self, name: str) -> list[list[str]]:
        """Colour, release and verdict, the newest first."""
        lines = (self.state(self.sites[name]) / "active-color.history").read_text().splitlines()
        return [[line.split()[at] for at in (1, 2, 4)] for line in lines]

    def close(self) -> None:
        for site in self.sites.values():
            site.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Pair]:
    # The module keeps no state below a folder that others may write to, as /tmp is.
    with tempfile.TemporaryDirectory(prefix=".reversible-test-", dir=Path.home()) as state:
        pair = Pair(tmp_path_factory.mktemp("pair"), Path(state))
        try:
            pair.start()
            yield pair
        finally:
            pair.close()


@pytest.fixture
def balancers(started: Pair) -> Pair:
    started.clean()
    return started


def result(run: Run, host: str = "") -> dict[str, t.Any]:
    found = [task for task in run.tasks if task.task == "the result" and host in task.host]
    assert run.code == 0 and found, run.output
    return found[0]["color_switch_result"]


def flips(run: Run) -> int:
    return len(re.findall(r"^changed: .*", run.output, re.MULTILINE))


@pytest.mark.parametrize("core", EDGES)
@pytest.mark.parametrize("on", ["other", "lb1,lb2"])
def test_both_flip_once_one_after_the_other(balancers: Pair, core: str, on: str) -> None:
    run = balancers.play(core=core, on=on, deploy_id=FIRST, **GREEN)
    for host in on.split(","):
        told = result(run, host)
        assert [(name, told[name]["before"], told[name]["after"], told[name]["release"], told[name]["changed"]) for name in told] == [
            ("lb1", "blue", "green", RELEASES["green"], True), ("lb2", "blue", "green", RELEASES["green"], True)]
        assert told["lb1"]["milliseconds"]["flip"] > 0
    assert flips(run) == 2, run.output
    assert balancers.serves() == ["green", "green"]
    assert balancers.history("lb1")[0] == balancers.history("lb2")[0] == ["green", RELEASES["green"], "good"]
    again = balancers.play(core=core, on=on, deploy_id=FIRST, **GREEN)
    assert [entry["changed"] for entry in result(again).values()] == [False, False]
    assert flips(again) == 0


@pytest.mark.parametrize("core", EDGES)
def test_check_mode_shows_the_plan_of_each(balancers: Pair, core: str) -> None:
    run = balancers.play("--check", core=core, **GREEN)
    for name, told in result(run).items():
        assert (told["before"], told["after"]) == ("blue", "green")
        assert f"set {KEY} from blue to green in the live map {balancers.sites[name].map}" in told["plan"][0]
        assert told["plan"][0] in run.output
    assert balancers.serves() == ["blue", "blue"]
    assert not balancers.state(balancers.sites["lb1"]).exists()


@pytest.mark.parametrize("core", EDGES)
@pytest.mark.parametrize("on", ["other", "lb1,lb2"])
def test_when_the_second_fails_the_first_goes_back(balancers: Pair, core: str, on: str) -> None:
    result(balancers.play(**BLUE))
    prove = balancers.host("lb2")["color_switch_prove"] | {"text": "what it never says"}
    msg = balancers.failed(core=core, on=on, lb2={"color_switch_prove": prove}, deploy_id=FIRST, **GREEN)
    assert msg.startswith("lb2: ") and "what it never says" in msg.splitlines()[0]
    assert "Every load balancer serves what it served before: lb1 blue, lb2 blue." in msg
    assert "reason: not_proven" in msg and "split" not in msg
    assert balancers.serves() == ["blue", "blue"]
    assert balancers.history("lb1")[:2] == [["blue", RELEASES["blue"], "good"], ["green", RELEASES["green"], "void"]]


def test_nothing_is_flipped_when_one_cannot_be_reached(balancers: Pair) -> None:
    msg = balancers.failed(lb2={"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}, **GREEN)
    assert msg.startswith("Nothing was flipped.") and "lb2: " in msg and "lb1: " not in msg
    assert balancers.serves() == ["blue", "blue"]
    assert not balancers.state(balancers.sites["lb1"]).exists()


def away_while(file: Path, text: str) -> dict[str, t.Any]:
    """Variables of a host that cannot be reached while this file holds this text."""
    look = f"lookup('ansible.builtin.file', '{file}', errors='ignore') | default('', true) is search('{text}')"
    return {"ansible_connection": f"{{{{ 'ssh' if {look} else 'local' }}}}", "ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.mark.parametrize("core", EDGES)
@pytest.mark.parametrize("on", ["other", "lb1,lb2"])
def test_when_the_second_becomes_unreachable_the_first_goes_back(balancers: Pair, core: str, on: str) -> None:
    lb2 = away_while(balancers.sites["lb1"].map, f"{KEY} green")
    msg = balancers.failed(core=core, on=on, lb2=lb2, deploy_id=FIRST, **GREEN)
    assert msg.startswith("lb2: ") and "127.0.0.1 port 1" in msg.splitlines()[0]
    assert "Every load balancer serves what it served before" in msg
    assert balancers.serves() == ["blue", "blue"]
    # It was no fault of the release.
    assert ["green", RELEASES["green"], "good"] in balancers.history("lb1")


@pytest.mark.parametrize("core", EDGES)
def test_a_rescue_around_the_role_runs_on_all_hosts(balancers: Pair, core: str) -> None:
    lb2 = away_while(balancers.sites["lb1"].map, f"{KEY} green")
    run = balancers.play(core=core, on="lb1,lb2", lb2=lb2, rescue=True, **GREEN)
    rescued = [task for task in run.tasks if task.task == "rescued"]
    assert run.code == 0 and {task.host for task in rescued} == {"lb1", "lb2"}, run.output
    assert [told["after"] for told in rescued[0]["color_switch_result"].values()] == ["blue", "blue"]


def test_one_that_stays_away_is_named(balancers: Pair) -> None:
    lb2 = away_while(balancers.state(balancers.sites["lb1"]) / "active-color.history", "green")
    msg = balancers.failed(lb2=lb2, **GREEN)
    assert "split: lb1 serves blue, lb2 does not say what it serves (" in msg
    assert "ansible lb2 -b -m reversible.deploy.haproxy_color_switch -a 'color=blue map=" in msg and "ansible lb1" not in msg
    assert balancers.serves() == ["blue", "blue"]


def test_a_split_is_named_when_going_back_fails(balancers: Pair) -> None:
    one, two = balancers.sites["lb1"], balancers.sites["lb2"]

    def lose_blue() -> None:
        one.servers["web-blue-1"].status = 500
        wait_for(lambda: "shop-staging-web-blue,blue-1" in one.tell("show stat down"), "blue is down on lb1")

    two.servers["web-green-1"].then = lose_blue
    prove = balancers.host("lb2")["color_switch_prove"]
    prove |= {"url": prove["url"] + "then", "text": "what it never says", "timeout": 120}
    msg = balancers.failed(lb2={"color_switch_prove": prove}, **GREEN)
    lines = msg.splitlines()
    assert "what it never says" in lines[0]
    assert "split: lb1 serves green, lb2 serves blue. Run" in lines
    assert f"  ansible lb1 -b -m reversible.deploy.haproxy_color_switch -a 'color=blue map={one.map} map_key={KEY}'" in lines
    assert [line for line in lines if line.startswith("lb1, during the rollback: ")]
    assert balancers.serves() == ["green", "blue"]


def test_a_rollback_goes_to_what_was_before_and_is_done_once(balancers: Pair) -> None:
    result(balancers.play(**BLUE))
    result(balancers.play(deploy_id=FIRST, **GREEN))
    back = {"color": "previous", "rollback_id": "20261121t090000z-0002"}
    prove = balancers.host("lb2")["color_switch_prove"] | {"text": "what it never says"}
    assert "Every load balancer serves what it served before" in balancers.failed(lb2={"color_switch_prove": prove}, **back)
    assert balancers.serves() == ["green", "green"]
    # lb1 has done a rollback by that id, and was flipped again since: its answer to the same id is no success.
    said = balancers.failed(**back)
    assert said.startswith("lb1: ") and "A rollback_id is good for one rollback" in said
    assert balancers.serves() == ["green", "green"]


def test_previous_must_be_the_same_everywhere(balancers: Pair) -> None:
    result(balancers.play(**GREEN))
    result(balancers.play(**BLUE, hosts=["lb2"]))
    msg = balancers.failed(color="previous")
    assert msg.startswith("Nothing was flipped. What is previous is not the same everywhere")
    assert balancers.serves() == ["green", "blue"]
    assert result(balancers.play(**BLUE))["lb2"]["changed"] is False
    assert balancers.serves() == ["blue", "blue"]


def test_in_a_play_that_takes_its_hosts_one_by_one(balancers: Pair) -> None:
    """As app hosts are updated by many: each part of such a play asks for the flip once more."""
    result(balancers.play(**BLUE))
    run = balancers.play(on="lb1,lb2", serial=1, deploy_id=FIRST, **GREEN)
    changed = {host: {name: told["changed"] for name, told in result(run, host).items()} for host in ("lb1", "lb2")}
    assert changed == {"lb1": {"lb1": True, "lb2": True}, "lb2": {"lb1": False, "lb2": False}}
    assert flips(run) == 2 and balancers.serves() == ["green", "green"]
    # The second part would go back from where the first one went back to.
    msg = balancers.failed(on="lb1,lb2", serial=1, color="previous", rollback_id="20261121t090000z-0002")
    assert msg.startswith("Nothing was flipped. The play goes over its hosts in parts (serial)")
    assert balancers.serves() == ["green", "green"]


def test_a_host_that_nobody_knows_is_refused(balancers: Pair) -> None:
    assert "names lb9, which the inventory does not" in balancers.failed(hosts=["lb1", "lb9"], **GREEN)
    assert balancers.serves() == ["blue", "blue"]
