# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role kube_app makes of what kube_rollout_info says of its workloads. Pure: no I/O, no Ansible."""
from __future__ import annotations

import typing as t

Seen = t.Mapping[str, t.Any]


def name_of(result: Seen) -> str:
    """The workload that a result of the loop is about."""
    return str(result["kube_app_at"]["name"])


def workloads_seen(results: t.Sequence[Seen], host: str) -> dict[str, t.Any]:
    """As `app_observed`. A restore point is the name of what holds a revision, which stays the same when a rollback gives that revision a new number."""
    workloads, reachable = {}, []
    for one in results:
        current = current_revision(one)
        workloads[name_of(one)] = {"images": current.get("images", {}), "revision": current.get("revision"), "out": one["out"], "why": one.get("why") or ""}
        reachable += [revision["name"] for revision in one["revisions"] if revision["ready_to_roll_back"]]
    return {"layer": "rollout", "host": host, "colors": {}, "workloads": workloads, "release": "", "rollbacks": {"rollout": {"open": reachable}}}


def workloads_captured(results: t.Sequence[Seen]) -> dict[str, str]:
    """By workload the name of what holds its current revision. One that runs nothing yet has none."""
    return {name_of(one): current_revision(one)["name"] for one in results if current_revision(one)}


def current_revision(seen: Seen) -> Seen:
    return next((one for one in seen["revisions"] if one["current"]), {})


def revision_named(seen: Seen, name: str) -> int | None:
    """The number that a revision has by now."""
    return next((one["revision"] for one in seen["revisions"] if one["name"] == name), None)
