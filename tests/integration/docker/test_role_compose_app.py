# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role compose_app on a real engine: a release is brought up in place; one that fails goes back, data and all, and fails with its evidence."""
from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from compose import Engine, an_engine  # noqa: F401  (one is a fixture)
from compose_app import BACK, DAMAGE, HOST, SECOND, SECRET, App
from harness import CORES, LOCAL, PIPELINING, ROOT, Ansible, Run
from trees import tree, unlike

@pytest.fixture
def app(on: Engine) -> t.Iterator[App]:
    app = App(on)
    try:
        yield app
    finally:
        app.remove()


@pytest.fixture
def newest(tmp_path: Path) -> Ansible:
    return Ansible(CORES[-1], tmp_path, LOCAL, PIPELINING)


@pytest.fixture
def each(one_core: str, tmp_path: Path) -> Ansible:
    """The oldest core and the newest, for the whole flow."""
    return Ansible(one_core, tmp_path, LOCAL, PIPELINING)


def failure(run: Run) -> str:
    """What the role said at last."""
    assert run.code == 2, run.output
    return [task for task in run.tasks if task.status == "failed"][-1].msg


def test_from_the_first_deploy_to_a_failed_one_and_back(each: Ansible, app: App) -> None:
    first = app.deploy(each, "1")
    assert first.code == 0, first.output
    assert (app.version, app.outcome, app.complete) == ("1", "done", [])
    # It is there: nothing is changed, no backup is made.
    again = app.deploy(each, "1", deploy_id="20261121t085000z-0001")
    assert again.code == 0 and app.complete == [] and app.outcome == "done", again.output

    good = app.deploy(each, "2", deploy_id=SECOND, retain=2, hooks={"verify": [["test", "-e", "compose.yml"]]})
    assert good.code == 0, good.output
    assert (app.version, app.outcome, len(app.complete)) == ("2", "done", 1)
    # The backup came before the new files.
    [name] = app.complete
    kept = [path.read_text() for path in (app.backups / name / "config/files").iterdir()]
    assert any("# release 1" in text for text in kept) and any("VERSION=1\n" in text for text in kept)
    assert app.manifest(name)["release"] == "1111111"

    box, ids = app.engine.volume(f"{app.name}_box"), app.images()
    before, inside = tree(app.folder), tree(box)
    bad = app.deploy(each, "3", deploy_id=BACK)
    said = failure(bad)
    assert "rolled back to backup-" in said and "was seen to run" in said and "cannot open the database" in said, said
    assert (app.version, app.outcome, bad.named("app_reverted")["app_reverted"]) == ("2", "failed_reverted", True)
    assert app.images() == ids
    after, again_inside = tree(app.folder), tree(box)
    # What runs again writes its line into the log, as any start does; what the failed release wrote is gone.
    for folder, name in ((after, b"data/log"), (before, b"data/log"), (inside, b"x"), (again_inside, b"x")):
        del folder[name]
    parked = {name for name in after if b".parked-" in name}
    assert not unlike(before, {name: entry for name, entry in after.items() if not any(name.startswith(one) for one in parked)} | {
        b"": before[b""]}), said
    assert not unlike(inside, again_inside)
    # Each backup stops and starts what runs.
    assert (app.folder / "data/log").read_text() == "release 1\nrelease 1\nrelease 2\nrelease 2\n"
    assert (app.folder / ".env").read_text() == f"VERSION=2\nPASSWORD={SECRET}\n"


def test_a_way_back_that_fails_is_told_apart(newest: Ansible, app: App) -> None:
    app.begin("1")
    run = app.deploy(newest, "3", deploy_id=SECOND, hooks={"migrate": [["python3", "-c", DAMAGE, str(app.backups)]]})
    said = failure(run)
    assert "NOT ROLLED BACK" in said and "damaged" in said and "state=restored" in said, said
    assert (app.outcome, run.named("app_reverted")["app_reverted"]) == ("failed_not_reverted", False)


def test_what_cannot_be_read_changes_nothing(newest: Ansible, app: App) -> None:
    app.begin("1")
    before, containers = tree(app.folder), [one["Id"] for one in app.containers()]
    (app.place / "releases/2/compose.yml").write_text("services: {web: {image: [}}\n")
    run = app.deploy(newest, "2", deploy_id=SECOND)
    assert run.code == 2 and app.outcome == "failed_reverted", run.output
    assert not unlike(before, tree(app.folder)) and app.complete == []
    assert [one["Id"] for one in app.containers()] == containers and app.version == "1"
    # Nor does one that a disk has no room for.
    said = failure(app.deploy(newest, "3", deploy_id="20261121t093000z-5e6f", max_disk=0.0001))
    assert "a disk is too full for a deploy" in said and "images and volumes" in said and "compose_app_max_disk=0.95" in said, said
    assert not unlike(before, tree(app.folder)) and app.complete == [] and app.version == "1"
    # Check mode goes all the way through and changes nothing either.
    checked = app.deploy(newest, "3", "--check", "--diff", deploy_id=BACK)
    assert checked.code == 0, checked.output
    assert not unlike(before, tree(app.folder)) and app.complete == [] and app.version == "1"


def test_a_project_of_another_user(newest: Ansible, app: App) -> None:
    """Its folder is no obstacle; a link in it, by which that user would have root write elsewhere, changes nothing."""
    app.begin("1")
    outside, own = app.place / "outside", app.folder / ".env"
    outside.write_text(own.read_text())
    before = outside.read_text()
    own.unlink()
    own.symlink_to(outside)
    for path in (app.folder, own, app.folder / "compose.yml"):
        os.lchown(path, 4301, 4301)
    said = failure(app.deploy(newest, "2", deploy_id=SECOND))
    assert ".env is a symbolic link that others could have made" in said and "nothing was changed" in said.lower(), said
    assert (outside.read_text(), app.version, app.outcome, app.complete) == (before, "1", "failed_reverted", [])
    own.unlink()
    own.write_text(before)
    os.chown(own, 4301, 4301)
    good = app.deploy(newest, "2", deploy_id=BACK)
    assert good.code == 0 and app.version == "2", good.output
    assert {path.stat().st_uid for path in (app.folder, own, app.folder / "compose.yml")} == {4301}


def test_a_first_deploy_that_fails_is_taken_away(newest: Ansible, app: App) -> None:
    run = app.deploy(newest, "3")
    said = failure(run)
    assert "It was the first deploy" in said and "cannot open the database" in said, said
    assert (app.outcome, app.containers(), app.complete) == ("failed_reverted", [], [])
    assert (app.engine.volume(f"{app.name}_box") / "x").exists()


def test_going_back_later_needs_consent(newest: Ansible, app: App) -> None:
    app.begin("1")
    assert app.deploy(newest, "2", deploy_id=SECOND).code == 0
    asked = app.deploy(newest, "2", doors=["observe", "revert"], deploy_id=SECOND, rollback_id=BACK)
    assert asked.code == 2 and "needs_consent" in asked.output and app.version == "2", asked.output
    back = app.deploy(newest, "2", doors=["observe", "revert"], deploy_id=SECOND, rollback_id=BACK, confirm=True)
    assert back.code == 0 and app.version == "1", back.output
    observed = back.named("app_observed")["app_observed"]
    assert (observed["project"], observed["running"], observed["rollbacks"]["backup"]["open"]) == (app.name, True, app.complete)
    # What must not meet a database that goes back.
    stopped = app.deploy(newest, "2", doors=["observe", "stop", "observe"], deploy_id=SECOND)
    assert stopped.code == 0 and stopped.named("app_observed")["app_observed"]["running"] is False, stopped.output
    started = app.deploy(newest, "2", doors=["start", "probe"], deploy_id=SECOND)
    assert started.code == 0 and app.version == "1", started.output


def test_the_example_of_the_readme(newest: Ansible, app: App) -> None:
    import yaml

    text = (ROOT / "roles/compose_app/README.md").read_text(encoding="utf-8")
    release = app.place / "releases/2"
    here = {"/srv/shop": str(app.folder), "/var/backups/shop": str(app.backups), "shop1": HOST, "/tmp/shop-prod.outcome": str(app.place / "outcome"),
            "/opt/shop/4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a": str(release), "compose.yaml": "compose.yml"}
    example = text.split("```yaml\n")[1].split("```")[0]
    for written, instead in here.items():
        assert written in example
        example = example.replace(written, instead)
    [play] = yaml.safe_load(example)
    given = play["tasks"][0]["vars"]
    assert given["compose_app_env"] == {"VERSION": given["app_release_sha"]}
    app.engine.docker("tag", f"{app.name}/web:2", f"{app.name}/web:{given['app_release_sha']}")
    given |= {"compose_app_state_dir": str(app.state), "compose_app_ledger_path": str(app.place / "ledger")}
    run = newest.play(play["tasks"], HOST, environment=app.engine.environ)
    assert run.code == 0 and (app.version, app.outcome) == ("2", "done"), run.output
