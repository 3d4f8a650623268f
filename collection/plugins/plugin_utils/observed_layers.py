# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The observed state of each layer, in the form that the ledger needs: deploy_ledger_info uses it to say which restore points are open, and
deploy_ledger writes it into the metrics. Pure: no I/O, no Ansible."""
from __future__ import annotations

import typing as t
from types import MappingProxyType

from .deploy_records import points_of
from .run_progress import observed, seen as seen_by

Seen = t.Mapping[str, t.Any]
IN_PLACE = {"pct": "container", "compose": "compose", "kube": "rollout"}


def observed_layers(load_balancers: Seen, strategy: str, facts: t.Mapping[str, Seen], app_hosts: t.Sequence[str], data_hosts: t.Sequence[str],
                    run: str, database_hosts: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """`load_balancers` is their combined state, or empty; the states of the hosts in this run are in their facts."""
    hosts, data = observed(app_hosts, facts, run), seen_by(data_hosts, facts, "data", run)
    return layers(load_balancers, IN_PLACE.get(strategy, ""), hosts, data, seen_by(database_hosts, facts, "databases", run))


def layers(load_balancers: Seen, in_place: str, hosts: t.Mapping[str, Seen | None], data: t.Mapping[str, Seen | None],
           databases: t.Mapping[str, Seen | None] = MappingProxyType({})) -> dict[str, t.Any]:
    """`in_place` is the layer of the app's hosts, or empty. By host what was seen there; none for one that did not answer."""
    found: dict[str, t.Any] = {}
    if load_balancers:
        found["color"] = _color(load_balancers, hosts)
    if in_place:
        found[in_place] = _held(hosts)
    if data:
        found["dataset"] = _held(data)
    if databases:
        found["database"] = _held(databases)
    return found


def needed_color(found: Seen, color: str, deploys: t.Sequence[Seen]) -> str:
    """Why this colour may not be ended: it is what a rollback returns to, by what was seen (`found`, as observed_layers gives it) and by what the ledger makes
    of that. Empty when no rollback needs it. A host that did not answer rules out no rollback."""
    layer = found.get("color") or {}
    held = next((side for side in layer.get("holds") or [] if side.get("name") == color and layer["open"]), None)
    to = [(one["deploy_id"], point.get("digest")) for one in deploys for point in points_of(one, "color") if point["name"] == color and point.get("open")]
    if held is None and not to:
        return ""
    release = (held or {}).get("digest") or (to[0][1] if to else "") or "an unrecorded release"
    before = f", for the state before {to[0][0]}" if to else ""
    return f"{color} holds {release} and is healthy: it is the last restore point{before}. The next deploy takes its place."


def _color(reading: Seen, hosts: t.Mapping[str, Seen | None]) -> dict[str, t.Any]:
    """The other colour is the way back, as long as it holds what the load balancers remember."""
    previous = reading.get("previous") or {}
    color, release = previous.get("color"), previous.get("release")
    others = []
    for host, seen in hosts.items():
        held = (((seen or {}).get("colors") or {}).get(color) or {}).get("release")
        if release and held and held != release:
            others.append(f"{host} holds {held} there")
    why = reading.get("disagree") or ", ".join(others) or previous.get("why") or "no earlier colour is known"
    is_open = bool(previous.get("open")) and not others and not reading.get("disagree")
    side = {"name": color, **({"digest": release} if release else {})}
    return {"open": is_open, "why": "" if is_open else why, "holds": [side] if color else []}


def _held(seen: t.Mapping[str, Seen | None]) -> dict[str, t.Any]:
    holds: list[dict[str, str]] = []
    silent: dict[str, str] = {}
    for host, one in seen.items():
        if not one or one.get("failure") is not None:
            silent[host] = str((one or {}).get("failure") or "it does not answer")
            continue
        ways = one.get("rollbacks") or {}
        way = next((ways[name] for name in ("swap", "snapshot", "backup", "rollout") if ways.get(name)), {})
        holds += [{"host": host, "word": str(word)} for word in [*(way.get("open") or []), *(ways.get("parked") or [])]]
    return {"open": True, "holds": holds, "silent": silent}
