# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_rollout killed before and after each of its writes, and given nonsense by kubectl."""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from harness import wait_for
from kube import Namespace, call, namespace

FIRST, SECOND, BACK, LAST = "20261121t084500z-7f3a", "20261121t085500z-8a4b", "20261121t091500z-1c2d", "20261121t092500z-2d3e"
# kubectl, until its nth write: then whoever has called it is killed, before the server hears of it or after.
KILLER = """#!/bin/sh
case "$*" in
*"{verb} --raw"*)
    echo x >> {count}
    if [ "$(wc -l < {count})" = {nth} ]; then
        [ {when} = before ] || {kubectl} "$@" > /dev/null
        kill -9 $PPID
        exit 1
    fi
    ;;
esac
exec {kubectl} "$@"
"""


@pytest.fixture(name="place")
def one_namespace() -> t.Iterator[Namespace]:
    with namespace() as place:
        place.create(place.workload(replicas=1))
        place.settled("deployments", "shop:1")
        yield place


class Killer:
    """Runs the module until its nth write of a kind, and kills it there."""

    def __init__(self, place: Namespace, folder: Path) -> None:
        self.place, self.folder = place, folder

    def __call__(self, verb: str, when: str, nth: int, **task: t.Any) -> None:
        count = self.folder / "count"
        count.unlink(missing_ok=True)
        killer = script(self.folder, KILLER.format(count=count, verb=verb, nth=nth, when=when, kubectl=self.place.program))
        run = self.place.start(**task, kubectl=killer)
        run.process.communicate(timeout=60)
        assert run.process.returncode == -9, "it was not killed"


def script(folder: Path, text: str) -> str:
    path = folder / "kubectl"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_at_a_write(place: Namespace, tmp_path: Path, nth: int, when: str) -> None:
    """Of a rollout, of one that does not come up, of a rollback: the same task once more comes to the same end."""
    kill = Killer(place, tmp_path)
    task = {"image": "shop:2", "deploy_id": FIRST}
    kill("replace", when, nth, **task)
    place.do(**task)
    assert place.is_out("deployments", "shop:2") and not place.info()["unfinished"]

    task = {"image": "shop:bad", "deploy_id": SECOND}
    kill("replace", when, nth, **task)
    assert place.fails("image_pull", **task)["reverted"]
    assert place.is_out("deployments", "shop:2") and not place.info()["unfinished"]

    task = {"state": "rolled_back", "rollback_id": BACK}
    kill("replace", when, nth, **task)
    place.do(**task)
    assert place.is_out("deployments", "shop:1") and not place.info()["unfinished"], "it has gone back too far, or not at all"
    assert not place.do(**task)["changed"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_migration_that_is_killed_is_run_once(place: Namespace, tmp_path: Path, when: str) -> None:
    """At the write that makes its Job, at the one that ends a Job whose image is not there, and at the one that removes an older Job."""
    kill = Killer(place, tmp_path)

    def runs(deploy_id: str) -> list[str]:
        return [pod["metadata"]["uid"] for pod in place.get("pods", "", f"job-name=web-migrate-{deploy_id}")]
    task = {"state": "migrated", "image": "shop:2", "command": ["migrate"], "deploy_id": FIRST}
    kill("create", when, 1, **task)
    if when == "after":
        wait_for(lambda: runs(FIRST), "the Job goes on by itself")
    before = runs(FIRST)
    place.do(**task)
    assert len(runs(FIRST)) == 1 and before in ([], runs(FIRST)), "it has run twice"
    assert not place.do(**task)["changed"]

    kill("replace", when, 1, **{**task, "image": "shop:bad", "deploy_id": SECOND})
    place.fails("image_pull", **{**task, "image": "shop:bad", "deploy_id": SECOND})
    [job] = [job for job in place.get("jobs") if job["metadata"]["name"].endswith(SECOND)]
    assert any(one["type"] == "Failed" and one["status"] == "True" for one in job["status"]["conditions"]), "it may still start"

    task = {**task, "deploy_id": BACK, "retain": 1}
    kill("delete", when, 1, **task)
    assert len(runs(BACK)) == 1 and not place.do(**task)["changed"] and len(runs(BACK)) == 1
    place.do(**{**task, "deploy_id": LAST})
    wait_for(lambda: len(place.get("jobs")) == 1, "those that the killed run has left are removed by the next one")


@pytest.mark.parametrize("does, reason", [
    ("echo '{'", "failed"), ("echo '[]'", "failed"), ("echo null", "failed"), ("exit 3", "api_failed"),
    ("echo 'Error from server (Forbidden): no' >&2; exit 1", "forbidden"), ("kill -9 $$", "api_failed"),
])
def test_nonsense_of_kubectl_changes_nothing(place: Namespace, tmp_path: Path, does: str, reason: str) -> None:
    bad = script(tmp_path, f"#!/bin/sh\n{does}\n")
    done = call("kube_rollout", place.task(image="shop:2", kubectl=bad))
    assert done["failed"] and done["reason"] == reason and place.is_out("deployments", "shop:1"), done
    done = call("kube_rollout_info", {**place.options, "name": "web", "kubectl": bad})
    assert done["failed"] and done["reason"] == reason, done
