# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenario on the lab's Incus."""
from __future__ import annotations

from pathlib import Path

from incus import offered
from scenarios import ends_well


def test_the_scenario_ends_well(tmp_path: Path) -> None:
    before = offered().status()
    ends_well("incus", tmp_path)
    assert offered().status() == before
