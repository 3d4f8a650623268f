# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenario on the lab's machine with ZFS."""
from __future__ import annotations

from pathlib import Path

import zfs
from scenarios import ends_well


def test_the_scenario_ends_well(tmp_path: Path) -> None:
    machine = zfs.machine()

    def there() -> list[str]:
        return machine.sh("zpool list -H -o name; ls -A /mnt; mkdir -p /var/lib/reversible; ls -A /var/lib/reversible")

    before = there()
    ends_well("data", tmp_path)
    assert there() == before
