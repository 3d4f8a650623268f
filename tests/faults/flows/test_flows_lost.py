# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back while a load balancer, or the ledger, is dead: whoever is left goes back, and who comes back later is made to agree."""
from __future__ import annotations

import json
import typing as t

import pytest
from flows import TwoEdges
from harness import Run
from releases import sha

OLD, NEW, NEWER = ("green", sha(1)), ("blue", sha(2)), ("blue", sha(3))


@pytest.fixture(name="two")
def two_load_balancers(tmp_path) -> t.Iterator[TwoEdges]:
    with TwoEdges(tmp_path) as two:
        for number in (1, 2, 3):
            two.publish(number)
        for number in (1, 2):
            run = two.deploy(number)
            assert run.code == 0, run.output
        yield two


def words(run: Run) -> str:
    return " ".join(run.output.split())


def status(two: TwoEdges) -> tuple[dict[str, t.Any], str]:
    file = two.folder / "status.json"
    run = two.run("status", status_file=str(file))
    assert run.code == 0, run.output
    return json.loads(file.read_text()), words(run)


def test_going_back_without_a_load_balancer_and_without_the_ledger(two: TwoEdges) -> None:
    outcome = two.folder / "outcome"
    assert two.both() == [NEW, NEW]

    # HAProxy is down on one: a deploy refuses, and a rollback goes on without it.
    two.second.stop()
    refused = two.deploy(3)
    assert refused.code == 2 and "Not every load balancer answers. lb2: " in refused.output and two.serves() == NEW, refused.output
    back = two.run("rollback", mode="fast", outcome_file=str(outcome))
    assert back.code == 0 and two.serves() == OLD and outcome.read_text() == "done\n", back.output
    assert "lb2 DOES NOT ANSWER AND WAS NOT FLIPPED" in words(back) and "-e mode=fast -e target_color=green" in words(back), back.output
    [flip] = two.ledger()["deploys"][0]["phases"]
    assert flip["phase"] == "flip" and list(flip["data"]["not_flipped"]) == ["lb2"], flip
    two.second.start()
    assert two.both() == [OLD, NEW]

    # It comes back with the bad release: whoever looks, or wants anything, is told so.
    told, said = status(two)
    assert told["split"].endswith("target_color=green.") and "SPLIT: The load balancers do not serve the same colour: green on lb1, blue on lb2." in said, said
    for run in (two.run("rollback", mode="fast"), two.deploy(3)):
        assert run.code == 2 and "Make them agree first: rollback with mode=fast and target_color=green." in words(run), run.output
    ended = two.run("rollback", mode="fast", target_color="green")
    assert ended.code == 0 and two.both() == [OLD, OLD], ended.output
    third = two.deploy(3)
    assert third.code == 0 and two.both() == [NEWER, NEWER], third.output
    before = len(two.ledger()["deploys"])

    # The first one's host is lost, and the ledger was there. No deploy then; a rollback, and nobody records it.
    lost = two.lost("lb1")
    lost.touch()
    closed = two.deploy(2)
    assert closed.code != 0 and two.both() == [NEWER, NEWER], closed.output
    point = two.run("rollback", mode="snapshot")
    assert point.code == 2 and "Only the ledger on lb1 knows the restore points and the release in place, and it does not answer" in words(point), point.output
    back = two.run("rollback", mode="fast", outcome_file=str(outcome))
    assert back.code == 0 and two.both() == [NEWER, OLD] and outcome.read_text() == "done\n", back.output
    for said in ("THE LEDGER ON lb1 DOES NOT ANSWER, SO THIS ROLLBACK IS NOT RECORDED", "lb1 DOES NOT ANSWER AND WAS NOT FLIPPED"):
        assert said in words(back), back.output
    lost.unlink()
    assert len(two.ledger()["deploys"]) == before

    # The load balancers remember it: deploys are locked until somebody names it, and the next run records it.
    told, said = status(two)
    rollback = told["locked"]["deploy_id"]
    assert told["split"].endswith("target_color=green.") and f"-e unlock={rollback}" in words(back), back.output
    locked = two.deploy(2, unlock="")
    assert locked.code == 2 and f"pass unlock: {rollback}" in words(locked) and two.both() == [NEWER, OLD], locked.output
    ended = two.run("rollback", mode="fast", target_color="green")
    assert ended.code == 0 and two.both() == [OLD, OLD], ended.output
    newest, found = two.ledger()["deploys"][:2]
    assert (found["deploy_id"], found["purpose"], found["outcome"], found["color"]) == (rollback, "rollback", "done", "green"), found
    assert newest["purpose"] == "rollback" and len(two.ledger()["deploys"]) == before + 2
    # What was bad stays so on the one that was away.
    again = two.run("rollback", mode="fast")
    assert again.code == 2 and "which is void" in words(again) and two.both() == [OLD, OLD], again.output
