# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_backup with bad input and damaged backups: nothing is touched, and one clear sentence says why.

Bad days stand in test_compose_backup_world.py, kills in test_compose_backup_killed.py.
"""
from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import typing as t

import pytest
from compose import Engine, Project, a_project, an_engine, refused, small  # noqa: F401  (two are fixtures)
from trees import tree, unlike

ID, BACK = "20261121t084500z-7f3a", "20261121t104500z-aaaa"


def test_no_such_project(project: Project) -> None:
    (project.place / "empty").mkdir()
    refused(project, "no_project", "empty", project_dir=str(project.place / "empty"))
    refused(project, "no_project", "nowhere", project_dir=str(project.place / "nowhere"))
    refused(project, "no_project", "nobody", project_dir=None, project="nobody")


def test_a_compose_file_that_is_wrong(project: Project) -> None:
    project.file.write_text(f"name: {project.name}\nservices: {{app: {{imagine: x}}}}\n")
    refused(project, "compose_invalid", "compose.yml")
    project.file.write_text("services: [}\n")
    refused(project, "compose_invalid", str(project.folder), "yaml")


def test_an_env_file_that_is_missing(project: Project) -> None:
    text = project.file.read_text().replace("    init: true\n", "    init: true\n    env_file: [gone.env]\n")
    project.file.write_text(text)
    refused(project, "env_file_missing", "gone.env")
    refused(project, "env_file_missing", "other.env", env_files=[str(project.folder / "other.env")])


def test_a_mount_or_an_image_that_is_missing(project: Project) -> None:
    shutil.move(project.folder / "data", project.place / "elsewhere")
    refused(project, "mount_missing", str(project.folder / "data"))
    shutil.move(project.place / "elsewhere", project.folder / "data")
    project.file.write_text(project.file.read_text().replace("reversible-lab/busybox:1", "reversible-lab/never-built:7"))
    project.compose("down", "-t", "0")
    result = project.run()
    assert result["failed"] and result["reason"] in ("image_missing", "no_containers"), result
    assert not project.backups.exists()


def test_backups_that_would_back_themselves_up(project: Project) -> None:
    inside = project.folder / "data/backups"
    refused(project, "backup_inside_mount", str(inside), backup_dir=str(inside))
    inside.mkdir(mode=0o700)
    refused(project, "backup_inside_mount", backup_dir=str(inside))
    inside.rmdir()
    (project.place / "a-link").symlink_to(project.folder / "data")
    assert project.run(backup_dir=str(project.place / "a-link/backups"))["failed"]
    assert not (project.folder / "data/backups").exists()


def test_a_backup_folder_that_others_can_write_to(project: Project) -> None:
    project.backups.mkdir()
    project.backups.chmod(0o777)
    assert project.run()["failed"] and not list(project.backups.iterdir())


def test_one_folder_is_for_one_project(project: Project, on: Engine) -> None:
    project.backup()
    other = small(on)
    try:
        refused(other, "foreign_backup_dir", project.name, backup_dir=str(project.backups))
    finally:
        other.remove()


def test_no_consent(project: Project) -> None:
    project.backup(deploy_id=ID)
    planned = project.start(check_mode=True, state="restored", deploy_id=ID, confirm=True, rollback_id=BACK).wait()
    assert planned["changed"] and planned["plan_id"] and planned["loss"] and planned["plan"]
    for wrong in ({}, {"confirm": False}):
        refused(project, "needs_consent", state="restored", deploy_id=ID, rollback_id=BACK, **wrong)
    refused(project, "plan_moved", planned["plan_id"], state="restored", deploy_id=ID, rollback_id=BACK, confirm="plan-000000000000")
    refused(project, "needs_consent", state="absent", deploy_id=ID)
    done = project.ok(state="restored", deploy_id=ID, rollback_id=BACK, confirm=planned["plan_id"])
    assert done["plan"] == planned["plan"] and done["plan_id"] == planned["plan_id"]


def test_the_last_backup_is_not_removed_by_the_way(project: Project) -> None:
    done = project.backup()
    refused(project, "needs_consent", done["backup"], "last_backup", state="absent", name=done["backup"], confirm=True)
    project.ok(state="absent", name=done["backup"], confirm=True, accept=["last_backup"])
    assert not project.complete


def test_no_backup_of_that_name(project: Project) -> None:
    refused(project, "no_backup", state="restored", latest=True, confirm=True)
    project.backup(deploy_id=ID)
    refused(project, "no_backup", "20261121t084500z-0000", state="restored", deploy_id="20261121t084500z-0000", confirm=True)
    refused(project, "no_backup", state="restored", name="backup-20200101-000000", confirm=True)
    assert project.run(state="restored", name="../../etc", confirm=True)["failed"]


def test_the_pointer_is_checked(project: Project) -> None:
    done = project.backup()
    for forged in ("backup-20200101-000000\n", "/etc\n", "", "\xff\xfe"):
        (project.backups / "last-deployment-backup.txt").write_text(forged, encoding="latin-1")
        assert project.info()["latest"] == done["backup"]
    (project.folder / "data/one").write_text("broken")
    assert project.restore(latest=True)["backup"] == done["backup"] and (project.folder / "data/one").read_text() == "1\n"


# Damage

KINDS = ["data/*.tar.*", "data/*.index.*", "images/*.json", "config/compose.json", "config/files/*", "dumps/*", "logs/*",
         "manifest.json"]


def test_a_flipped_bit_is_found_before_anything_is_touched(project: Project) -> None:
    """One bit in the middle of a file of each kind. A layer is read only when its image is not in the engine."""
    own = f"{project.name}/own:1"
    (project.place / "own").mkdir()
    (project.place / "own/Dockerfile").write_text(f"FROM reversible-lab/busybox:1\nLABEL only={own}\nCOPY Dockerfile /own\n")
    project.engine.docker("build", "--quiet", "--tag", own, project.place / "own")
    project.file.write_text(project.file.read_text().replace("reversible-lab/busybox:1", own))
    project.up()
    dump = {"service": "app", "name": "list", "command": ["ls", "-l", "/data"]}
    name = project.backup(dumps=[dump])["backup"]
    (project.folder / "data/one").write_text("written since\n")
    for number, kind in enumerate([*KINDS, "images/*.tar.*"]):
        path = sorted((project.backups / name).glob(kind), key=lambda path: path.stat().st_size)[-1]
        whole = path.read_bytes()
        content = bytearray(whole)
        content[len(content) // 2] ^= 4
        if number == len(KINDS):
            project.compose("down", "-t", "0")
            project.engine.docker("image", "rm", own)
        path.write_bytes(content)
        options = {"state": "restored", "name": name, "confirm": True, "rollback_id": f"20261121t10450{number}z-aaaa"}
        if kind == "data/*.tar.*":   # seen while it is staged, which only the time of the folder around it shows
            before, states = tree(project.folder), project.states()
            project.fails("damaged", path.name, **options)
            assert not unlike({**before, b"": None}, {**tree(project.folder), b"": None}) and project.states() == states
            assert not list(project.place.rglob("*.restoring-*"))
        else:
            refused(project, "damaged", path.name, **options)
        [row] = project.info(check=True)["backups"]
        assert not row["ready_to_restore"] and path.name in " ".join(row["why"]), (kind, row)
        path.write_bytes(whole)
    project.restore(name=name)
    assert (project.folder / "data/one").read_text() == "1\n" and project.states() == {"app": "running"}
    # Nor does a layer that rots keep anybody from going back whose engine has the image.
    path.write_bytes(content)
    project.restore(name=name)
    assert path.name in " ".join(project.info(check=True)["backups"][0]["why"])
    project.compose("down", "-t", "0")
    project.engine.docker("image", "rm", "-f", own)


@pytest.mark.parametrize("trick", ["dots", "absolute", "through a link", "hard link"])
def test_an_archive_that_points_outside(project: Project, trick: str) -> None:
    """Whoever could write it could have made its sums right, too: nothing outside of the folder is touched all the same."""
    name = project.backup(deploy_id=ID)["backup"]
    victim = project.place / "victim"
    victim.mkdir()
    (victim / "file").write_text("the victim's own\n")
    before = tree(victim)
    [mount] = [one for one in project.manifest(name)["mounts"] if one["source"] == str(project.folder / "data")]
    segment = project.backups / name / mount["segments"][0]["file"]
    plain = project.place / "plain.tar"
    plain.write_bytes(subprocess.run(["zstd", "-dc", segment], stdout=subprocess.PIPE, check=True).stdout)
    with tarfile.open(plain, "a") as out:
        def add(path: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.size = kind, link, 0 if link else 5
            out.addfile(member, None if link else io.BytesIO(b"evil\n"))
        if trick == "dots":
            add("../../victim/file")
        elif trick == "absolute":
            add(str(victim / "file"))
        elif trick == "through a link":
            add("two", tarfile.SYMTYPE, str(victim))
            add("two/file")
        else:
            add("two", tarfile.LNKTYPE, "../../victim/file")
            add("two")
    segment.unlink()
    segment.write_bytes(subprocess.run(["zstd", "-qc", plain], stdout=subprocess.PIPE, check=True).stdout)
    sum_of_it = {"sha256": hashlib.sha256(segment.read_bytes()).hexdigest(), "bytes": segment.stat().st_size}
    rewrite(project, name, lambda content: {**content, "contents": {**content["contents"], mount["segments"][0]["file"]: sum_of_it}})
    (project.folder / "data/one").write_text("since\n")
    result = project.run(state="restored", deploy_id=ID, confirm=True)
    assert not unlike(before, tree(victim)), "the victim was changed"
    assert project.states() == {"app": "running"}
    if result.get("failed"):
        assert result["reason"] == "damaged" and (project.folder / "data/one").read_text() == "since\n", result
    else:   # what the index does not name is passed over
        assert (project.folder / "data/one").read_text() == "1\n" and (project.folder / "data/two").read_bytes() == b"2\n" * 5000


def test_a_manifest_that_was_cut_or_is_newer(project: Project) -> None:
    done = project.backup(deploy_id=ID)
    manifest = project.backups / done["backup"] / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: len(whole) // 2])
    refused(project, "damaged", "manifest.json", state="restored", name=done["backup"], confirm=True)
    manifest.write_bytes(b"")
    refused(project, "damaged", "manifest.json", state="restored", name=done["backup"], confirm=True)
    assert project.backup()["changed"], "a new backup is possible beside it"


def test_a_backup_of_a_newer_version(project: Project) -> None:
    done = project.backup(deploy_id=ID)
    rewrite(project, done["backup"], lambda content: {**content, "format": 2, "unheard_of": True})
    refused(project, "newer_format", state="restored", name=done["backup"], confirm=True)
    assert not project.info()["backups"][0]["ready_to_restore"]


def rewrite(project: Project, name: str, change: t.Callable[[dict[str, t.Any]], dict[str, t.Any]]) -> None:
    """Another manifest with its right sum: not damaged, but different."""
    folder = project.backups / name
    text = json.dumps(change(json.loads((folder / "manifest.json").read_text()))).encode()
    (folder / "manifest.json").write_bytes(text)
    old = (folder / "manifest.sha256").read_text()
    (folder / "manifest.sha256").write_text(old.replace(old.split()[0], hashlib.sha256(text).hexdigest()))


def test_an_unfinished_backup_counts_for_nothing(project: Project) -> None:
    first = project.backup()
    shutil.copytree(project.backups / first["backup"], project.backups / "backup-20990101-000000.partial")
    (project.backups / "backup-20990101-000000.partial/manifest.json").unlink()
    assert project.info()["latest"] == first["backup"]
    second = project.backup(retain=2)
    assert project.complete == sorted([first["backup"], second["backup"]]) and not project.unfinished


def test_the_clock_has_gone_back(project: Project) -> None:
    """The backup of a time to come is the older one: what counts is the order in which they were made."""
    first = project.backup()["backup"]
    future = "backup-20990101-000000"
    (project.backups / first).rename(project.backups / future)
    rewrite(project, future, lambda content: {**content, "name": future, "at": "2099-01-01T00:00:00Z"})
    (project.folder / "data/one").write_text("second\n")
    second = project.backup()["backup"]
    assert project.info()["latest"] == second
    (project.folder / "data/one").write_text("third\n")
    third = project.backup(retain=2)
    assert third["pruned"] == [future] and project.complete == sorted([second, third["backup"]])
    project.restore(name=second)
    assert (project.folder / "data/one").read_text() == "second\n"
