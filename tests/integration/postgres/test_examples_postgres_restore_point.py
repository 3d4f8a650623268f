# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of postgres_restore_point and postgres_restore_point_info, on real PostgreSQL."""
from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from examples import Scene, modules_of, run_examples
from postgres import Server


def shop(server: Server) -> Scene:
    """The lab's cluster is not where the packages put one: each example says where it is."""
    words = [*server.client("postgres"), "-c", "DROP DATABASE IF EXISTS shop WITH (FORCE)", "-c", "CREATE DATABASE shop"]
    remove = "SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datname LIKE 'shop\\_\\_%' \\gexec"
    clean = f"cd / && rm -rf /var/lib/reversible/postgres && {shlex.join(words)} && echo {shlex.quote(remove)} | {shlex.join(server.client('postgres'))}"
    here = json.dumps({"database": "shop", **server.options})[1:-1]
    return Scene(host="local", system="", clean=clean, edits={'"database": "shop"': here})


@pytest.mark.parametrize("module", modules_of("postgres"))
def test_the_examples_run(one_core: str, tmp_path: Path, module: str) -> None:
    server = Server("15")
    try:
        run_examples(module, shop(server), one_core, tmp_path)
    finally:
        server.clean()
