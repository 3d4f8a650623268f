#!/usr/bin/env python3
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make demo` tells: a list of steps, each a playbook as its users run it, and what must be true after it.

Invariant: a step that ends otherwise than it says here, or one request that fails, ends the demo with an exit status of 1.
"""
from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import sys
import textwrap
import time
import typing as t

import paper
from stand import REPORTS, ROOT, STATE, Stand, answered_by, sha, wait


@dataclasses.dataclass
class Step:
    name: str
    serves: str  # colour and version, afterwards
    book: str = "deploy_app"
    version: int = 0
    inputs: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    fails: bool = False
    # A pattern that is in the output. In the inputs of later steps {it} is what its group of that name held, {v5} the id of v5's last
    # deploy, and {last} that of the run before. In notes they stand, too.
    says: str = ""
    kill_at: str = ""  # the task after which the controller is killed
    orders: int = 0  # so many come in afterwards
    notes: tuple[str, ...] = ()


FAST = {"mode": "fast"}
PLAN = "confirm=(?P<it>plan-[0-9a-f]+)"
# A step is one entry here.
SHOP = [
    Step("v1, the first release of all", "green v1", version=1),
    Step("v2, into the idle colour, then made active", "blue v2", version=2),
    Step("v3, which does not start", "blue v2", version=3, fails=True, says="as before",
         notes=("refused from inside: it was never made active, and nobody noticed",)),
    Step("v4, which starts, but lost its health page", "blue v2", version=4, fails=True, says="as before",
         notes=("a probe from outside found it: {answers} answers came from v4, in {seconds:.1f} s, then v2 served again",
                "none of them is in `failed`, which counts requests without a good answer: v4 serves its pages, and only its health page is gone")),
    Step("v5, and its controller is killed half way", "blue v2", version=5, fails=True, kill_at="Fetch the release of each component"),
    Step("v5 again, as if nothing had happened", "blue v2", version=5, fails=True, says=r"take_over:? ?=?(?P<it>\S*\d{8}t\d{6}z-[0-9a-f]{4})",
         notes=("refused: the run that died may still be at work, and holds the lease",)),
    Step("v5 again, told to take over from it", "green v5", version=5, inputs={"take_over": "{it}"}),
    Step("back to what served before", "blue v2", "rollback", inputs=FAST | {"reason": "the demo wants to show it"}),
    Step("and forward again", "green v5", "rollback", inputs=FAST | {"target_color": "green"}),
    Step("what would it cost to undo the deploy of v5?", "green v5", "rollback", inputs={"to": "{v5}"}, fails=True,
         says=PLAN,
         notes=("without consent nothing was done; the plan, with what would be lost:",)),
    Step("that plan, agreed to", "blue v2", "rollback", inputs={"to": "{v5}", "confirm": "{it}"}),
]
# Here with data, of which a part is lost by what was meant to tidy it up.
ORDERS = [
    Step("v1, the first; then 40 orders come in", "v1, 0 orders", version=1, orders=40),
    Step("v2, its migration adds a column", "v2, 40 orders", version=2),
    Step("v3, its migration loses most orders", "v3, 5 orders", version=3, orders=5,
         notes=("it is well, so nobody notices, and 5 orders come in",)),
    Step("what would it cost to undo v3?", "v3, 10 orders", "rollback", inputs={"to": "{v3}"}, fails=True, says=PLAN,
         notes=("without consent nothing was done; the plan, with what would be lost:",)),
    Step("that plan, agreed to", "v2, 40 orders", "rollback", inputs={"to": "{v3}", "confirm": "{it}"}),
    Step("and that undone: the 5 had been kept", "v3, 10 orders", "rollback", inputs={"to": "{last}", "confirm": "true"}),
]


class Teller:
    """Of a shop, or of its orders."""

    def __init__(self, stand: t.Any) -> None:
        self.stand = stand
        self.words: dict[str, str] = {}
        self.requests = self.failed = 0
        self.wrong: list[str] = []

    def tell(self, step: Step) -> None:
        inputs = {name: value.format(**self.words) for name, value in step.inputs.items()}
        if step.version:
            inputs["release_sha"] = sha(step.version)
        begun = time.monotonic()

        def look(task: str) -> None:
            paper.moving(f"  {step.name} ... {time.monotonic() - begun:.0f} s  {task}")
        run = wait(self.stand.start_book(step.book, **inputs), look, step.kill_at)
        took = time.monotonic() - begun
        serves = self.stand.serving()
        self.stand.order(step.orders)
        seen = self.stand.ask_on()
        self.requests += seen.get("requests", 0)
        self.failed += seen.get("failed", 0)
        wrong = self.judge(step, run, serves, seen)
        answers, seconds = answered_by(seen, {"blue": "green", "green": "blue"}.get(serves.split()[0], ""))
        cells = (step.name, f"{took:.1f}", *self.stand.cells(run, seen), serves)
        notes = [note.format(answers=answers, seconds=seconds) for note in step.notes] + (plan_of(run) if step.says == PLAN else [])
        paper.row(cells, notes, not wrong)
        if wrong:
            paper.text(*(f"    NOT AS TOLD: {each}" for each in wrong), *(f"    | {line}" for line in run.output.splitlines()[-40:]))
            self.wrong += wrong

    def judge(self, step: Step, run: t.Any, serves: str, seen: dict[str, t.Any]) -> list[str]:
        wrong = []
        if (run.code != 0) != step.fails:
            wrong.append(f"it ended with {run.code}")
        if serves != step.serves:
            wrong.append(f"{serves} serves, not {step.serves}")
        if seen.get("failed") or seen.get("lost_workers"):
            wrong.append(f"requests failed: {seen['kinds']}")
        found = re.search(step.says, run.output)
        if not found:
            wrong.append(f"it does not say {step.says}")
        else:
            self.words |= found.groupdict()
        self.words["last"] = run.named("List the two hosts of the tasks that run once").result["results"][0]["add_host"]["host_vars"]["flow"]["run"]
        if step.version:
            self.words[f"v{step.version}"] = self.words["last"]
        return wrong

    def all(self, steps: list[Step]) -> bool:
        paper.head(self.stand.HEAD)
        for step in steps:
            self.tell(step)
            if self.wrong:
                break
        return not self.wrong


def plan_of(run: t.Any) -> list[str]:
    """The plan as the operator is shown it, and the sentence that says how to agree to it."""
    told = {task.task: task.result.get("msg") for task in run.tasks if task.task in ("Show the plan", "Refuse a plan that was not confirmed")}
    plan, consent = told.get("Show the plan") or [], str(told.get("Refuse a plan that was not confirmed") or "")
    return [f"  | {line}" for line in plan] + [f"  > {line}" for line in textwrap.wrap(consent, 110)]


def publish(stand: Stand) -> None:
    for number in (1, 2, 5):
        stand.publish(number)
    stand.publish(3, bad="dead")
    stand.publish_forgetful(4)


def epilogue(teller: Teller) -> None:
    stand = teller.stand
    status = stand.run("status")
    paper.title("Where one is, and where one can go (the playbook status)")
    paper.text(*(f"  {line}" for line in status.named("Report the status").result["msg"]) if status.code == 0 else status.output.splitlines())
    if status.code != 0:
        teller.wrong.append("status failed")
    ping, ours = stand.timed()
    paper.text("", f"  A task here takes {ours:.0f} ms, ansible.builtin.ping {ping:.0f} ms (10 of each, just now).")


def reports() -> list[str]:
    """Tells where they are; what is wrong with them."""
    found = sorted(REPORTS.glob("*.md"))
    paper.title("Kept for you: a report of each incident")
    paper.text(*(f"  {path.relative_to(ROOT)}  and as a page: .html" for path in found))
    return [] if found else ["there is no incident report"]


def shop(proxy: str) -> tuple[list[str], list[str]]:
    """Its story: what was not as told, and the words that say how to use it when it stays up."""
    begun = time.monotonic()
    stand = Stand(proxy)
    kept: list[str] = []
    try:
        publish(stand)
        teller = Teller(stand)
        paper.title(f"A shop behind HAProxy {proxy} at {stand.url}, in blue and in green; four people use it without a pause")
        good = teller.all(SHOP)
        stand.leave()
        paper.row(("in all", f"{time.monotonic() - begun:.0f}", f"{teller.requests:,}", str(teller.failed), "", ""), (), not teller.failed)
        if good:
            epilogue(teller)
        if os.environ.get("KEEP") and not teller.wrong:
            kept = stand.keep()
    finally:
        if not kept:
            stand.close()
    return teller.wrong, kept


def orders(why_not: str) -> list[str]:
    """The story with data."""
    if why_not:
        paper.title(f"LEFT OUT: the shop's orders in PostgreSQL, and the way back with data. This machine has no engine for it: {why_not}")
        return []
    from orders import Orders

    paper.moving("  Docker starts")
    with Orders() as stand:
        teller = Teller(stand)
        paper.title("The shop's orders: PostgreSQL in a Compose project, changed in place, after a backup of all of it")
        teller.all(ORDERS)
    return teller.wrong


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for path in REPORTS.glob("*"):
        path.unlink()
    proxy, why_not = sys.argv[1:]
    wrong, kept = shop(proxy)
    wrong = wrong or orders(why_not) or reports()
    if kept:
        paper.title("The shop stays up (KEEP); play with it:")
        paper.text(*(f"  {line}" for line in kept))
    else:
        with contextlib.suppress(OSError):   # what an earlier KEEP has left up is not ours to end
            STATE.rmdir()
        paper.text("", "  Everything that the demo started has ended, and its folder is removed. KEEP=1 leaves the shop up.")
    for each in wrong:
        paper.text(f"demo: NOT AS TOLD: {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
