# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: a package registry of its own for each test, and a folder into which releases of it are fetched."""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from harness import BIN, staged

from registry import Registry
from releases import TOKEN, Place, binary_of


@pytest.fixture(name="registry")
def a_registry() -> t.Iterator[Registry]:
    with Registry([TOKEN]) as registry:
        yield registry


@pytest.fixture(name="place")
def a_place(registry: Registry, tmp_path: Path) -> Place:
    return Place(tmp_path / "shop", registry, binary_of(staged(), BIN))
