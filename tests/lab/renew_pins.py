#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the newest version of each tool into pins.txt, as pip would install them today, and prints what has changed."""
from __future__ import annotations

import json
import subprocess
import sys

from things.ansible import ENVIRONMENTS, PINS, pins


def newest() -> dict[str, str]:
    """By environment, since what stands in one must get along there."""
    found = {}
    for names in ENVIRONMENTS.values():
        said = subprocess.run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *names],
                              stdout=subprocess.PIPE, check=True)
        versions = {one["metadata"]["name"].lower().replace("_", "-"): one["metadata"]["version"] for one in json.loads(said.stdout)["install"]}
        found |= {name: versions[name] for name in names}
    return found


def main() -> None:
    old, new = pins(), newest()
    text = PINS.read_text()
    for name in sorted(old):
        if new[name] != old[name]:
            print(f"{name}: {old[name]} -> {new[name]}")
            text = text.replace(f"{name}=={old[name]}\n", f"{name}=={new[name]}\n")
    PINS.write_text(text)


if __name__ == "__main__":
    main()
