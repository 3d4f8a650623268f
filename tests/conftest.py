# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all tests, and where they find what they share."""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from harness import (  # noqa: E402, F401  pylint: disable=wrong-import-position
    ansible, core, edge, edge_core, one_core, pytest_collection_modifyitems, pytest_configure, specimen_binary, the_lab_to_ourselves)
