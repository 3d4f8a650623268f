# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_color_switch where HAProxy has other mounts than we do, as in a container: what is written must be what a reload reads there.

A mount of one file keeps the old file when another is renamed over it, so that the next reload would bring the old colour back.
"""
from __future__ import annotations

import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from edge import Edge, wait_for
from color_switch import GREEN, MODULE, agree, all_versions, call, everything, filed, flip, refused

# The last two also number processes on their own, so that HAProxy's own pid says nothing to us.
KINDS = [("map", []), ("reload", []), ("map", ["--pid", "--fork", "--kill-child"]), ("reload", ["--pid", "--fork", "--kill-child"])]


def file_of(edge: Edge) -> Path:
    return edge.map if edge.shape.method == "map" else edge.config


def with_mount(edge: Edge, of: Path, at: Path, namespaces: t.Sequence[str] = ()) -> None:
    """HAProxy runs in namespaces of its own from now on, with this mount."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    edge.below = ["unshare", "--mount", "--propagation", "private", *namespaces, "sh", "-c", script, "sh", str(of), str(at)]
    edge.restart()


def content(edge: Edge, color: str) -> dict[str, str]:
    return {} if edge.shape.method == "map" else {"content": edge.render(color)}


@all_versions
@pytest.mark.parametrize(("method", "namespaces"), KINDS)
def test_a_mount_of_one_file_is_refused_and_one_of_its_folder_is_good(version: str, method: str, namespaces: list[str]) -> None:
    with Edge(version=version, method=method) as edge:
        file = file_of(edge)
        with_mount(edge, file, file, namespaces)
        for reloaded in (False, True):  # from 3.1 on the socket's maker has ended then
            refused(edge, "other_file", "nothing was changed", f"{file} is a mount of this one file where HAProxy (process ",
                    f"mount its folder {edge.folder} there instead", **GREEN, **content(edge, "green"))
            if not reloaded:
                old = edge.worker_pid()
                edge.reload()
                wait_for(lambda old=old: str(old) not in edge.master_ask("show proc").split(), "the old worker's end")
        with_mount(edge, edge.folder, edge.folder, namespaces)
        flip(edge, "green", **content(edge, "green"))
        edge.reload()
        agree(edge, "green")


@all_versions
def test_a_mount_of_one_file_on_this_machine_is_refused(version: str) -> None:
    with Edge(version=version) as edge:
        subprocess.run(["mount", "--bind", edge.map, edge.map], check=True)
        try:
            refused(edge, "other_file", f"{edge.map} is a mount of this one file on this machine", **GREEN)
        finally:
            subprocess.run(["umount", edge.map], check=True)
        assert flip(edge, "green")["changed"]


@all_versions
@pytest.mark.parametrize("method", ["map", "reload"])
def test_a_copy_that_haproxy_reads_is_noticed_before_anybody_is_sent_to_green(version: str, method: str) -> None:
    with Edge(version=version, method=method) as edge:
        file, folder, copy = file_of(edge), edge.folder / "real", edge.folder / "copy"
        folder.mkdir()
        file.rename(folder / file.name)
        file.symlink_to(folder / file.name)
        shutil.copytree(folder, copy)
        with_mount(edge, copy, folder)
        before = everything(edge)
        with edge.load(2) as load:
            result = call(MODULE, {**edge.options, **GREEN, **content(edge, "green")})
            old = edge.worker_pid()
        assert result["failed"] and result["reason"] == "other_file" and result["flip"]["reverted"], result
        assert f"{file} is another file where HAProxy (process " in result["msg"]
        assert load.report["answers"].get("green", 0) == 0 and load.report["answers"]["blue"] > 0 and load.report["failed"] == 0
        assert before[edge.stats] == everything(edge)[edge.stats] and edge.worker_pid() == old
        assert file.is_symlink() and (file.read_bytes() == (copy / file.name).read_bytes())
        if method == "map":
            assert filed(edge) == "blue"
        agree(edge, "blue", record=False)
