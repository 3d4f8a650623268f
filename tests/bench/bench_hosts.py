#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What more hosts cost: deploy_app and status of an app on 2 hosts, and on 50, turn by turn in one run.

All hosts are this machine, so that what they do is paid by the same processors as Ansible itself: with machines of their own it takes less.

The goals (exit status 1 where one is missed): with 50 hosts deploy_app takes at most 3 x, and status at most 2 x the time that it takes with 2.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from flows import Shop  # noqa: E402  pylint: disable=wrong-import-position
from harness import CORES  # noqa: E402  pylint: disable=wrong-import-position
from releases import sha  # noqa: E402  pylint: disable=wrong-import-position

FEW, MOST_DEPLOY, MOST_STATUS = 2, 3.0, 2.0
PORTS = 12000   # below those that the lab gives away: one fleet's; the next one has those after it
OWN = ("host_app_root", "host_app_logs", "host_app_run_dir", "host_app_state_dir", "host_app_kept_logs")


class Fleet(Shop):
    """The shop on many hosts. HAProxy asks the first; the others serve nobody, and are deployed and probed like it."""

    core = CORES[-1]

    def __init__(self, place: Path, many: int, first_port: int) -> None:
        super().__init__(place)
        given = {name: self.vars.pop(name) for name in OWN}
        [component] = self.vars["app_components"]
        for color, port in component["port"].items():
            component["port"][color] = f"{{{{ (hostvars[inventory_hostname] | default({{}})).{color} | default({port}) }}}}"
        component["command"][-1] = f"{self.folder}/{{color}}{{port}}.control"
        self.vars["app_hosts"] = [f"app{number}" for number in range(1, many + 1)]
        for number, name in enumerate(self.vars["app_hosts"]):
            own = {variable: f"{value}/{name}" for variable, value in given.items()}
            for value in own.values():
                Path(value).mkdir(parents=True)
            ports = {} if number == 0 else {"blue": first_port + 2 * number, "green": first_port + 2 * number + 1}
            self.more_hosts[name] = self.host(name, **own, **ports)

    def took(self, book: str, **inputs: t.Any) -> float:
        begun = time.monotonic()
        run = self.start_book(book, "--forks", str(len(self.vars["app_hosts"])), **inputs).wait()
        assert run.code == 0, run.output
        return time.monotonic() - begun


def measure(place: Path, many: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for folder in ("few", "many"):
        (place / folder).mkdir()
    with Fleet(place / "few", FEW, PORTS) as few, Fleet(place / "many", many, PORTS + 1000) as fleet:
        for number in range(1, rounds + 2):
            for shop in (few, fleet):
                hosts = len(shop.vars["app_hosts"])
                shop.publish(number)
                took = shop.took("deploy_app", release_sha=sha(number))
                if number > 1:   # the first of all sends the binaries
                    times.setdefault(f"deploy_app {hosts}", []).append(took)
                    times.setdefault(f"status {hosts}", []).append(shop.took("status"))
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".reversible-bench-", dir=Path.home()) as name:
        times = {what: statistics.median(each) for what, each in measure(Path(name), asked.hosts, asked.rounds).items()}
    missed = 0
    for book, most in (("deploy_app", MOST_DEPLOY), ("status", MOST_STATUS)):
        few, many = times[f"{book} {FEW}"], times[f"{book} {asked.hosts}"]
        missed += many > most * few
        print(f"{book:12}{FEW} hosts {few:6.2f} s, {asked.hosts} hosts {many:6.2f} s: {many / few:.2f} x, at most {most:g}: {'missed' if many > most * few else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
