# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from harness import (  # noqa: F401
    ansible, core, edge, edge_core, one_core, pytest_collection_modifyitems, pytest_configure, specimen_binary, the_lab_to_ourselves)
