# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenarios of Molecule on this machine alone. One that stands on a system of the lab is in the file of its name."""
from __future__ import annotations

from pathlib import Path

import pytest
from harness import ROOT
from scenarios import SCENARIOS, ends_well

OURS = ("default", "broken")


def test_each_scenario_is_run() -> None:
    assert SCENARIOS == {*OURS, *(path.stem.removeprefix("test_molecule_") for path in (ROOT / "tests/integration").rglob("test_molecule_*.py"))}


@pytest.mark.parametrize("scenario", OURS)
def test_a_scenario_ends_well(scenario: str, tmp_path: Path) -> None:
    ends_well(scenario, tmp_path)
