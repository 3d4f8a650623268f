# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the load balancers of an app say together: which colour serves, where a fast rollback leads, and why a run must not touch them. Pure: no I/O, no
Ansible.

A deploy wants an answer of every one of them. A rollback goes on with those that answer, since nobody is to be kept on a bad release by a load
balancer that serves nobody.
"""
from __future__ import annotations

import typing as t

Looked = t.Mapping[str, t.Any]


def load_balancers(looked: t.Sequence[Looked], strategy: str, has_colors: bool, target: str = "") -> dict[str, t.Any]:
    """When they agree, the first that answers speaks for all: active, release, previous, history. Else `disagree` says why a deploy may do nothing, and
    `back_refused` why a rollback may not. For a fast rollback: `goal`, the colour that it goes to, and `goal_release`, since whoever knows the colour knows
    its release: when the load balancers are split, one calls it active, and another one previous. `ends_split`: the colour that is named becomes active on
    all that answer. `void`: one of them knows that what another one serves is bad."""
    answering = [one for one in looked if "active" in one]
    silent = {str(one.get("color_switch_host")): str(one.get("msg") or "no answer") for one in looked if "active" not in one}
    first = answering[0] if answering else {}
    previous = first.get("previous") or {}
    goal = target or previous.get("color") or ""
    split = _split(answering)
    disagree = back_refused = "" if has_colors else f"The strategy {strategy} has no colours."
    if has_colors and silent:
        disagree = "Not every load balancer answers. " + _each(silent)
    elif has_colors:
        disagree = split
    if has_colors and not answering:
        back_refused = "No load balancer answers. " + _each(silent) if silent else "The app has no load balancer."
    elif has_colors and not target:
        back_refused = split
    return {
        "active": first.get("active") or "", "release": first.get("release") or "", "previous": previous, "history": first.get("history") or [],
        "goal": goal, "goal_release": _release_of(answering, goal), "disagree": disagree, "back_refused": back_refused, "split": split,
        "ends_split": bool(has_colors and target and split), "void": bool(split and _known_as_void(answering, goal)), "silent": silent,
        "flips": [entry for one in answering for entry in one.get("history") or []],
    }


def _each(silent: t.Mapping[str, str]) -> str:
    return "; ".join(f"{host}: {why}" for host, why in silent.items())


def _split(answering: t.Sequence[Looked]) -> str:
    """Why they do not agree, and how they come to. What was flipped last is on the load balancer that remembers the newest run."""
    active = [one["active"] or "" for one in answering]
    if len(set(active)) < 2:
        return ""
    says = ", ".join(f"{color or 'no colour'} on {one.get('color_switch_host')}" for color, one in zip(active, answering))
    histories = [one["history"] for one in answering if one.get("history")]
    newest, *before = max(histories, key=lambda history: history[0].get("deploy_id") or "", default=[{}])
    last = f" The last run that flipped is {newest['deploy_id']}, to {newest['color']}." if newest.get("deploy_id") else ""
    # A rollback leaves what is void. Which side of a deploy that was killed is to serve, a person knows.
    went_back = before and before[0].get("verdict") == "void"
    named = newest["color"] if last and went_back else "<the colour that is to serve>"
    return (f"The load balancers do not serve the same colour: {says}.{last} "
            f"Make them agree first: rollback with mode=fast and target_color={named}.")


def _sides(one: Looked) -> list[tuple[str, str]]:
    previous = one.get("previous") or {}
    return [(one.get("active") or "", one.get("release") or ""), (previous.get("color") or "", previous.get("release") or "")]


def _release_of(answering: t.Sequence[Looked], color: str) -> str:
    return next((release for one in answering for held, release in _sides(one) if held == color and release), "")


def _known_as_void(answering: t.Sequence[Looked], goal: str) -> bool:
    """Whether a release that is left now was marked as void elsewhere, when a load balancer could not be reached."""
    leaves = {(one["active"], one.get("release")) for one in answering if one["active"] not in (goal, None, "")}
    newest: list[tuple[str, str | None, str]] = []
    for one in answering:
        for color in ("blue", "green"):
            newest += [(color, entry.get("release"), entry.get("verdict")) for entry in one.get("history") or [] if entry.get("color") == color][:1]
    return any(verdict == "void" and (color, release) in leaves and release for color, release, verdict in newest)
