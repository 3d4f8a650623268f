# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""app_files on this machine: files and variables written, in a folder of root's and in another user's, who tries to lead root elsewhere."""
from __future__ import annotations

import os
import tempfile
import typing as t
from pathlib import Path

import pytest
from edge import Call, call
from strace import moments, was_killed

MODULE = "app_files"
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
    wanted = [site.source("compose.yaml"), site.source("config"), {"path": "etc/shop/it", "content": SECRET, "mode": "0640"}]
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
