# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy decides about the rehearsal of its migrations on clones of its restore points: whether there is one, and what it has shown. Pure: no I/O,
no Ansible.
"""
from __future__ import annotations

import re
import typing as t

Seen = t.Mapping[str, t.Any]
Results = t.Sequence[Seen]

# How many differences a message names one by one.
SHOWN = 8
# What a downgrade need not take back: some tools note it as a further migration.
REVISIONS = "revisions"


def rehearsal_plan(mode: str, databases: Results, env: Seen, hooks: Seen, check_mode: bool) -> dict[str, t.Any]:
    """Whether the migrations are rehearsed first, and why not, in a sentence. V(always) refuses a deploy whose migrations cannot be.

    >>> rehearsal_plan("migrations", [{"database": "shop", "clone_owner": "try"}], {"PGDATABASE": "{shop}"}, {"migrate": [["up"]]}, False)["goes"]
    True
    >>> rehearsal_plan("always", [{"database": "shop"}], {"PGDATABASE": "{shop}"}, {"migrate": [["up"]]}, False)["refused"][:27]
    'The migrations of this depl'
    """
    none = {"goes": False, "downgrades": bool(hooks.get("downgrade")), "skipped": "", "refused": ""}
    if mode == "never" or check_mode or not databases or not hooks.get("migrate"):
        return none
    lacking = lacking_for(databases, env, hooks)
    if not lacking:
        return none | {"goes": True}
    if mode == "always":
        return none | {"refused": f"The migrations of this deploy cannot be rehearsed, and app_rehearse is always. {lacking}"}
    return none | {"skipped": f"The migrations are not rehearsed on a copy of the data first. {lacking} Or say app_rehearse: never."}


def lacking_for(databases: Results, env: Seen, hooks: Seen) -> str:
    """What has to be set before a rehearsal is possible."""
    name = databases[0]["database"]
    files = [step for hook in ("migrate", "downgrade") for step in hooks.get(hook) or [] if isinstance(step, str)]
    if files:
        return f"{files[0]} is a file of tasks: only commands, as lists of arguments, are told by the environment which database to connect to."
    if not env:
        return (f"Set app_rehearse_env: the variables by which the hook migrate is told where to connect, such as "
                f"{{DATABASE_URL: 'postgresql://rehearsal@db1/{{{name}}}'}}, where {{{name}}} stands for the clone of {name}.")
    unnamed = [one["database"] for one in databases if not any(f"{{{one['database']}}}" in str(value) for value in env.values())]
    if unnamed:
        return f"No variable of app_rehearse_env has {{{unnamed[0]}}}, which stands for the clone of {unnamed[0]}."
    ownerless = [one["database"] for one in databases if not one.get("clone_owner")]
    if ownerless:
        return (f"Set clone_owner in the entry of {ownerless[0]} in app_databases: a role that may log in, and cannot connect to {ownerless[0]}.")
    return ""


def no_room_to_rehearse(result: Seen, mode: str) -> str:
    """Why there is no rehearsal, if the clone did not fit and a deploy without one is wanted then; else nothing."""
    failed = [one for one in result.get("results") or [result] if one.get("failed", True)]
    if mode == "always" or not failed or any(one.get("reason") != "no_space" for one in failed):
        return ""
    return f"The migrations are not rehearsed on a copy of the data first: there is no room for it. {failed[0].get('msg') or ''}".strip()


def rehearsal_env(env: Seen, clones: Results) -> dict[str, str]:
    """The environment of a hook that is rehearsed: C({shop}) stands for the clone of the database C(shop). Other braces are the value's own.

    >>> rehearsal_env({"URL": "db/{shop}?x={y}"}, [{"database": "shop", "clone": "shop__rehearsal_1"}])
    {'URL': 'db/shop__rehearsal_1?x={y}'}
    """
    names = {one["database"]: one["clone"] for one in clones}
    return {name: re.sub(r"\{([^{}]+)\}", lambda found: names.get(found[1], found[0]), str(value)) for name, value in env.items()}


def databases_cloned(made: Results) -> list[dict[str, str]]:
    """Of each database its restore point and its clone, by their names."""
    return [{"database": one["database_one"]["database"], "point": one["restore_point"], "clone": one["clone"]} for one in made if one.get("clone")]


def clones_compared(clones: Results, live: Results) -> list[dict[str, t.Any]]:
    """How each clone differs from its restore point, what its checks said, and a digest of the schema of the live database."""
    return [{"database": one["database_one"]["database"], "differences": one["schema"]["differences"], "more": one["schema"]["more"],
             "checks": one.get("checks") or [], "live": other["schema"]["digests"][0]} for one, other in zip(clones, live)]


def rehearsal_verdict(plan: Seen, seen: Seen) -> dict[str, t.Any]:
    """What a rehearsal has shown. `seen` has what was compared C(before) anything ran, when it had C(migrated), and at the end (C(after)), each by host;
    C(seconds) of each hook, and the C(failure) that ended it.

    V(ok) is whether the deploy goes on; V(live) whether the live database was changed.
    """
    reached = reached_live(seen)
    if reached:
        return verdict(False, f"A HOOK HAS CHANGED THE LIVE DATABASE {', '.join(reached)} while it was rehearsed: its schema is not what it was before. It "
                       "connects by something else than the variables of app_rehearse_env. This deploy stops. Look at what was changed; the restore point of "
                       "this deploy is from before it.", live=True)
    failure = seen.get("failure") or ""
    unread = sorted(set(databases_of(seen, "before")) - set(databases_of(seen, "after")))
    if unread:
        return verdict(False, f"The rehearsal of the migrations ended without a look at the live database ({', '.join(unread)}), so it is not known whether "
                       f"its schema is what it was. {failure}".strip())
    if failure:
        return verdict(False, f"The rehearsal of the migrations on a copy of the data failed, and the live databases were not touched: {failure}")
    failed = [f"{database}: {check['name']}: {told(check)}" for database, one in databases_of(seen, "migrated").items()
              for check in one["checks"] if not check["passed"]]
    if failed:
        return verdict(False, "After the rehearsal of the migrations on a copy of the data a check does not hold, and the live databases were not touched: "
                       + "; ".join(failed))
    seconds = seen.get("seconds") or {}
    changes = [part for one in databases_of(seen, "migrated").values() for part in one["differences"]]
    works = f"The migration works on your data: {spent(seconds.get('migrate'))}"
    if not changes:
        works += (". It changed no schema and no table in which migrations are noted: there was nothing to migrate, or the hook does not read the "
                  "variables of app_rehearse_env")
    if not plan["downgrades"]:
        return verdict(True, f"{works}. Irreversible: there is no hook downgrade, so the restore point is the only way back.")
    left = [f"{database}: {named(one)}" for database, one in databases_of(seen, "after").items() if defined(one)]
    if left:
        return verdict(False, f"The migration works on a copy of the data ({spent(seconds.get('migrate'))}), but the hook downgrade does not lead back to "
                       f"the schema from before it, and the live databases were not touched: {'; '.join(left)}")
    return verdict(True, f"{works}; the downgrade is proven: {spent(seconds.get('downgrade'))}.")


def verdict(ok: bool, says: str, live: bool = False) -> dict[str, t.Any]:
    return {"ok": ok, "says": says, "live": live}


def databases_of(seen: Seen, moment: str) -> dict[str, t.Any]:
    """What was compared then, by host and database."""
    return {f"{one['database']} on {host}": one for host, found in (seen.get(moment) or {}).items() for one in found}


def reached_live(seen: Seen) -> list[str]:
    """The live databases whose schema is another one than before."""
    before = databases_of(seen, "before")
    return sorted({name for moment in ("migrated", "after") for name, one in databases_of(seen, moment).items()
                   if name in before and one["live"] != before[name]["live"]})


def defined(one: Seen) -> list[Seen]:
    """The differences of a schema itself."""
    return [part for part in one["differences"] if part["kind"] != REVISIONS]


def named(one: Seen) -> str:
    """Such as V(columns: public.orders.paid is additional)."""
    parts = defined(one)
    more = len(parts) - SHOWN + one["more"] if len(parts) > SHOWN else one["more"]
    words = [f"{part['kind']}: {part['name']} {'is additional' if part['first'] is None else 'is missing' if part['second'] is None else 'is another one'}"
             for part in parts[:SHOWN]]
    return ", ".join([*words, *([f"and {more} more"] if more else [])])


def told(check: Seen) -> str:
    return check["error"] or f"expected {check['expected']}, got {'null' if check['got'] is None else check['got']}"


def spent(seconds: t.Any) -> str:
    return f"{max(1, round(float(seconds or 0)))} s"
