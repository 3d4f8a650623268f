# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of a flip of several load balancers, from their states before, during and after it. Pure: no I/O, no Ansible."""
from __future__ import annotations

import typing as t

Said = t.Mapping[str, t.Any]


def changed_load_balancers(hosts: t.Sequence[str], before: Said, now: Said) -> list[str]:
    """The load balancers whose active colour is not the one before the flip, or is not known."""
    return [host for host in hosts if "active" not in now[host] or now[host]["active"] != before[host]["active"] or now[host].get("unfinished")]


def flip_results(hosts: t.Sequence[str], before: Said, done: Said, now: Said, failed: str) -> dict[str, t.Any]:
    """The results of the flips; after a failure on the host `failed`, the present state."""
    told = {}
    for host in hosts:
        flip = done.get(host, {})
        seen = now[host] if failed else flip.get("after") or flip
        active = seen.get("active")
        told[host] = {"before": before[host]["active"], "after": active, "release": seen.get("release"), "changed": before[host]["active"] != active,
                      "milliseconds": (flip.get("flip") or {}).get("milliseconds", {}), "plan": flip.get("plan", [])}
    return told
