# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions a test runs on. With time (REVERSIBLE_LONG) all that it takes; else one, which this table says for each file.

A test that is marked `every_version` runs on all of them always. A parameter counts as a version by its value.
"""
from __future__ import annotations

import os

import pytest

CORES = os.environ.get("REVERSIBLE_CORES", "2.16,2.17,2.18,2.19,2.20,2.21,2.22").split(",")
HAPROXYS = os.environ.get("REVERSIBLE_HAPROXYS", "2.6,3.0,3.2").split(",")
OLDEST, NEWEST = CORES[0], CORES[-1]
EDGES = CORES if os.environ.get("REVERSIBLE_LONG") else list(dict.fromkeys([OLDEST, NEWEST]))

# Of ansible-core and of HAProxy, by a file's name. What is not here runs on the oldest: most of the others differ in how a run begins and
# ends, which test_fast_path.py looks at on each of them.
TABLE = {
    "test_fast_path.py": (NEWEST, ""),
    "test_secrets.py": (NEWEST, ""),
    "test_other_architecture.py": (NEWEST, ""),
    "test_role_color_switch.py": (NEWEST, ""),
    "test_pct_snapshot.py": (NEWEST, ""),
    "test_watch.py": (NEWEST, ""),
    "test_role_notify.py": (NEWEST, ""),
    "test_haproxy_color_switch.py": (OLDEST, "3.0"),
    "test_haproxy_color_switch_gates.py": (OLDEST, "3.2"),
    "test_haproxy_color_switch_reload.py": (OLDEST, "2.6"),   # its master answers a reload before it has been done
    "test_haproxy_faults.py": (OLDEST, "3.2"),
    "test_haproxy_killed.py": (OLDEST, "2.6"),
    "test_haproxy_hold.py": (OLDEST, "3.2"),
    "test_role_haproxy.py": (OLDEST, "3.2"),
}


def versions_of(item: pytest.Item) -> list[tuple[str, str]]:
    """The parameters of a test that are versions: each one's name and value."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    return [(name, value) for name, value in params.items() if isinstance(value, str) and value in (*CORES, *HAPROXYS)]


def left_to_long(item: pytest.Item, offered: set[tuple[str, str]]) -> bool:
    """Whether `make test` leaves this test out; `offered` are the versions that any test of the same function takes."""
    if item.get_closest_marker("long") or item.get_closest_marker("every_version"):
        return item.get_closest_marker("long") is not None
    wanted = TABLE.get(item.path.name, (OLDEST, HAPROXYS[0]))
    for name, value in versions_of(item):
        choice = [given for named, given in offered if named == name]
        known = CORES if value in CORES else HAPROXYS
        asked = wanted[0] if value in CORES else wanted[1]
        # What the table says, where the test takes it; else the oldest that it takes.
        if value != (asked if asked in choice else min(choice, key=known.index)):
            return True
    return False


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("REVERSIBLE_LONG"):
        return
    offered: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for item in items:
        offered.setdefault((item.path.name, getattr(item, "originalname", item.name)), set()).update(versions_of(item))
    left = [item for item in items if left_to_long(item, offered[item.path.name, getattr(item, "originalname", item.name)])]
    if left:
        config.hook.pytest_deselected(items=left)
        kept = set(map(id, items)) - set(map(id, left))
        items[:] = [item for item in items if id(item) in kept]
