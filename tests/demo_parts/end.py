# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`tests/demo end`: ends what `make demo KEEP=1` has left up, by the pids that it wrote down and by where programs lie; removes its
folder."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "lab"))

from labkit import STATE, daemon  # noqa: E402  (the path comes first)


def below(place: Path) -> set[int]:
    """Processes whose program, or the script that it runs, lies there."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")[:2]
        except OSError:
            continue
        if any(word.startswith(os.fsencode(place) + b"/") for word in words):
            found.add(int(entry.parent.name))
    return found


def main() -> None:
    if not STATE.exists():
        print("demo: nothing is up")
        return
    # The engine of the orders, where the demo itself was killed.
    subprocess.run([TESTS / "lab/lab", "down", "docker"], check=True)
    named = {pid for path in STATE.glob("edge-*/*.pid") if (pid := daemon.running(path.parent, path.stem))}
    daemon.end(daemon.children(named) | below(STATE))
    shutil.rmtree(STATE)
    print(f"demo: ended, and {STATE} is removed")


if __name__ == "__main__":
    main()
