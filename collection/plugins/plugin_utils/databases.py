# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks and the role `database` decide about an app's databases: where they are, what going back costs, what must be stopped before they are
swapped, and what is kept. Pure: no I/O, no Ansible.

`app_databases` is a list of dictionaries: `database` and `on_host`, the rest are options of postgres_restore_point.
"""
from __future__ import annotations

import re
import typing as t

Seen = t.Mapping[str, t.Any]
Results = t.Sequence[Seen]

# How many tables a plan names one by one.
TABLES_SHOWN = 20


def database_hosts(databases: t.Sequence[Seen], app_hosts: t.Sequence[str]) -> list[str]:
    """The hosts with the app's databases, each once: by default the first host of the app."""
    return list(dict.fromkeys(one.get("on_host") or app_hosts[0] for one in databases))


def databases_here(databases: t.Sequence[Seen], host: str, app_hosts: t.Sequence[str]) -> list[dict[str, t.Any]]:
    """Those on this host, as options of the module."""
    return [{name: value for name, value in one.items() if name != "on_host"} for one in databases if (one.get("on_host") or app_hosts[0]) == host]


def captured_hosts(hosts: t.Sequence[str], capture: str, hooks: t.Mapping[str, t.Any]) -> list[str]:
    """The hosts whose databases a deploy captures. V(migrations) does without where the deploy has none."""
    return list(hosts) if capture == "always" or hooks.get("migrate") else []


def databases_seen(asked: Results, host: str) -> dict[str, t.Any]:
    """What postgres_restore_point_info said of each database, together."""
    found, is_open, parked = [], [], []
    for one in asked:
        points = [{name: point[name] for name in ("deploy_id", "database", "time", "bytes", "seconds", "ready_to_roll_back", "why", "written")}
                  for point in one["restore_points"]]
        found.append({"database": one["database_one"]["database"], "oid": (one["live"] or {}).get("oid"), "bytes": (one["live"] or {}).get("bytes"),
                      "restore_points": points, "parked": one["parked"], "unfinished": one.get("unfinished") or ""})
        is_open += [point["database"] for point in points if point["ready_to_roll_back"]]
        parked += [state["database"] for state in one["parked"]]
    return {"layer": "database", "host": host, "databases": found, "colors": {},
            # By the names of the databases that they are: of several, two have the same deploy.
            "rollbacks": {"swap": {"points": [point["database"] for one in found for point in one["restore_points"]], "open": is_open}, "parked": parked}}


def databases_captured(made: Results, host: str, deploy: str) -> dict[str, t.Any]:
    """The restore points, as the ledger records them."""
    points = [{"host": host, "name": one["restore_point"],
               "data": {"database": one["database_one"]["database"]} | ({"storage": one["storage"]} if one.get("storage") else {})}
              for one in made if one.get("restore_point")]
    return {"layer": "database", "host": host, "deploy_id": deploy, "points": points}


def held_by_another_layer(layers: t.Mapping[str, Results]) -> str:
    """The database whose files another layer of the same restore point takes back as well, and which that is, in words; nothing where none is known to.
    Where a server's files lie is known when it was seen on the host of its restore point."""
    for point in layers.get("database") or []:
        data = point.get("data") or {}
        for place in (data.get("storage") or {}).get("places") or []:
            found = holder(place, point["host"], layers)
            if found:
                return f"the database {data['database']} lies in {found}"
    return ""


def holder(place: Seen, host: str, layers: t.Mapping[str, Results]) -> str:
    # A dataset by its name, on whatever host: one host may be a container of the other.
    for point in layers.get("dataset") or []:
        if place["filesystem"] == "zfs" and place["source"] in ((point.get("data") or {}).get("datasets") or []):
            return f"the dataset {place['source']}"
    for point in layers.get("container") or []:
        vmid = ((point.get("data") or {}).get("holds") or {}).get("vmid")
        if point["host"] == host or vmid and re.search(rf"(^|[^0-9])(subvol|vm|basevol|base)-+{vmid}-+disk", place["source"]):
            return f"the container {vmid or host}"
    for point in layers.get("compose") or []:
        for source in ((point.get("data") or {}).get("holds") or {}).get("sources") or []:
            if source and point["host"] == host and f"{place['path']}/".startswith(f"{source.rstrip('/')}/"):
                return f"{source} of the Compose project"
    return ""


def database_costs(plan: Seen, database: str) -> list[str]:
    """What a rollback of a database costs, in sentences. Nothing is destroyed: it is parked, and no longer live."""
    if not plan["plan"]:
        return []
    costs = written_since(plan.get("written"), database, (plan.get("parked") or {}).get("database"))
    if plan.get("sessions"):
        costs.append(f"ended, and to connect again: {', '.join(plan['sessions'])}")
    return costs


def written_since(written: Seen | None, database: str, parked: str | None) -> list[str]:
    """What is no longer live once a database is back: by table where rows were compared."""
    kept = f"no longer live, and kept{f' in {parked}' if parked else ''}"
    if written is None:
        return [f"{kept}: what was written to {database} since is not counted: PostgreSQL's counters say nothing about it"]
    tables = sorted(written["tables"].items(), key=lambda item: (-sum(item[1]), item[0]))
    why = written.get("estimates") or {}
    if written.get("exact") or why:
        costs = [f"{table}: {'about ' if table in why or '*' in why else ''}{rows_of(*counts)} since; {kept}" for table, counts in tables[:TABLES_SHOWN]]
        more = tables[TABLES_SHOWN:]
        if more:
            costs.append(f"{len(more)} more tables: {rows_of(*(sum(counts[kind] for _table, counts in more) for kind in range(3)))} since; {kept}")
        costs += [f"{database if table == '*' else table} was not compared row by row: {reason}" for table, reason in sorted(why.items())]
        return costs or [f"nothing was written to {database} since"]
    counts = [written[kind] for kind in ("inserted", "updated", "deleted")]
    if not any(counts):
        return [f"{kept}: nothing that was written to {database} since is known"]
    names = [table for table, _counts in tables]
    where = f", in {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else ""
    return [f"{kept}: about {rows_of(*counts)} of {database} since (an estimate){where}"]


def rows_of(inserted: int, updated: int, deleted: int) -> str:
    """Such as V(5 inserted, 2 deleted rows)."""
    named = [f"{count} {kind}" for count, kind in ((inserted, "inserted"), (updated, "updated"), (deleted, "deleted")) if count]
    return f"{', '.join(named)} row{'' if inserted + updated + deleted == 1 else 's'}"


def color_stopped(deploys: t.Sequence[Seen], point: str, layers: t.Mapping[str, t.Any], goal: Seen, active: str) -> str:
    """The colour whose processes must not meet the databases when they are back: the one that is left, or that of a deploy which was never made active.
    None where only the databases go back, and the release that serves stays."""
    if "database" not in layers:
        return ""
    if goal["flips"]:
        return active
    other = {"blue": "green", "green": "blue"}.get(goal["color"], "")
    return other if any(one["deploy_id"] == point and one["outcome"] != "done" for one in deploys) else ""


def no_database_swapped(before: t.Mapping[str, t.Any], asked: Results) -> bool:
    """Whether every database is still the one that it was (`before`, by OID, which templates of older versions of Ansible make text of)."""
    now = {one["database"]: str(one["oid"]) for one in asked}
    return bool(before) and all(now.get(name) == str(oid) for name, oid in before.items())


def retained_ids(databases: Results, keep: t.Sequence[str]) -> list[str]:
    """What must not be removed, as ids. The ledger names the databases that they are."""
    named = {}
    for one in databases:
        named |= {point["database"]: point["deploy_id"] for point in one["restore_points"]} | {state["database"]: state["id"] for state in one["parked"]}
    return sorted({named.get(one, one) for one in keep})


def databases_reverted(done: Results, host: str, rollback: str) -> dict[str, t.Any]:
    """What became of a rollback, as the ledger records how it can be undone. A run that goes on with a killed one has swapped nothing itself, and
    finds what that has parked."""
    points = []
    for one in done:
        parked = one.get("parked") or next((state for state in (one.get("after") or {}).get("parked") or [] if state["id"] == rollback), None)
        if parked:
            points.append({"host": host, "name": parked["database"], "data": {"database": one["database_one"]["database"], "parked": parked["id"]}})
    return {"layer": "database", "host": host, "changed": any(one.get("changed") for one in done), "points": points}


def unusable_points(databases: Results) -> list[str]:
    """The newest restore points that one cannot go back to, and why, in sentences."""
    newest = [(one["database"], newest_point(one)) for one in databases]
    return [f"the newest restore point of {name}, {point['database']}, cannot be restored: {', '.join(point['why'])}"
            for name, point in newest if point and not point["ready_to_roll_back"]]


def drill_results(made: Results, before: Results) -> list[dict[str, t.Any]]:
    """What a drill has proven of each database. The copy goes again where there was a restore point before it: never the last one."""
    had = {one["database"]: bool(one["restore_points"]) for one in before}
    return [{"database": one["database_one"]["database"], "options": one["database_one"], "copy": one["restore_point"],
             "seconds": round(sum(step["seconds"] for step in one.get("steps") or []), 1), "newest": newest_point(seen).get("deploy_id", ""),
             "removed": had[seen["database"]]} for one, seen in zip(made, before)]


def newest_point(seen: Seen) -> dict[str, t.Any]:
    """The newest restore point of a database; empty when there is none."""
    return max(seen["restore_points"], key=lambda point: (point["time"], point["deploy_id"]), default={})
