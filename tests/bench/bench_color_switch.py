#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a flip between blue and green costs its users and its operator, on each HAProxy that this machine can have.

First the users. While clients ask without a pause (half of the connections are kept, half are new for each request, and one WebSocket
stays open through it all), the module flips again and again: by the map and by a reload. Each failed request is counted. A kept
connection that is closed before any byte of an answer is counted apart: RFC 9112 lets a client ask again. The time to the new colour
is from the start of the module's step (it is not taken for the flips by a playbook) to the first answer of the new colour, anywhere.

Then the operator. The same flip as an Ansible task over ssh, with its proof through HAProxy, and the two ways without us: a template
that is validated, a reload, a file with the state; and community.general.haproxy. Both get a proof by ansible.builtin.uri. A task's time
is the controller's; every play has a ping beside each flip, so compare the ratios, not the milliseconds: those are this machine's.

The goals (exit status 1 where one is missed): no request fails and no WebSocket is cut by any flip of ours; the new colour answers within
10 ms (map) or 300 ms (reload), in the median; one flip with its proof takes at most 1.5 times as long as one ansible.builtin.ping, and
less time than each of the other ways.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from edge import RELEASES, Edge, call  # noqa: E402  pylint: disable=wrong-import-position
from harness import CORES, Ansible, alone, lab, staged, system  # noqa: E402  pylint: disable=wrong-import-position

MODULE = "reversible.deploy.haproxy_color_switch"
OTHER = {"blue": "green", "green": "blue"}
HOST = "ssh_root"
MOST_OF_PING = 1.5
MOST_UNTIL_NEW = {"map": 0.010, "reload": 0.300}
CONNECTIONS = 8
PATIENCE = 1800  # a play on a machine that others keep busy
APART = {"map": 0.1, "reload": 0.3}  # seconds between flips: the load must see each


@dataclasses.dataclass(frozen=True)
class Size:
    requests: int
    map_flips: int
    playbook_flips: int
    reload_flips: int
    rounds: int


WHOLE = Size(requests=200_000, map_flips=90, playbook_flips=10, reload_flips=50, rounds=10)
QUICK = Size(requests=20_000, map_flips=8, playbook_flips=2, reload_flips=5, rounds=3)

# The users


@dataclasses.dataclass
class Users:
    """What the load saw of flips of one kind."""

    way: str
    flips: int
    report: dict[str, t.Any]
    new_after: list[float]  # seconds from the start of a flip to the first answer of the new colour
    old_until: list[float]  # and to the last of the old one

    def line(self) -> str:
        report, new, old = self.report, self.new_after, self.old_until
        socket = report["web_socket"]
        cut = f"cut: {socket['cut']}" if socket["cut"] else f"open, {socket['longest_ms']:.0f} ms"
        counts = f"{report['requests']:9} {report['fresh']:9} {report['failed']:7} {report['keepalive_retries']:8}"
        times = f"{figure(statistics.median(new)):>9} {figure(max(new)):>9} {figure(max(old)):>9}"
        return f"{self.way:10} {self.flips:6} {counts} {times}   {cut}"

    def missed(self, title: str) -> list[str]:
        found = []
        if self.report["failed"]:
            found.append(f"{title}, {self.way}: {self.report['failed']} requests failed: {self.report['kinds']}")
        if self.report["web_socket"]["cut"]:
            found.append(f"{title}, {self.way}: the WebSocket was cut: {self.report['web_socket']['cut']}")
        if statistics.median(self.new_after) > MOST_UNTIL_NEW[self.way]:
            found.append(f"{title}, {self.way}: the new colour answers after {figure(statistics.median(self.new_after))}, in the median")
        if self.report["lost_workers"] or self.report["runs_left_off"]:
            found.append(f"{title}, {self.way}: the load itself is incomplete")
        return found


USERS_HEAD = (f"{'way':10} {'flips':>6} {'requests':>9} {'new conn.':>9} {'failed':>7} {'retried':>8} {'new, p50':>9} {'max':>9} "
              f"{'old until':>9}   WebSocket, longest answer")


def options(edge: Edge, color: str) -> dict[str, t.Any]:
    """The task of the README: one flip, with its proof."""
    content = {"content": edge.render(color)} if edge.shape.method == "reload" else {}
    prove = {"url": f"{edge.url}health", "release_field": "version", "delay": 0.05, "tries": 40}
    return {**edge.options, **content, "color": color, "release": RELEASES[color], "prove": prove}


def flips_under_load(edge: Edge, size: Size, ansible: Ansible) -> Users:
    method = edge.shape.method
    direct, by_playbook = (size.map_flips, size.playbook_flips) if method == "map" else (size.reload_flips, 0)
    apart = APART[method]
    flips: list[tuple[int, str]] = []
    with edge.load(CONNECTIONS, ws=True) as load:
        color = "blue"
        for _flip in range(direct):
            color = OTHER[color]
            result = call("haproxy_color_switch", options(edge, color))
            assert result.get("changed") is True, result
            flips.append((monotonic(result["flip"]["at"]), color))
            time.sleep(apart)
        end_of_direct = time.monotonic_ns()
        if by_playbook:
            colors = [OTHER[color], color] * ((by_playbook + 1) // 2)
            tasks = [{"name": "flip", MODULE: options(edge, each)} for each in colors[:by_playbook]]
            run = ansible.start(tasks, HOST).wait(PATIENCE)
            assert run.code == 0 and all(task["changed"] for task in run.tasks), run.output
        wanted = size.requests if method == "map" else 0
        deadline = time.monotonic() + 600
        while requests_of(edge) < wanted:
            assert time.monotonic() < deadline, f"{wanted} requests take too long here"
            time.sleep(0.2)
    report = load.report
    new_after, old_until = [], []
    for (begun, color), (following, _color) in zip(flips, flips[1:] + [(end_of_direct, "")]):
        new = [max(first, begun) for word, first, last, _many in report["runs"] if word == color and last >= begun and first < following]
        old = [min(last, following) for word, first, last, _many in report["runs"]
               if word == OTHER[color] and last >= begun and first < following]
        assert new, f"no answer of {color} after its flip: {result}"
        new_after.append((min(new) - begun) / 1e9)
        old_until.append((max(old, default=begun) - begun) / 1e9)
    return Users(method, direct + by_playbook, report, new_after, old_until)


def monotonic(at: float) -> int:
    """A time of the wall clock as the load's clock tells it."""
    return int(at * 1e9) - (time.time_ns() - time.monotonic_ns())


def requests_of(edge: Edge) -> int:
    return int(next(row["req_tot"] for row in edge.rows() if row["svname"] == "FRONTEND"))

# The operator


@dataclasses.dataclass
class Operator:
    """One way to flip, as tasks of a playbook; every number is of one flip."""

    way: str
    seconds: list[float]
    proof: list[float]
    ping: list[float]
    tasks: int
    report: dict[str, t.Any]

    @property
    def whole(self) -> float:
        return statistics.median(flip + proof for flip, proof in zip(self.seconds, self.proof))

    @property
    def of_ping(self) -> float:
        return self.whole / statistics.median(self.ping)

    def line(self) -> str:
        flip = figure(statistics.median(self.seconds)) if any(self.proof) else "-"
        slowest = max(flip + proof for flip, proof in zip(self.seconds, self.proof))
        times = f"{flip:>13} {figure(self.whole):>10} {figure(slowest):>9} {figure(statistics.median(self.ping)):>9} {self.of_ping:7.2f}"
        counts = f"{self.report['failed']:7} {self.report['keepalive_retries']:8}"
        return f"{self.way:36} {self.tasks:5} {times} {counts}  {kinds(self.report)}"


OPERATOR_HEAD = (f"{'one flip by':36} {'tasks':>5} {'without proof':>13} {'with proof':>10} {'max':>9} {'ping':>9} {'x ping':>7} "
                 f"{'failed':>7} {'retried':>8}")


Flip = t.Callable[[str], "list[dict[str, t.Any]]"]  # the tasks that make a colour active


def play(edge: Edge, ansible: Ansible, way: str, rounds: int, flip: Flip) -> Operator:
    """`rounds` flips with a ping before each, under load; the first two only warm up. A task named "proof" is not part of the flip."""
    tasks: list[dict[str, t.Any]] = []
    for turn in range(rounds + 2):
        color = "green" if turn % 2 == 0 else "blue"
        tasks += [{"name": f"{turn} ping", "ansible.builtin.ping": {}}]
        tasks += [{"name": f"{turn} {'proof' if 'ansible.builtin.uri' in task else 'flip'}", **task} for task in flip(color)]
        tasks += [{"name": "pause", "ansible.builtin.raw": "sleep 0.3"}]  # two reloads need 150 ms between them
    # A little pause: a machine that has no core left for Ansible would tell about the load, not about the tasks.
    with edge.load(CONNECTIONS // 2, pause=5) as load:
        run = ansible.start(tasks, HOST).wait(PATIENCE)
    assert run.code == 0, run.output

    def sums(kind: str) -> list[float]:
        each = [[task.seconds for task in run.tasks if task.task == f"{turn} {kind}"] for turn in range(2, rounds + 2)]
        return [sum(seconds) for seconds in each]

    return Operator(way, sums("flip"), sums("proof"), sums("ping"), len(flip("blue")), load.report)


def proof(edge: Edge, color: str) -> dict[str, t.Any]:
    asks = {"url": f"{edge.url}health", "return_content": True, "use_proxy": False}
    right = f"proven.json is defined and proven.json.version == '{RELEASES[color]}'"
    return {"ansible.builtin.uri": asks, "register": "proven", "until": right, "retries": 20, "delay": 1}


def ours(edge: Edge, ansible: Ansible, rounds: int) -> Operator:
    return play(edge, ansible, f"{MODULE.rpartition('.')[2]}, {edge.shape.method}", rounds, lambda color: [{MODULE: options(edge, color)}])


def by_template(edge: Edge, ansible: Ansible, rounds: int) -> Operator:
    source = edge.folder / "haproxy.cfg.j2"
    source.write_text(edge.render("{{ color }}"), encoding="utf-8")

    def flip(color: str) -> list[dict[str, t.Any]]:
        template = {"src": str(source), "dest": str(edge.config), "mode": "0644", "validate": f"{edge.binary} -c -f %s"}
        return [
            {"ansible.builtin.template": template, "vars": {"color": color}},
            {"ansible.builtin.command": {"argv": ["kill", "-USR2", str(edge.master_pid())]}},
            {"ansible.builtin.copy": {"dest": str(edge.folder / "active-color"), "content": f"{color}\n", "mode": "0644"}},
            proof(edge, color),
        ]

    return play(edge, ansible, "template + validate, reload, state", rounds, flip)


def by_community(edge: Edge, ansible: Ansible, rounds: int) -> Operator:
    backend = "shop-web"

    def flip(color: str) -> list[dict[str, t.Any]]:
        def said(state: str, who: str) -> dict[str, t.Any]:
            return {"community.general.haproxy": {"state": state, "host": f"web-{who}", "backend": backend, "socket": edge.stats}}

        return [said("enabled", color), said("disabled", OTHER[color]), proof(edge, color)]

    return play(edge, ansible, "community.general.haproxy, on and off", rounds, flip)


# All of it


def figure(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def kinds(report: dict[str, t.Any]) -> str:
    return ", ".join(f"{many} x {why}" for why, many in report["kinds"].items())


def measure(version: str, core: str, size: Size, folder: Path, community: str) -> list[str]:
    ansible = Ansible(core, folder, system("ssh"))
    ansible.environ["ANSIBLE_PIPELINING"] = "True"
    ansible.environ["ANSIBLE_COLLECTIONS_PATH"] = os.pathsep.join(filter(None, [str(ansible.collections), community]))
    users, operators = [], []
    for method in ("map", "reload"):
        with Edge(version=version, method=method) as edge:
            title = f"HAProxy {edge.ask('show info').split('Version: ')[1].split()[0]}"
            users.append(flips_under_load(edge, size, ansible))
    print(f"\n{title}: the users ({CONNECTIONS} connections without a pause; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    print("\n".join([USERS_HEAD, *(each.line() for each in users)]), flush=True)
    for method in ("map", "reload"):
        with Edge(version=version, method=method) as edge:
            operators.append(ours(edge, ansible, size.rounds))
    with Edge(version=version, method="reload") as edge:
        operators.append(by_template(edge, ansible, size.rounds))
    if community:
        # As roles without a map have it: both colours' servers in one backend, the idle one switched off.
        with Edge(version=version, method="reload", layout="one-backend", idle="disabled") as edge:
            operators.append(by_community(edge, ansible, size.rounds))
    print(f"\n{title}: the operator (ansible-core {core}, ssh with pipelining, medians of {size.rounds} flips, "
          f"{CONNECTIONS // 2} connections with a pause)")
    print("\n".join([OPERATOR_HEAD, *(each.line() for each in operators)]), flush=True)
    return [line for each in users for line in each.missed(title)] + judge(title, operators)


def judge(title: str, operators: list[Operator]) -> list[str]:
    found = []
    our, others = operators[:2], operators[2:]
    for each in our:
        if each.of_ping > MOST_OF_PING:
            found.append(f"{title}, {each.way}: {each.of_ping:.2f} x ping, more than {MOST_OF_PING}")
        if each.report["failed"]:
            found.append(f"{title}, {each.way}: {each.report['failed']} requests failed: {each.report['kinds']}")
        found += [f"{title}, {each.way}: no faster than {other.way}" for other in others if each.whole >= other.whole]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="*", default=["2.6", "3.0", "3.2"], help="of HAProxy (default: all)")
    parser.add_argument("--core", default=CORES[-1], help="the ansible-core that runs the tasks")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that all of it works; its numbers are rough")
    asked = parser.parse_args()
    size = QUICK if asked.quick else WHOLE
    os.environ["REVERSIBLE_STAGED"] = str(staged())  # the binary that is run directly is the one that Ansible sends
    print(f"{size.requests} requests or more, {size.map_flips} flips by map directly and {size.playbook_flips} by ansible-playbook, "
          f"{size.reload_flips} by reload; Python {platform.python_version()}, Linux {platform.release()}", flush=True)
    try:
        community = lab("get", "community-general")
    except pytest.skip.Exception as skipped:  # it comes from the network; the rest can be measured without, and says so
        community = ""
        print(f"NOT COMPARED with community.general.haproxy: {skipped}")
    below, measured = [], 0
    for version in asked.versions:
        try:
            with alone(), tempfile.TemporaryDirectory() as folder:
                below += measure(version, asked.core, size, Path(folder), community)
            measured += 1
        except pytest.skip.Exception as skipped:  # a version that this machine cannot have; with none at all the bench fails, below
            print(f"\nNOT MEASURED, HAProxy {version}: {skipped}")
    if not measured:
        below.append("no HAProxy could be had: nothing was measured")
    print("\n" + ("\n".join(["missed:", *below]) if below else "All goals are met."))
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
