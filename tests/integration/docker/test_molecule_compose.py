# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Molecule's scenario on the lab's Docker."""
from __future__ import annotations

from pathlib import Path

from compose import Engine, an_engine  # noqa: F401  (a fixture)
from scenarios import ends_well


def test_the_scenario_ends_well(on: Engine, tmp_path: Path) -> None:
    def there() -> list[str]:
        return [on.docker(kind, "ls", "--quiet", *more) for kind, *more in (("container", "--all"), ("volume",), ("network",))]

    before = there()
    ends_well("compose", tmp_path)
    assert there() == before
