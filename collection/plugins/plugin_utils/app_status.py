# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook `status` shows, from the observed states of the load balancers, the hosts, the data and the ledger. Pure: no I/O, no Ansible."""
from __future__ import annotations

import typing as t

from .deploy_records import LAYERS, points_of
from .run_progress import observed, seen

Seen = t.Mapping[str, t.Any]


def load_balancers(looked: t.Sequence[Seen], hosts: Seen) -> dict[str, t.Any]:
    """What each load balancer says, by its host. A fast rollback is not possible where the other colour holds another release than it remembers."""
    shown = {}
    for one in looked:
        back = one.get("previous") or {}
        others = []
        for host, app in hosts.items():
            side = ((app or {}).get("colors") or {}).get(back.get("color") or "")
            if back.get("release") and side is not None and side["release"] not in (None, "", back["release"]):
                others.append(f"{host} holds {side['release']} there")
        shown[one["color_switch_host"]] = {
            "active": one.get("active"), "release": one.get("release"), "drift": one.get("drift", []),
            "previous": {**back, "open": False, "why": ", ".join(others)} if others else back or None,
            "failure": one.get("msg") if "active" not in one else None}
    return shown


def restore_points(deploys: t.Sequence[Seen]) -> list[dict[str, t.Any]]:
    """Each restore point in the ledger, and whether a rollback to it is possible now, by the observed states."""
    return [{"deploy_id": one["deploy_id"], "layer": layer, "host": point["host"], "name": point["name"], "open": bool(point.get("open")),
             "why": point.get("why") or ""}
            for one in deploys for layer in LAYERS.values() for point in points_of(one, layer)]


def app_status(ledger: Seen, looked: t.Sequence[Seen], facts: t.Mapping[str, Seen], app_hosts: t.Sequence[str], data_hosts: t.Sequence[str],
               run: str, database_hosts: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """All of it; of the hosts what they have seen in this run, by their facts."""
    hosts, data = observed(app_hosts, facts, run), seen(data_hosts, facts, "data", run)
    deploys = ledger.get("deploys", [])
    return {"load_balancers": load_balancers(looked, hosts), "hosts": hosts, "data": data,
            "databases": seen(database_hosts, facts, "databases", run),
            "restore_points": restore_points(deploys),
            "lease": ledger.get("holder"), "locked": ledger.get("locked"), "deploys": deploys,
            "ledger_failure": ledger.get("msg") if "deploys" not in ledger else None}
