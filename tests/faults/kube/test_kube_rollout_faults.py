# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_rollout killed before and after each of its writes, and told nonsense by kubectl."""
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from kube import Namespace, call, namespace

FIRST, SECOND, BACK = "20261121t084500z-7f3a", "20261121t085500z-8a4b", "20261121t091500z-1c2d"
# kubectl, until its nth write: then whoever has called it is killed, before the server hears of it or after.
KILLER = """#!/bin/sh
case "$*" in
*"replace --raw"*)
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


def script(folder: Path, text: str) -> str:
    path = folder / "kubectl"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_at_a_write(place: Namespace, tmp_path: Path, nth: int, when: str) -> None:
    """Of a rollout, of one that does not come up, of a rollback: the same task once more comes to the same end."""
    def killed(**task: t.Any) -> None:
        (tmp_path / "count").unlink(missing_ok=True)
        killer = script(tmp_path, KILLER.format(count=tmp_path / "count", nth=nth, when=when, kubectl=place.program))
        run = place.start(**task, kubectl=killer)
        run.process.communicate(timeout=60)
        assert run.process.returncode == -9, "it was not killed"

    task = {"image": "shop:2", "deploy_id": FIRST}
    killed(**task)
    place.do(**task)
    assert place.is_out("deployments", "shop:2") and not place.info()["unfinished"]

    task = {"image": "shop:bad", "deploy_id": SECOND}
    killed(**task)
    assert place.fails("image_pull", **task)["reverted"]
    assert place.is_out("deployments", "shop:2") and not place.info()["unfinished"]

    task = {"state": "rolled_back", "rollback_id": BACK}
    killed(**task)
    place.do(**task)
    assert place.is_out("deployments", "shop:1") and not place.info()["unfinished"], "it has gone back too far, or not at all"
    assert not place.do(**task)["changed"]


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
