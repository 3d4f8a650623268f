# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""community.general, to compare with: the one collection out of PyPI's package `ansible`, which bundles it."""
from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from labkit import Fail, Skip, run
from labkit.cache import entry
from things.ansible import ansible

PACKAGES: list[str] = []
CACHES = ["community.general, out of PyPI's ansible"]
BUNDLE = "ansible==12.*"
WANTED = "ansible_collections/community/general/"


def community_general() -> Path:
    """A folder for ANSIBLE_COLLECTIONS_PATH."""
    def build(folder: Path) -> None:
        wheels = folder / "wheels"
        try:
            run([ansible("2.19") / "bin/pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
                 "--dest", wheels, BUNDLE], timeout=900)
        except Fail as fail:
            raise Skip(f"PyPI's package {BUNDLE} cannot be had: {fail}") from fail
        [wheel] = wheels.glob("ansible-*.whl")
        with zipfile.ZipFile(wheel) as bundle:
            bundle.extractall(folder, [name for name in bundle.namelist() if name.startswith(WANTED)])
        shutil.rmtree(wheels)
        if not (folder / WANTED / "plugins/modules/haproxy.py").exists():
            raise Fail(f"{BUNDLE} has no community.general with a module haproxy")
    return entry("community-general", build)


THINGS = {"community-general": community_general}
