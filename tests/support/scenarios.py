# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scenario of Molecule, as `molecule test` runs it for whoever works on a role."""
from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from harness import ROOT, lab

SCENARIOS = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}


def ends_well(scenario: str, place: Path) -> None:
    """All of its steps do, and nothing stays of what it stood on; `place` is for Molecule's own records."""
    venv = Path(lab("get", "molecule"))
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
    environ |= {"PATH": f"{venv / 'bin'}:{environ['PATH']}", "XDG_CACHE_HOME": str(place), "NO_COLOR": "1", "REVERSIBLE_CACHE": cache()}
    done = subprocess.run([venv / "bin/molecule", "test", "--scenario-name", scenario], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
    # What it does not find it skips, and ends well.
    assert done.returncode == 0 and "Missing playbook" not in done.stdout, f"{done.stdout[-8000:]}\n\n{why(done.stdout)}"
    assert not (Path("/var/lib/reversible-molecule") / scenario).exists()


def why(output: str) -> str:
    """The tasks that failed: a log's end does not reach back to them."""
    return "\n".join(re.findall(r"(?m)^(?:fatal|failed): .*$|^.*\[ERROR\].*$", output)) or "no task failed"


def cache() -> str:
    """Where the lab keeps its things; Molecule has its own place for this run."""
    given = os.environ.get("REVERSIBLE_CACHE")
    return given or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reversible-lab")
