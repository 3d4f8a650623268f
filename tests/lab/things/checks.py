# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that check the project: shellcheck from apt, cargo-deny built from source."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

from labkit import Fail, Skip, apt, run, say
from labkit.cache import entry

PACKAGES = ["shellcheck"]
CARGO_DENY = "0.20.2"
CACHES = [f"cargo-deny {CARGO_DENY}, built from source"]


def shellcheck() -> Path:
    apt.install("shellcheck")
    return Path(shutil.which("shellcheck") or "/usr/bin/shellcheck")


def cargo_deny() -> Path:
    def build(folder: Path) -> None:
        say("cargo builds cargo-deny; this takes minutes, once")
        environment = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target"), "RUSTFLAGS": "", "CARGO_PROFILE_RELEASE_LTO": "off",
                       "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16", "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0"}
        try:
            run(["cargo", "install", "--locked", "--quiet", "-j2", "--root", folder, f"cargo-deny@{CARGO_DENY}"], env=environment)
        except Fail as fail:
            raise Skip(f"cargo-deny cannot be built here: {fail}") from fail
        shutil.rmtree(folder / "target")
    return entry(f"cargo-deny-{CARGO_DENY}", build) / "bin/cargo-deny"


THINGS = {"shellcheck": shellcheck, "cargo-deny": cargo_deny}
