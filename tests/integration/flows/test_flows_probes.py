# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app is to hold after a deploy (app_probes): probes of well-known services by their names, and its own. In place, and in two colours."""
from __future__ import annotations

import json
import socket
import typing as t
from pathlib import Path

import pytest
from flows import Shop
from gate import Server, answer
from harness import Run
from in_place import Pair
from versions import NEWEST

from releases import sha

RAKE = {"argv": ["gitlab-rake", "gitlab:check", "SANITIZE=true"], "stdout": "Checking GitLab ... Finished\n"}


def own(stop: Path) -> dict[str, t.Any]:
    """Does not hold once the file is there."""
    return {"name": "our own", "kind": "command", "argv": ["test", "!", "-e", str(stop)], "tries": 1}


def said(run: Run, words: str) -> bool:
    return words in " ".join(run.output.split())


@pytest.fixture(name="pair")
def a_pair(one_core: str) -> t.Iterator[Pair]:
    with Pair() as pair:
        pair.core = one_core
        yield pair


def test_in_place(pair: Pair) -> None:
    pair.behave(back_to="2.0", inside=[RAKE])
    # health_gate asks for the node that this machine is.
    pair.tool("patch", str(pair.home), json.dumps({"node": socket.gethostname()}))
    good = pair.deploy("2.0", sha(2))
    assert good.code == 0 and pair.versions == ["2.0", "2.0"], good.output
    taken, stop = len(pair.calls("snapshot")), pair.folder / "stop"
    # At the first look: a name that is none, with those that exist.
    unknown = pair.deploy("3.0", sha(3), app_probes=["gitlap"])
    assert unknown.code == 2 and said(unknown, "app_probes has gitlap: there are gitlab, kubernetes, metrics, metrics_after_rollback, nextcloud, traefik, web"), unknown.output
    assert said(unknown, "Did you mean gitlab?") and "Take the lease" not in {task.task for task in unknown.tasks}, unknown.output
    # Before anything is changed: what a list cannot do without.
    lacking = pair.deploy("3.0", sha(3), app_probes=["gitlab"])
    assert lacking.code == 2 and "health_probes_gitlab_" in lacking.output and len(pair.calls("snapshot")) == taken, lacking.output

    with Served("GitLab OK") as url:
        asked = {"app_probes": ["gitlab", own(stop)], "health_probes_gitlab_url": url, "health_probes_gitlab_vmid": "{{ pct_app_vmid }}"}
        bad = pair.deploy("3.0", sha(3), app_hooks={"migrate": [str(touching(pair.folder, stop))]}, **asked)
        assert bad.code == 2 and (pair.outcome, pair.versions) == ("failed_reverted", ["2.0", "2.0"]), bad.output
        assert said(bad, "1 of 4 probes failed: our own") and len(pair.calls("snapshot")) > taken, bad.output
        # Back, they are asked again, and what they say is said.
        again = "APP_PROBES DO NOT ALL HOLD, although it is back:"
        assert said(bad, f"pve1: {again}") and said(bad, f"pve2: {again}"), bad.output
        stop.unlink()
        checked = pair.deploy("3.0", sha(3), "--check", **asked)
        assert checked.code == 0 and pair.versions == ["2.0", "2.0"], checked.output
        good = pair.deploy("3.0", sha(3), **asked)
        assert good.code == 0 and (pair.outcome, pair.versions) == ("done", ["3.0", "3.0"]), good.output
        # They are asked after a rollback as well, which goes on when they hold.
        stop.touch()
        bad = pair.run("rollback", mode="snapshot", confirm=True, **asked)
        assert bad.code == 2 and pair.outcome == "failed_not_reverted" and said(bad, "1 of 4 probes failed: our own"), bad.output
        assert pair.versions == ["2.0", "2.0"], bad.output
        stop.unlink()
        pair.good("rollback", mode="snapshot", confirm=True, **asked)
        assert pair.versions == ["2.0", "2.0"]


class Served:
    """A service that always says the same."""

    def __init__(self, text: str) -> None:
        self._server = Server(answer(text))

    def __enter__(self) -> str:
        return self._server.url.rstrip("/")

    def __exit__(self, *_: object) -> None:
        self._server.close()


def touching(folder: Path, stop: Path) -> Path:
    file = folder / "touch.yml"
    file.write_text(f"- name: Touch it\n  ansible.builtin.file: {{path: {stop}, state: touch}}\n")
    return file


def test_in_two_colors(tmp_path: Path) -> None:
    """After the flip; then HAProxy leads back."""
    with Shop(tmp_path) as shop:
        stop = shop.folder / "stop"
        shop.vars["app_probes"] = [own(stop)]
        for number in (1, 2):
            shop.publish(number)
        first = shop.deploy(1, core=NEWEST)
        assert first.code == 0 and shop.serves() == ("green", sha(1)), first.output
        bad = shop.deploy(2, app_hooks={"after_flip": [["touch", str(stop)]]})
        assert bad.code == 2 and said(bad, "1 of 1 probe failed: our own") and shop.serves() == ("green", sha(1)), bad.output
        # Back, they are asked again: what has touched it is not taken back by a flip.
        assert said(bad, "shop staging: APP_PROBES DO NOT ALL HOLD, although it is back: 1 of 1 probe failed: our own"), bad.output
        bad = shop.deploy(2, app_hooks={"after_flip": [["touch", str(stop)]], "after_rollback": [["rm", str(stop)]]})
        assert bad.code == 2 and shop.serves() == ("green", sha(1)) and said(bad, "shop staging: app_probes hold again."), bad.output
        good = shop.deploy(2)
        assert good.code == 0 and shop.serves() == ("blue", sha(2)), good.output
