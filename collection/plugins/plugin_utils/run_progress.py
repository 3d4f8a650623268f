# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which phases of a run its hosts have finished, by what each has noted of it in its fact `flow`. Pure: no I/O, no Ansible.

Notes count only with the id of this run: an earlier one of the same ansible-playbook may have left them. Nothing is concluded from a failure that
nobody saw.
"""
from __future__ import annotations

import typing as t

Facts = t.Mapping[str, t.Mapping[str, t.Any]]


def notes_of(flow: t.Any, run: str) -> dict[str, t.Any]:
    """What a host has noted of this run (`run` is its id), to which more can be added."""
    return dict(flow) if isinstance(flow, t.Mapping) and flow.get("run") == run else {"run": run}


def hosts_reached(hosts: t.Sequence[str], facts: Facts, mark: str, run: str) -> list[str]:
    """The hosts that have noted this mark in this run."""
    return [host for host in hosts if notes_of(facts[host].get("flow"), run).get(mark)]


def hosts_lacking(hosts: t.Sequence[str], facts: Facts, mark: str, run: str) -> dict[str, t.Any]:
    """The hosts that have not finished the phase, and what failed, as far as it is known."""
    there = hosts_reached(hosts, facts, mark, run)
    failed = hosts_reached(hosts, facts, "failure", run)
    return {"hosts": [host for host in hosts if host not in there], "why": " ".join(f"{host}: {facts[host]['flow']['failure']}" for host in failed)}


def observed(hosts: t.Sequence[str], facts: Facts, run: str) -> dict[str, t.Any]:
    """What each host of the app has seen of it in this run (`app_observed`, which bears the run's id); None for a host that has not."""
    mine = {host: facts[host].get("app_observed") or {} for host in hosts}
    return {host: {key: value for key, value in one.items() if key != "run"} if one.get("run") == run else None for host, one in mine.items()}


def seen(hosts: t.Sequence[str], facts: Facts, what: str, run: str) -> dict[str, t.Any]:
    """What each host has noted of it in this run; None for a host that has not."""
    return {host: notes_of(facts[host].get("flow"), run).get(what) for host in hosts}
