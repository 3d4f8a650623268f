# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which phases of a run its hosts have finished, by the facts that each has set. Pure: no I/O, no Ansible.

A fact counts only when it holds the id of this run: an earlier one of the same ansible-playbook may have left it. Nothing is concluded from a failure
that nobody saw.
"""
from __future__ import annotations

import typing as t

Facts = t.Mapping[str, t.Mapping[str, t.Any]]


def hosts_reached(hosts: t.Sequence[str], facts: Facts, mark: str, run: str) -> list[str]:
    """The hosts on which `mark` holds the id of this run."""
    return [host for host in hosts if facts[host].get(mark) == run]


def hosts_lacking(hosts: t.Sequence[str], facts: Facts, mark: str, run: str) -> dict[str, t.Any]:
    """The hosts that have not finished the phase, and what failed, as far as it is known."""
    there = hosts_reached(hosts, facts, mark, run)
    failed = hosts_reached(hosts, facts, "flow_failed_in", run)
    return {"hosts": [host for host in hosts if host not in there],
            "why": " ".join(f"{host}: {facts[host].get('flow_failure')}" for host in failed)}


def observed(hosts: t.Sequence[str], facts: Facts, run: str) -> dict[str, t.Any]:
    """What each host of the app has seen of it in this run (`app_observed`, which bears the run's id); None for a host that has not."""
    mine = {host: facts[host].get("app_observed") or {} for host in hosts}
    return {host: {key: value for key, value in one.items() if key != "run"} if one.get("run") == run else None for host, one in mine.items()}


def seen(hosts: t.Sequence[str], facts: Facts, fact: str, run: str) -> dict[str, t.Any]:
    """The observed state of each host in this run, which is its fact of that name; None for a host without one."""
    there = hosts_reached(hosts, facts, f"{fact}_in", run)
    return {host: facts[host].get(fact) if host in there else None for host in hosts}
