# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a run goes, what it leaves, and whether it is back: what `deploy@<app>-<env>` and `way-back@<app>-<env>` note in their fact `flow`. Pure: no I/O,
no Ansible.
"""
from __future__ import annotations

import re
import typing as t

from .run_progress import Facts, hosts_reached

Seen = t.Mapping[str, t.Any]
OTHER = {"blue": "green", "green": "blue"}
UNKNOWN = "an unrecorded release"
COMMIT = re.compile(r"[0-9a-f]{40}")


def deploy_goal(read: Seen, app: Seen) -> dict[str, t.Any]:
    """`color` that the release goes into, `before` and `release_before` of what is active, `nothing_to_do` when that is this release already. `refused` says
    why it cannot go there, and `says` what it takes. In place there is no colour."""
    active, serves, release = read["active"], read["release"], app["release"]
    color = (app["target_color"] or OTHER.get(active, "blue")) if app["has_colors"] else ""
    notes = {"color": color, "before": active, "release_before": serves, "nothing_to_do": serves == release and not app["again"], "refused": ""}
    if app["has_colors"] and color == active:
        notes["refused"] = f"{color} is active and serves {serves or UNKNOWN}; a deploy goes to the idle colour: leave target_color out."
    if notes["nothing_to_do"]:
        says = (f"{app['name']}: {release} is active already{f' ({active})' if color else ''}; -e again=true deploys it again"
                f"{f' into {color}' if color else ''}.")
    elif color:
        says = f"{release} goes into {color}. " + (f"A rollback returns to {active}, which serves {serves or UNKNOWN}." if active
                                                   else "Nothing serves yet, so there is no way back from it.")
        previous = read["previous"]
        if previous.get("open") and previous.get("color") == color and previous.get("release"):
            says += (f" It takes the place of {previous['release']}, to which the fast way back leads until then; afterwards mode=full leads there.")
    else:
        says = "In place: a rollback uses the restore point of this deploy."
    return {**notes, "says": says}


def fast_goal(reading: Seen, target: str, goes_on: bool) -> dict[str, t.Any]:
    """`color` and `release` that a fast rollback goes to by what the load balancers say together (`load_balancers`), and what it leaves; `left_out` are those
    that do not answer. `refused` says why it is not possible. A run that goes on with what an earlier one has not finished may go to what is active."""
    goal, previous, split = reading["goal"], reading["previous"], reading["ends_split"]
    refused = ""
    if not split and (reading["back_refused"] or (goal == reading["active"] and not goes_on) or not (target or previous.get("open"))):
        closed = f"A fast rollback is not possible: {previous.get('why') or 'no earlier colour is known'}."
        refused = reading["back_refused"] or (f"{goal} is active already." if goal and goal == reading["active"] else closed)
    return {
        "refused": refused, "left_out": reading["silent"], "color": goal, "release": reading["goal_release"],
        # Out of a split there is no colour to go back to, and nothing says which side is bad.
        "before": "" if split else reading["active"], "release_before": "" if split else reading["release"],
        "void": reading["void"] if split else bool(previous.get("open")),
    }


def fast_opened(recorded: Seen, reading: Seen) -> dict[str, t.Any]:
    """What the ledger adds to it when the lease is taken: migrations that stay, why it could not record the run. `refused` when it says that the colour has
    another release now, newer than what the load balancers remember: a deploy whose controller was killed has left it there, and it may well answer."""
    goal, release = reading["goal"], reading["goal_release"]
    taken = (recorded.get("taken") or {}).get(goal) or {}
    known = next((one.get("deploy_id") for one in reading["history"] if one.get("color") == goal), "") or ""
    refused = ""
    if release and (taken.get("release") or "") not in ("", release) and taken["deploy_id"] > known:
        refused = f"A fast rollback is not possible: {goal} served {release}, and since then {taken['deploy_id']} has put {taken['release']} there."
    return {"refused": refused, "stays": recorded.get("stays") or [], "unrecorded": recorded.get("unrecorded") or ""}


def came_back(hosts: t.Sequence[str], facts: Facts, run: str, looked: t.Sequence[Seen], load_balancers: t.Sequence[str],
              before: str | None) -> dict[str, t.Any]:
    """`reverted_all`: what served before serves on every load balancer (`before`; None where nobody was asked yet, so that nothing was touched, or in place).
    `now`: what they serve, `serves`: each. `not_reverted`: hosts that were changed in place and are not back."""
    says = [one.get("active", "unknown") or "" for one in looked]
    reverted = hosts_reached(hosts, facts, "reverted", run)
    not_reverted = [host for host in hosts_reached(hosts, facts, "changes", run) if host not in reverted]
    return {"serves": dict(zip(load_balancers, says)), "now": " and ".join(dict.fromkeys(says)), "not_reverted": not_reverted,
            "reverted_all": (before is None or set(says) == {before}) and not not_reverted}


def run_summary(noted: Seen, run: Seen) -> list[str]:
    """What a run that is done ends with, for a person: what serves now, how to go back from it, and what that costs."""
    color, before = noted.get("color") or "", noted.get("before") or ""
    rollback = f"ansible-playbook reversible.deploy.rollback -e @... -e env={run['env']}"
    if run["kind"] not in ("deploy", "rollback", "clean-up") or noted.get("nothing_to_do"):
        return []   # a restore test shows its own results, and that a release is active already was said
    if run["kind"] == "clean-up":
        return [f"{run['name']}: {run['color']} is stopped, and its logs are kept. A rollback to its release is a whole deploy now: {rollback} -e mode=full"]
    serves = f"{color} serves {short(run['release']) or UNKNOWN}" if color else f"{short(run['release']) or UNKNOWN} serves"
    whole = f"{rollback} -e to={run['deploy_id']}"
    if point := noted.get("point"):
        return [f"{run['name']} is in the state before {point['id']} again{f': {serves}' if color else ''}.", f"To undo this: {whole}"]
    says = [f"{run['name']}: {serves} ({run['kind']} {run['deploy_id']})."]
    if run["kind"] == "rollback":
        if color and before:
            says.append(f"To undo this: {rollback} -e mode=fast -e target_color={before}")
        return says
    older = short(noted.get("release_before") or "")
    if color and older:
        says.append(f"To go back to {before} ({older}): {rollback} -e mode=fast. No data is lost."
                    + (" The migrations of this release stay in the database." if noted.get("migrations") else ""))
    elif color:
        says.append("There is no earlier release to go back to: " + (f"none is recorded for {before}." if before else "nothing served before."))
    if run["captured"] or not color:
        says.append(f"To restore {'the data as it was' if color else 'the state'} before it{f' ({older})' if older and not color else ''}: {whole}. "
                    "With --check this shows what has been written since and would be lost.")
    return says


def short(release: str) -> str:
    """A commit by its first twelve characters; a version as it is.

    >>> short("4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a"), short("2026.11.21-1")
    ('4f2a9c1e0b7d', '2026.11.21-1')
    """
    return release[:12] if COMMIT.fullmatch(release) else release
