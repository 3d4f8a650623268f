# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_files on this machine: files, folders, links and variables, in a folder of root's and in another user's, who tries to lead root elsewhere.
What it does to units is looked at where systemd runs: integration/haproxy/test_role_host_app_systemd.py, test_role_haproxy_systemd.py."""
from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest
from edge import Call, call
from strace import moments, was_killed

MODULE = "host_files"
THEIRS = 4301
SECRET = "hunter2 is secret"


class Site:
    """A release, the folder of a project, and a file that is none of its business."""

    def __init__(self, place: Path) -> None:
        place.chmod(0o755)
        self.release, self.folder, self.outside = place / "release", place / "project", place / "outside"
        (self.release / "config/empty").mkdir(parents=True)
        (self.release / "compose.yaml").write_text("services: {}\n")
        (self.release / "config/run").write_text("#!/bin/sh\n")
        (self.release / "config/run").chmod(0o755)
        self.folder.mkdir()
        self.outside.write_text("root's own\n")
        self.outside.chmod(0o600)

    def run(self, *files: dict[str, t.Any], check: bool = False, **more: t.Any) -> dict[str, t.Any]:
        return call(MODULE, {"dest": str(self.folder), "files": list(files), **more}, check=check)

    def host(self, *files: dict[str, t.Any], **more: t.Any) -> dict[str, t.Any]:
        """Without dest; the paths are made absolute here."""
        whole = [{**one, "path": str(self.folder / one["path"])} for one in files]
        return call(MODULE, {"files": whole}, **more)

    def source(self, name: str) -> dict[str, t.Any]:
        return {"path": name, "src": str(self.release / name)}

    @property
    def there(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture
def site() -> t.Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="reversible-test-", dir="/var/tmp") as place:   # where anyone may go
        yield Site(Path(place))


def test_a_release_and_its_variables(site: Site) -> None:
    site.folder.rmdir()
    wanted = [site.source("compose.yaml"), site.source("config"), {"path": "etc/shop/it", "secret_content": SECRET, "mode": "0640"}]
    more = {"variables": {"TAG": "2", "PASSWORD": SECRET}}
    planned = site.run(*wanted, check=True, **more)
    assert planned["changed"] and not site.folder.exists() and planned["differ"] == ["compose.yaml", "config/run", "etc/shop/it", ".env"], planned
    done = site.run(*wanted, **more)
    assert (done["plan"], done["plan_id"]) == (planned["plan"], planned["plan_id"]) and SECRET not in str(done), done
    assert site.there == {"compose.yaml", "config", "config/run", "config/empty", "etc", "etc/shop", "etc/shop/it", ".env"}
    modes = {name: (site.folder / name).stat().st_mode & 0o777 for name in ("compose.yaml", "config/run", "etc/shop/it", ".env")}
    assert modes == {"compose.yaml": 0o644, "config/run": 0o755, "etc/shop/it": 0o640, ".env": 0o600}
    assert (site.folder / ".env").read_text() == f"PASSWORD={SECRET}\nTAG=2\n"
    assert site.run(*wanted, **more)["changed"] is False
    # A mode counts, and so does the last line that sets a variable; what is not named stays.
    (site.folder / "config/run").chmod(0o700)
    (site.folder / ".env").write_text("TAG=0\nOTHER=1\nexport TAG = 1\n")
    assert site.run(*wanted, variables={"TAG": 3})["differ"] == ["config/run", ".env"]
    assert (site.folder / ".env").read_text() == "TAG=0\nOTHER=1\nTAG=3\n"


def test_variables_over_a_file_of_the_release(site: Site) -> None:
    (site.release / ".env").write_text("TAG=1\nCOLOR=red\n")
    assert site.run(site.source(".env"), variables={"TAG": "2"})["changed"]
    assert (site.folder / ".env").read_text() == "TAG=2\nCOLOR=red\n"
    assert site.run(site.source(".env"), variables={"TAG": "2"})["changed"] is False


def test_what_is_missing_or_contradicts_itself(site: Site) -> None:
    before = site.there
    for reason, wanted in (
        ("no_source", site.source("nothing")), ("bad_options", {"path": "a"}), ("bad_options", {"path": "../a", "content": "x"}),
        ("bad_options", {"path": "a", "content": "x", "mode": "0999"}), ("bad_options", {"path": "a", "src": "relative"}),
    ):
        said = site.run({"path": "first", "content": "x"}, wanted)
        assert said["failed"] and said["reason"] == reason, said
    assert site.there == before


def test_a_folder_that_belongs_to_another_user(site: Site) -> None:
    """It is no obstacle, and what is there stays that user's."""
    (site.folder / ".env").write_text("TAG=1\n")
    for path in (site.folder, site.folder / ".env"):
        os.chown(path, THEIRS, THEIRS)
    (site.folder / ".env").chmod(0o644)
    assert site.run(site.source("compose.yaml"), variables={"TAG": "2"})["changed"]
    there = (site.folder / ".env").stat()
    assert (there.st_uid, there.st_mode & 0o777, (site.folder / ".env").read_text()) == (THEIRS, 0o600, "TAG=2\n")


@pytest.mark.parametrize("name", [".env", "compose.yaml", "config", "pipe", "source"])
def test_where_another_user_leads_elsewhere(site: Site, name: str) -> None:
    """A link in place of each, and a pipe that nobody writes to: refused at once, and nothing is changed, read or waited for."""
    wanted = [{"path": "first", "content": "x"}, site.source("compose.yaml"), site.source("config")]
    match name:
        case "pipe":
            os.mkfifo(site.folder / ".env")
        case "source":
            (site.release / "config/run").unlink()
            (site.release / "config/run").symlink_to(site.outside)
            os.chown(site.release / "config", THEIRS, THEIRS)
            os.lchown(site.release / "config/run", THEIRS, THEIRS)
        case _:
            (site.folder / name).symlink_to(site.outside.parent if name == "config" else site.outside)
            os.lchown(site.folder / name, THEIRS, THEIRS)
    os.chown(site.folder, THEIRS, THEIRS)
    before = site.there
    for check in (True, False):
        said = site.run(*wanted, variables={"TAG": "2"}, check=check)
        words = "is not a regular file" if name == "pipe" else "is a symbolic link that others could have made"
        assert said["failed"] and said["reason"] == "unsafe_path" and "nothing was changed" in said["msg"] and words in said["msg"], said
    assert site.there == before and site.outside.read_text() == "root's own\n" and not (site.outside.parent / "run").exists()


def test_killed_at_each_exchange(site: Site) -> None:
    """Whoever comes next finds whole files, and leaves nothing of the killed run's."""
    older, newer = ([{"path": name, "content": f"{name} {version}"} for name in ("a", "b")] for version in (1, 2))

    def kill(below: list[str]) -> bool:
        site.run(*older)
        run = Call(MODULE, {"dest": str(site.folder), "files": newer}, below=below)
        run.process.communicate(timeout=120)
        return was_killed(run.process.returncode)

    count = 0
    for count, moment in enumerate(moments(["renameat", "fsync"], kill), 1):
        assert {(site.folder / name).read_text() for name in ("a", "b")} <= {"a 1", "a 2", "b 1", "b 2"}, moment
        assert not site.run(*newer).get("failed") and site.there == {"a", "b"}, moment
        assert [(site.folder / name).read_text() for name in ("a", "b")] == ["a 2", "b 2"], moment
    assert count >= 4


def test_folders_files_and_links_of_a_host(site: Site) -> None:
    wanted = [
        {"path": "data", "state": "directory", "mode": "0770", "owner": str(THEIRS), "group": "daemon"},
        {"path": "etc/shop.conf", "content": "listen 80\n", "owner": "nobody"},
        {"path": "etc/shop.env", "secret_content": f"PASSWORD={SECRET}\n"},
        {"path": "etc/current", "state": "link", "target": "shop.conf"},
        {"path": "etc/map", "lines": ["a blue", "b blue"]},
        {"path": "etc/old", "state": "absent"},
    ]
    (site.folder / "etc").mkdir()
    (site.folder / "etc/old").write_text("x")
    (site.folder / "etc/map").write_text("a green\nb blue")
    planned = site.host(*wanted, check=True, diff=True)
    assert planned["changed"] and site.there == {"etc", "etc/old", "etc/map"}, planned
    done = site.host(*wanted, diff=True)
    assert (done["plan"], done["plan_id"], done["differ"]) == (planned["plan"], planned["plan_id"], planned["differ"]), done
    shown = str(done["diff"])
    assert "listen 80" in shown and "a green\\nb blue" in shown and "hunter2" not in str(done), done
    seen = {path: (site.folder / path).lstat() for path in site.there}
    assert set(seen) == {"data", "etc", "etc/shop.conf", "etc/shop.env", "etc/current", "etc/map"}
    assert (seen["data"].st_uid, seen["data"].st_gid, seen["data"].st_mode & 0o777) == (THEIRS, grp.getgrnam("daemon").gr_gid, 0o770)
    modes = [seen[f"etc/{name}"].st_mode & 0o777 for name in ("shop.conf", "shop.env", "map")]
    assert modes == [0o644, 0o600, 0o644] and seen["etc/shop.conf"].st_uid == pwd.getpwnam("nobody").pw_uid
    assert (site.folder / "etc/map").read_text() == "a green\nb blue\na blue\n" and os.readlink(site.folder / "etc/current") == "shop.conf"
    assert site.host(*wanted)["changed"] is False
    # Owner and mode count; a link is exchanged; what may not be replaced stays.
    for path in ("data", "etc/shop.conf"):
        os.chown(site.folder / path, 0, 0)
    site.host({"path": "etc/current", "state": "link", "target": "map"}, {"path": "etc/map", "content": "x", "replace": False})
    again = site.host(*wanted)
    assert len(again["plan"]) == 3 and again["plan"][0].startswith("set owner and mode of ") and again["differ"] == [
        str(site.folder / "etc/shop.conf"), str(site.folder / "etc/current")], again
    assert site.host(*wanted)["changed"] is False


def test_what_a_host_refuses(site: Site) -> None:
    """Bad wishes, and what is in the way: one sentence, and nothing is changed, also of what else was asked for."""
    (site.folder / "full/of").mkdir(parents=True)
    (site.folder / "file").write_text("it\n")
    before = site.there
    first = {"path": "first", "content": "x"}
    for reason, words, odd in (
        ("bad_options", "each file has one of", {"path": "a"}),
        ("bad_options", "a link has a target", {"path": "a", "state": "link"}),
        ("bad_options", "is neither a number nor a name in /etc/passwd", {"path": "a", "content": "x", "owner": "nobody-here"}),
        ("unsafe_path", "is no symbolic link", {"path": "file", "state": "link", "target": "x"}),
        ("unsafe_path", "is a folder with something in it", {"path": "full", "state": "absent"}),
        ("unsafe_path", "is not a regular file", {"path": "full", "content": "x"}),
        ("unsafe_path", "is not a folder", {"path": "file/below", "content": "x"}),
    ):
        for check in (True, False):
            said = site.host(first, odd, check=check)
            assert said["failed"] and said["reason"] == reason and words in said["msg"], said
    for name in ("", "-x", "a b", "../x"):
        assert call(MODULE, {"units": [{"name": name, "state": "started"}]})["reason"] == "bad_options"
    assert site.there == before


def test_a_file_is_checked_before_it_is_replaced(site: Site) -> None:
    """All of them are, and what was checked stays nowhere."""
    here, run = site.folder / "conf", Path("/run/reversible-files")
    here.write_text("old\n")
    check = ["sh", "-c", 'stat -c "%a %n" "$1" >&2; grep -q good "$1"', "check", "%s"]
    first, wanted = {"path": "first", "content": "x"}, {"path": "conf", "validate": check}
    said = site.host(first, {**wanted, "content": "bad\n"})
    assert said["failed"] and said["reason"] == "invalid_content" and said["stderr"].endswith("/conf\n") and said["stderr"].startswith("600 "), said
    assert here.read_text() == "old\n" and site.there == {"conf"}
    assert not site.host(first, {**wanted, "content": "good\n"}, check=True).get("failed") and here.read_text() == "old\n"
    (run / "check-left").mkdir()   # by one that was killed
    assert site.host(first, {**wanted, "content": "good\n"})["changed"] and here.read_text() == "good\n"
    assert [path.name for path in run.iterdir()] == ["lock"]


def test_a_full_disk(site: Site) -> None:
    """The old file stays whole, and nothing of the new one is left."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", site.folder], check=True)
    try:
        (site.folder / "it").write_text("old\n")
        said = site.host({"path": "it", "content": "x" * 200_000})
        assert said["failed"] and said["reason"] == "no_space", said
        assert (site.folder / "it").read_text() == "old\n" and site.there == {"it"}
    finally:
        subprocess.run(["umount", site.folder], check=True)


def test_what_info_sees(site: Site) -> None:
    theirs, line = site.folder / "theirs", socket.socket(socket.AF_UNIX)
    theirs.mkdir()
    (theirs / "file").write_text("text\n")
    os.chown(theirs, THEIRS, THEIRS)
    (site.folder / "link").symlink_to("theirs/file")
    with line:
        line.bind(str(site.folder / "socket"))
        paths = {name: str(site.folder / name) for name in ("theirs", "theirs/file", "link", "socket", "none")}
        seen = call("host_files_info", {"paths": list(paths.values()), "read": [paths["link"], paths["none"]]})["files"]
    assert {name: seen[path]["kind"] for name, path in paths.items()} == {
        "theirs": "directory", "theirs/file": "file", "link": "link", "socket": "socket", "none": "absent"}
    assert seen[paths["link"]]["content"] == "text\n" and seen[paths["none"]]["content"] is None and not seen[paths["none"]]["exists"]
    by_others = f"{theirs} belongs to uid {THEIRS} (mode 0755)"
    assert [seen[paths[name]]["others_can_change"] for name in paths] == [by_others, by_others, by_others, None, None]
    site.folder.chmod(0o777)
    assert "can be written to by everyone" in call("host_files_info", {"paths": [paths["none"]]})["files"][paths["none"]]["others_can_change"]
    (site.folder / "binary").write_bytes(b"\xff\xfe")
    said = call("host_files_info", {"read": [str(site.folder / "binary")]})
    assert said["failed"] and "is no text in UTF-8" in said["msg"], said


def test_an_older_run_changes_nothing(site: Site) -> None:
    newer, older = ({"deploy_id": f"20261121t08450{second}z-7f3a", "state_dir": str(site.folder.parent / "state")} for second in (1, 0))
    assert not site.run({"path": "a", "content": "1"}, **newer).get("failed")
    refused = site.run({"path": "a", "content": "2"}, **older)
    assert refused["failed"] and refused["reason"] == "superseded" and (site.folder / "a").read_text() == "1", refused
    assert site.run({"path": "a", "content": "2"}, deploy_id=newer["deploy_id"])["failed"], "a fence needs its folder"
