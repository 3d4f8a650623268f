# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""web: the web app and load generator of the tests, built from this checkout. Cargo is its cache: it knows what has changed."""
from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from labkit import HERE, Fail, run

PACKAGES: list[str] = []
CACHES: list[str] = []
ROOT = HERE.parent.parent


@cache
def web() -> Path:
    run(["cargo", "build", "--release", "--quiet", "--package", "web"], cwd=ROOT, timeout=900)
    binary = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute() / "release/web"
    if not binary.exists():
        raise Fail(f"cargo built web, but it is not at {binary}")
    return binary


THINGS = {"web": web}
