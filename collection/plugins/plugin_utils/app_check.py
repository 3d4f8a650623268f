# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook `check` shows: the app as its file and the inventory make it, each host, and by what a deploy would be refused now. Pure: no I/O, no
Ansible.

Only what was seen in this run counts, and what was not seen is a refusal: a check that is silent about a host has not checked it.
"""
from __future__ import annotations

import re
import typing as t

from .run_progress import notes_of

Facts = t.Mapping[str, t.Mapping[str, t.Any]]
Seen = t.Mapping[str, t.Any]

CLOCK_WORTH_TELLING = 5       # seconds; the way there and back is in it
CLOCK_REFUSED = 24 * 60 * 60  # a fence takes no deploy id from over a day ahead of its clock
USERS = re.compile(r'\("([^"]+)",pid=(\d+)')


def listeners(text: str) -> dict[int, str]:
    """Who listens on which port, by `ss -Hltnp`. A program of another user stands there without a name when the one who asks is not root."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[0] != "LISTEN" or not words[3].rpartition(":")[2].isdigit():
            continue
        users = USERS.search(line)
        found[int(words[3].rpartition(":")[2])] = f"{users[1]} (pid {users[2]})" if users else "a program that ss does not name"
    return found


def app_ports(components: t.Sequence[Seen]) -> dict[int, str]:
    """What each port is for: `web blue`. A component may have no port, one, or one for each colour."""
    ports: dict[int, str] = {}
    for one in components:
        given = one.get("port")
        for color, port in given.items() if isinstance(given, t.Mapping) else [("", given)]:
            if str(port or "").isdigit():
                ports[int(port)] = f"{one.get('name')} {color}".strip()
    return ports


def app_check(app: Seen, run: str, once: Seen, facts: Facts) -> dict[str, list[str]]:
    """`lines`: the table. `refusals`: by what a deploy would be refused, each with what it is about."""
    lines, refusals = [f"{app['name']} {app['env']}, strategy {app['strategy']}, ansible-core {app['ansible']}"], []
    for title, value in app["view"].items():
        lines.append(f"  {title}: {_words(value)}")
    for ledger_line, refusal in (_ledger(app, once), _colors(app, once)):
        lines += ledger_line
        refusals += refusal
    for host in app["hosts"]:
        seen = facts.get(host) or {}
        if seen.get("check_in") != run:
            why = seen.get("check_failure") if seen.get("check_failed_in") == run else ""
            lines.append(f"{host}: CANNOT BE USED: {why or 'it does not answer; Ansible says above why'}")
            refusals.append(f"{host}: {why or 'it does not answer'}")
            continue
        more, refused = _host(host, app, run, seen)
        lines += [f"{host}: {line}" for line in more]
        refusals += [f"{host}: {why}" for why in refused]
    lines += [f"REFUSED by {each}" for each in refusals]
    lines.append(f"A deploy would be refused ({len(refusals)})." if refusals else "Nothing that was looked at would refuse a deploy.")
    return {"lines": lines, "refusals": refusals}


def _words(value: t.Any) -> str:
    if isinstance(value, t.Mapping):
        return ", ".join(f"{key} {_words(each)}".strip() for key, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(each) for each in value) or "none"
    return str(value if value not in (None, "") else "none")


def _ledger(app: Seen, once: Seen) -> tuple[list[str], list[str]]:
    ledger = once.get("check_ledger") or {}
    where = f"ledger on {app['ledger_host']}"
    if "deploys" not in ledger:
        why = str(ledger.get("msg") or "no answer")
        return [f"{where}: DOES NOT ANSWER: {why}"], [f"the {where}: {why}"]
    lines, refusals = [f"{where}: {len(ledger['deploys'])} of its deploys read"], []
    holder, locked = ledger.get("holder"), ledger.get("locked")
    if holder:
        lines.append(f"{where}: {holder.get('deploy_id')} is open, by {holder.get('by') or 'somebody'}")
        refusals.append(f"the lease: {holder.get('deploy_id')} is open; wait for its end, or, when it was killed, give -e take_over={holder.get('deploy_id')}")
    if locked and locked.get("deploy_id") != app["unlock"]:
        lines.append(f"{where}: deploys are locked by {locked.get('deploy_id')}: {locked.get('why') or 'no reason was given'}")
        refusals.append(f"the lock of {locked.get('deploy_id')}; whoever has seen why gives -e unlock={locked.get('deploy_id')}")
    return lines, refusals


def _colors(app: Seen, once: Seen) -> tuple[list[str], list[str]]:
    """The load balancers, or in place the release that is there."""
    flow = once.get("flow") or {}
    lines, refusals = [], [f"what is active: {flow['active_failure']}"] if flow.get("active_failure") else []
    versions = {str(one.get("check_host")): one for one in (once.get("check_haproxy") or {}).get("results") or []}
    for one in (once.get("color_switch_looked") or {}).get("results") or [] if app["has_colors"] else []:
        host = str(one.get("color_switch_host"))
        version = re.search(r"version (\S+)", str(versions.get(host, {}).get("stdout") or ""))
        program = f"HAProxy {version[1]}" if version else "HAProxy, its version is not known"
        state = f"DOES NOT ANSWER: {one.get('msg') or 'no answer'}" if "active" not in one else f"{one['active'] or 'no colour'} is active"
        lines.append(f"{host}: {program}: {state}")
        lines += [f"{host}: DRIFT: {drift}" for drift in one.get("drift") or []]
    if not refusals:
        target = f"; a deploy goes into {flow.get('color')}" if app["has_colors"] else ""
        lines.append(f"active: {flow.get('before') or 'nothing'}, release {flow.get('release_before') or 'not known'}{target}"
                     if app["has_colors"] else f"release: {flow.get('release_before') or 'not known'}")
    return lines, refusals


def _host(host: str, app: Seen, run: str, seen: Seen) -> tuple[list[str], list[str]]:
    lines, refusals = [f"answers, as {str(seen.get('check_user') or '').strip() or 'a user without a name'}"], []
    apart = int(seen.get("check_apart") or 0)
    if abs(apart) >= CLOCK_WORTH_TELLING:
        lines.append(f"CLOCK: {abs(apart)} s {'ahead of' if apart > 0 else 'behind'} this machine's")
    if apart <= -CLOCK_REFUSED:
        refusals.append(f"its clock is {-apart} s behind: it refuses deploy ids from over a day ahead; set it right")
    if docker := str(seen.get("check_docker") or "").strip():
        lines.append(f"Docker {docker}")
    there = listeners(str(seen.get("check_listening") or ""))
    if app["strategy"] == "host" and host in app["app_hosts"] and app_ports(app["components"]) and not seen.get("check_listens"):
        lines.append("ports: NOT LOOKED AT: ss cannot be run there")
    for port, use in sorted(app_ports(app["components"]).items()) if seen.get("check_listens") and host in app["app_hosts"] else []:
        lines.append(f"port {port} ({use}): {'free' if port not in there else 'held by ' + there[port]}")
    if host in app["app_hosts"]:
        notes = notes_of(seen.get("flow"), run)
        if notes.get("can_be_deployed_to"):
            lines.append(f"ready: {seen.get('check_asked_for') or 'room and what the role needs'}")
        elif seen.get("check_left_out"):
            lines.append(f"NOT LOOKED AT: {seen['check_left_out']}")
        else:
            refusals.append(str(notes.get("failure") or "its look did not come to its end"))
            lines.append(f"NOT READY: {refusals[-1]}")
    return lines, refusals
