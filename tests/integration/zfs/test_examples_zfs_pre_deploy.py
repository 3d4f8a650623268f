# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of zfs_pre_deploy and zfs_pre_deploy_info, on real ZFS."""
from __future__ import annotations

from pathlib import Path

import pytest
from examples import Scene, modules_of, run_examples

RESTORE_POINT = {
    "See where the app's data can go back to": [
        {
            "name": "before",
            "reversible.deploy.zfs_pre_deploy": {"datasets": ["tank/shop"], "app": "shop-prod", "deploy_id": "20261121t084500z-7f3a"},
        }
    ],
}


def datasets() -> Scene:
    """A pool in the machine with ZFS, where root is the user and there is no sudo."""
    clean = """
        zpool list -H -o name tank >/dev/null 2>&1 && zpool destroy -f tank
        rm -rf /mnt/tank.img /var/lib/reversible/zfs-shop-prod
        truncate -s 256M /mnt/tank.img
        zpool create -f tank /mnt/tank.img && zfs create tank/shop && zfs create tank/shop/db
    """
    return Scene(host="zfs_root", system="zfs", clean=clean, before=RESTORE_POINT, edits={'"become": true': '"become": false'})


@pytest.mark.parametrize("module", modules_of("zfs"))
def test_the_examples_run(one_core: str, tmp_path: Path, module: str) -> None:
    run_examples(module, datasets(), one_core, tmp_path)
