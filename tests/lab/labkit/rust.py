# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this machine's Rust can build the workspace: an older one only says so in the middle of cargo's output."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from . import Fail

WORKSPACE = Path(__file__).resolve().parents[3] / "Cargo.toml"


def check_rust() -> None:
    """Fails where cargo is missing or too old. Ubuntu 24.04's own is: there Rust comes by rustup, or by a package that is named by its version."""
    [oldest] = re.findall(r'(?m)^rust-version = "([\d.]+)"', WORKSPACE.read_text(encoding="utf-8"))
    if not shutil.which("cargo"):
        raise Fail(f"cargo is not on the PATH: install Rust ({oldest} or newer) first")
    said = subprocess.run(["cargo", "--version"], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout.strip()
    found = re.match(r"cargo (\d+)\.(\d+)", said)
    if not found:
        raise Fail(f"cargo does not say its version, but: {said[-500:]}")
    if (int(found[1]), int(found[2])) < tuple(int(part) for part in oldest.split(".")[:2]):
        raise Fail(f"the Rust of this machine is too old ({said}, {shutil.which('cargo')}): install {oldest} or newer, for example by rustup")
