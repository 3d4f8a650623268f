# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A target of another architecture than the controller's. It needs a collection that is staged for both."""
from __future__ import annotations

from pathlib import Path

import pytest
from harness import BIN, Ansible, lab, staged, system


# A module that is shipped: those of the tests are not built for other architectures.
MODULE, PROBE = "health_gate", {"probes": [{"name": "true", "kind": "command", "argv": ["true"]}]}


def test_aarch64(edge_core: str, tmp_path: Path) -> None:
    edge = Ansible(edge_core, tmp_path, system("bare-aarch64"))
    host = next(name for name in system("bare-aarch64") if name.endswith("_root"))
    if not (staged() / BIN / f"{MODULE}_aarch64").exists():
        lab("get", "aarch64-toolchain")  # skips with its reason where there is none
        pytest.fail("the toolchain is there, and the staged collection has no aarch64 binaries")
    edge.forget(host)
    assert edge.one(MODULE, PROBE, host).trips == 3
    run = edge.one(MODULE, PROBE, host)
    assert [row["why"] for row in run.only["probes"]] == [None]
    assert run.trips == 1
    assert edge.cached(host)[0].startswith("reversible_deploy_aarch64-")
