# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the tests, built from this checkout: the web app and load generator, and the fake of Proxmox. Cargo is their cache:
it knows what has changed. A target folder of their own, since whoever builds the modules holds the lock of the other for minutes."""
from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from labkit import HERE, Fail, run

PACKAGES: list[str] = []
CACHES: list[str] = []
ROOT = HERE.parent.parent


def _built(package: str, name: str) -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute() / "programs"
    run(["cargo", "build", "--locked", "--release", "--quiet", "--package", package, "--target-dir", target], cwd=ROOT, timeout=900)
    binary = target / "release" / name
    if not binary.exists():
        raise Fail(f"cargo built {package}, but it is not at {binary}")
    return binary


@cache
def web() -> Path:
    return _built("web", "web")


@cache
def fake_pve() -> Path:
    return _built("pve", "fake-pve")


THINGS = {"web": web, "fake-pve": fake_pve}
