# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all tests, and where they find what they share."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS / "support"))

from harness import (  # noqa: E402, F401  pylint: disable=wrong-import-position
    ansible, asked, core, edge, edge_core, one_core, pytest_collection_modifyitems, pytest_configure, specimen_binary, the_lab_to_ourselves)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Says what these tests used, where somebody wants to know (tests/uses.py)."""
    file = os.environ.get("REVERSIBLE_USES")
    if file:
        paths = [Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
        own = {str(path.relative_to(TESTS.parent)) for path in paths if path.is_relative_to(TESTS) and path.name != "conftest.py"}
        Path(file).write_text("\n".join(sorted(own | asked)) + "\n", encoding="utf-8")
