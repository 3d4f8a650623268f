# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks decide by the ledger's record of deploys: which rollbacks are possible, where a rollback goes, and whether its plan was agreed to.

Pure: no I/O, no Ansible. Deploys are as deploy_ledger_info returns them, the newest first.
"""
from __future__ import annotations

import hashlib
import json
import typing as t

from .databases import color_stopped, held_by_another_layer

Deploy = t.Mapping[str, t.Any]

# The layers of a restore point, by the mode of a rollback that returns to them, in the order in which they go back.
LAYERS = {"data": "dataset", "database": "database", "snapshot": "container", "backup": "compose", "rollout": "rollout"}
# Those in which a release runs, in place.
IN_PLACE = ("container", "compose", "rollout")


def points_of(deploy: Deploy, layer: str) -> t.Sequence[t.Mapping[str, t.Any]]:
    return (deploy.get("restore_points") or {}).get(layer) or []


def restore_points_by_mode(deploys: t.Sequence[Deploy]) -> dict[str, str]:
    """The newest deploy to whose restore points each mode returns. One that was made of what a killed run had left is none: nobody wants to go back
    there, unless it is named (to=). A deploy that went back by itself has taken back all but its databases."""
    ways: dict[str, str] = {}
    # A restore point that was made live is none any more.
    used = {one["back_to"] for one in deploys if points_of(one, "database")}
    for one in deploys:
        if one["back_to"] is None:
            for mode, layer in LAYERS.items():
                stands = one["deploy_id"] not in used if layer == "database" else one["outcome"] != "failed_reverted"
                if stands and mode not in ways and any("half_way" not in (point.get("data") or {}) for point in points_of(one, layer)):
                    ways[mode] = one["deploy_id"]
    return ways


def possible_rollbacks(deploys: t.Sequence[Deploy], previous: t.Mapping[str, t.Any]) -> list[str]:
    """Which other rollbacks are possible when one is not, in words. `previous` is the colour that the load balancers remember, with its release."""
    found = []
    # A colour that does not run holds its release all the same: a restore starts it, and needs no registry.
    for one in deploys:
        if one["outcome"] == "done" and one["back_to"] is None:
            for point in points_of(one, "color")[-1:]:
                if point["digest"] and (point["name"], point["digest"]) == (previous.get("color"), previous.get("release")):
                    found.append(f"to={one['deploy_id']} ({point['name']} with {point['digest']} is started again)")
    found = found[:1] + [f"mode={mode} (before {deploy})" for mode, deploy in restore_points_by_mode(deploys).items()]
    return [*found, "an older release through the whole deploy (mode=full -e release_sha=...)"]


def unfinished_run(deploys: t.Sequence[Deploy], hosts: t.Sequence[str], run: str) -> str:
    """The run that did not come to its end while the hosts changed, in place. From then on nobody knows what they hold, until a deploy is done: a failed
    one is rolled back to that."""
    killed = ""
    for one in deploys:
        if one["deploy_id"] == run:
            continue
        if one["outcome"] in ("done", "failed_not_reverted"):
            break
        # The hosts change as soon as every one of them has its restore point; in a rollback, once its plan is recorded.
        points = next((points for layer in IN_PLACE if (points := points_of(one, layer))), [])
        changes = set(hosts) <= {point["host"] for point in points} or (one["back_to"] and one["phases"])
        if not one["outcome"] and changes:
            killed = one["deploy_id"]
    return killed


def restore_point(deploys: t.Sequence[Deploy], run: str, to: str, mode: str, hosts: t.Mapping[str, t.Sequence[str]]) -> dict[str, t.Any]:
    """The restore point of a rollback. `hosts` has all known hosts (`all`) and those of the colours (`colors`; empty in place)."""
    point = to or restore_points_by_mode(deploys).get(mode, "")
    layers = {layer: points for one in deploys if one["deploy_id"] == point for layer, points in one["restore_points"].items()
              if layer in (*LAYERS.values(), "color") and LAYERS.get(mode, layer) == layer}
    found = dict.fromkeys(one["host"] for layer, points in layers.items() if layer != "color" for one in points)
    # What must not meet the databases is stopped there.
    if "color" in layers or "database" in layers:
        found |= dict.fromkeys(hosts["colors"])
    unknown = [host for host in found if host not in hosts["all"]]
    held = held_by_another_layer(layers)
    if not point:
        refused = f"The ledger names no restore point for mode={mode}."
    elif unknown:
        refused = f"The restore point of {point} lies on {', '.join(unknown)}, which is in none of app_hosts, app_data_hosts and app_databases."
    elif not layers:
        refused = f"The ledger names no restore point for {point}{f' in mode={mode}' if mode in LAYERS else ''}."
    elif {"database", "rollout"} <= set(layers):
        refused = ("Its pods would meet databases that are older than they are while both go back, and nothing stops pods here: go back with mode=rollout "
                   "first, and with mode=database then, with the app scaled down.")
    elif held:
        other = next(name for name, layer in LAYERS.items() if layer in layers and layer != "database")
        refused = (f"{held[0].upper()}{held[1:]}, and the restore point of {point} has both: one would go back over the other. Go back with one of them: "
                   f"-e to={point} -e mode=database, or -e to={point} -e mode={other}.")
    else:
        refused = ""
    earlier = plan_of_unfinished(deploys, point)
    return {"id": point, "layers": layers, "refused": refused,
            # As the inventory has them: the ledger names first who was done first.
            "hosts": [] if refused else [host for host in hosts["all"] if host in found],
            # A rollback to the same point that did not come to its end is gone on with: what it has done is not done again.
            "services": (earlier.get("rollback") or {}).get("services", []),
            "resumes": "rollback" in earlier, "rollback_id": (earlier.get("rollback") or {}).get("id", run),
            "agreed": (earlier.get("rollback") or {}).get("plan_id", "")}


def plan_of_unfinished(deploys: t.Sequence[Deploy], point: str) -> t.Mapping[str, t.Any]:
    """What the last run has noted of its plan, when it was on the way to the same point and was killed, or did not finish."""
    for last in deploys[:1]:
        if last["back_to"] == point and (last["outcome"] or "") in ("", "failed_not_reverted"):
            for phase in reversed(last["phases"]):
                if phase["phase"] == "plan":
                    return phase["data"]
    return {}


def services_refusal(point: t.Mapping[str, t.Any], services: t.Sequence[str]) -> str:
    """Why only these services may not go back to a restore point; nothing when they may, or when all of it goes back."""
    others = [layer for layer in point["layers"] if layer != "compose"]
    if services and others:
        return (f"The restore point of {point['id']} has {', '.join(others)} as well, of which no service is a part: mode=backup leads back in the project "
                "alone, and without services all of it goes back.")
    if point["resumes"] and sorted(services) != sorted(point["services"]):
        of = f"of {', '.join(point['services'])} alone: go on with -e services={','.join(point['services'])}" if point["services"] else \
            "of the whole project: go on without services"
        return f"The unfinished rollback to {point['id']} is {of}."
    return ""


def restore_goal(layers: t.Mapping[str, t.Any], active: str, release: str, has_colors: bool) -> dict[str, t.Any]:
    """What serves at the end of a rollback to these layers, when this colour and this release are active now."""
    places = next((layers[layer] for layer in IN_PLACE if layers.get(layer)), [])
    to = (layers.get("color") or [{}])[-1] if has_colors else {}
    digest = to.get("digest") or ""
    if "name" in to:
        then = digest
    else:   # the data alone leaves the release as it is
        then = release if has_colors or not places else places[-1].get("digest") or ""
    return {"release": then, "color": to.get("name", active), "color_release": digest,
            "flips": "name" in to and (to["name"], digest) != (active, release)}


def restore_target(point: t.Mapping[str, t.Any], read: t.Mapping[str, t.Any], deploys: t.Sequence[Deploy], has_colors: bool,
                   services: t.Sequence[str]) -> dict[str, t.Any]:
    """What is active, what serves at the end (`goal`), and what is stopped (`stops`: a colour, or in place `app`) since it must not meet databases that come
    back. Of which release a project is of which only some services went back, nobody could say."""
    layers = point["layers"]
    goal = {**restore_goal(layers, read["active"], read["release"], has_colors), **({"release": ""} if services else {})}
    if has_colors:
        stops = color_stopped(deploys, point["id"], layers, goal, read["active"])
    else:
        stops = "app" if "database" in layers and ("container" in layers or "compose" in layers) else ""
    return {"before": read["active"], "release_before": read["release"], "color": goal["color"], "goal": goal, "stops": stops}


def layers_here(layers: t.Mapping[str, t.Any], host: str) -> list[dict[str, t.Any]]:
    """The layers that this host holds of a restore point, the newest of each; of databases that of each database, of workloads that of each workload."""
    found = []
    for layer in LAYERS.values():
        newest = {part_of(one.get("data") or {}): one for one in layers.get(layer) or [] if one["host"] == host}
        found += [{"layer": layer, "name": point["name"], "data": point.get("data") or {}} for point in newest.values()]
    return found


def part_of(data: t.Mapping[str, t.Any]) -> str:
    """The database or the workload that a restore point is of; empty where it is of all that the host has in its layer."""
    return str(data.get("database") or data.get("workload") or "")


def joint_plan(plans: t.Sequence[t.Mapping[str, t.Any]], point: str, flip: t.Sequence[str]) -> dict[str, t.Any]:
    """One plan of all hosts' plans, by layer, and of the flip (from, to, release), where there is one. Its id is another one when any part is."""
    parts = [part for plan in plans for part in plan.values()]
    words = [f"back to {point}"] + [f"{part['layer']} {part['host']} {part['seen']}" for part in parts]
    words += [" ".join(["color", *flip])] if flip else []
    digest = hashlib.sha256("\n".join(sorted(words, key=str.lower)).encode()).hexdigest()
    return {"id": f"plan-{digest[:12]}", "parts": parts,
            "accept": sorted({loss["accept"] for part in parts for loss in part["loss"] if loss["accept"]})}


def plan_refusal(plan: t.Mapping[str, t.Any], confirm: t.Any, accept: t.Sequence[str], agreed: str = "") -> str:
    """Why a plan may not be carried out; empty if it was confirmed. A plan that was confirmed for a killed run (`agreed`) counts for the rest of it."""
    given = str(confirm or "").lower()
    consent = "" if given in ("false", "no") else given
    if consent and consent in (plan["id"], agreed) or consent in ("true", "yes") and not set(plan["accept"]) - set(accept):
        return ""
    if consent.startswith("plan-"):
        why = f"confirm names {consent}, and by now the plan is another one: look at it."
    elif consent:
        why = "This would lose more than confirm=true covers."
    else:
        why = "The plan above has to be agreed to."
    words = [str(word) for word in plan["accept"]]
    other = f"-e '{json.dumps({'confirm': True, 'accept': words})}'" if words else "-e confirm=true"
    return f"Nothing was changed. {why} To go on: -e confirm={plan['id']}, or {other}"
