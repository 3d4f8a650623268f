# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of what a person gives a playbook, and of an app's variables. Pure: no I/O, no Ansible.

What somebody has typed into a forge comes here as it is. `\\Z` ends each pattern, since `$` lets a newline at the end through.
"""
from __future__ import annotations

import difflib
import re
import typing as t

STRATEGIES = ("host", "incus", "compose_colors", "pct", "compose", "kube")
MODES = ("fast", "full", "snapshot", "data", "database", "backup", "rollout")
COLORS = ("blue", "green")
CAPTURES = ("always", "migrations")
REHEARSALS = ("migrations", "always", "never")
# What an entry of app_databases may say; but for on_host, options of postgres_restore_point.
OF_A_DATABASE = ("database", "on_host", "host", "port", "user", "os_user", "programs", "maintenance_database", "jobs", "work_dir", "swap_timeout",
                 "task_timeout", "state_dir", "clone_owner", "checks")
# The lists of the role health_probes, by what stands behind `health_probes_`.
PROBES = ("gitlab", "kubernetes", "metrics", "metrics_after_rollback", "nextcloud", "traefik", "web")
# What a component of kind static may not say.
OF_A_PROCESS = ("port", "command", "unit", "probe", "proof", "health", "env", "user", "listens", "release_field", "release_header")
# Those whose role can start a component with the flip.
WITH_WORKERS = ("host", "incus", "compose_colors")
FLIP_HOOKS = ("before_flip", "after_flip")
HOOKS = ("before", "migrate", *FLIP_HOOKS, "smoke", "verify", "after_rollback", "downgrade")
NAME = r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z"
SERVICE = r"[A-Za-z0-9][A-Za-z0-9._-]*\Z"
DEPLOY_ID = r"[0-9]{8}t[0-9]{6}z-[0-9a-f]{4}\Z"
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
LONGEST = 80
Given = t.Mapping[str, t.Any]
# The variables of an app's file, and what the playbooks and roles make of them.
OF_AN_APP = (
    "app_name", "app_hosts", "app_components", "app_envs", "app_strategy", "app_datasets", "app_data_hosts", "app_databases", "app_database_capture",
    "app_rehearse", "app_rehearse_env", "app_load_balancers", "app_ledger_host", "app_ledger_path", "app_map", "app_prove", "app_error_budget",
    "app_target_timeout", "app_outside", "app_outside_host", "app_probes", "app_probes_deadline", "app_hooks", "app_hooks_host", "app_hook_timeout",
    "app_hold", "app_hold_hosts", "app_hold_backends", "app_hold_stats_socket", "app_metrics_file", "app_release_url")
MADE = ("app_active", "app_captured", "app_color", "app_env", "app_observed", "app_outcome", "app_release_previous", "app_release_sha", "app_reverted",
        "app_unpacked")


def wrong_inputs(given: Given, wanted: t.Sequence[str], groups: t.Mapping[str, t.Any]) -> list[str]:
    """All that is wrong, a sentence each. `given` has each input, or nothing for it; and what playbooks derive from them."""
    hosts = [host for name in ("app_hosts", "app_load_balancers", "app_data_hosts") for host in listed(given[name])]
    hosts += [one["on_host"] for one in listed(given["app_databases"]) if isinstance(one, t.Mapping) and one.get("on_host")]
    return [
        *name_of("env", given["env"], "env is missing: the environment, such as staging or prod (-e env=staging)"),
        *name_of("app_name", given["app_name"], "app_name is missing: the app; its variables come from a file of yours (-e @shop.yml)"),
        *(f"the inventory has {name}, which is what this run calls a host or group of its own: name it otherwise" for name in given["taken"]),
        *([f"deploy_id is {typed(given['deploy_id'])}, and this ansible-playbook has had a run before this one: leave it out, so that each has an id of "
           "its own"] if given["has_own_id"] else []),
        *wrong_names(given["names"]),
        *wrong_app(given),
        *(f"{host} is not in the inventory" for host in dict.fromkeys([*hosts, given["app_ledger_host"] or "localhost"])
          if host not in groups["all"] and host != "localhost"),
        *wrong_strategy(given),
        *wrong_databases(given["app_databases"], given["gaps"].get("app_databases", "")),
        *one_of("app_rehearse", given["app_rehearse"], REHEARSALS, "migrations (if it can be), always (or no deploy), or never"),
        *wrong_rehearse_env(given["app_rehearse_env"]),
        *one_of("app_database_capture", given["app_database_capture"], CAPTURES, "always, or migrations (only by a deploy that has some)"),
        *wrong_workers(given),
        *wrong_static(given),
        *wrong_probes(given.get("app_probes"), given["gaps"].get("app_probes", "")),
        *(wrong_hooks(given) if "release_sha" in wanted else []),
        *wrong_release(given["release_sha"], "release_sha" in wanted),
        *one_of("target_color", given["target_color"], COLORS, "blue or green, or nothing for the idle one"),
        *one_of("color", given["color"] or ("missing" if "color" in wanted else None), COLORS, "blue or green"),
        *one_of("mode", given["mode"], MODES, "fast, full, snapshot, data, database, backup or rollout"),
        *id_of("deploy_id", given["deploy_id"], "an id such as 20261121t084500z-7f3a"),
        *id_of("to", given["to"], "the id of a deploy, such as 20261121t084500z-7f3a"),
        *id_of("take_over", given["take_over"], "the id of the run that holds the lease, such as 20261121t084500z-7f3a"),
        *id_of("unlock", given["unlock"], "the id of the run after which deploys are locked, such as 20261121t084500z-7f3a"),
        *wrong_consent(given["confirm"], given["accept"]),
        *(["reason is missing: what whoever meets the lock should read (-e reason=...)"] if "reason" in wanted and not given["reason"] else []),
        *wrong_services(given, wanted),
        *line_of("reason", given["reason"]),
        *line_of("by", given["by"]),
    ]


def wrong_env(env: t.Any, envs: t.Any, wanted: t.Sequence[str]) -> list[str]:
    """Whether the app may be deployed to this environment. Apart from `wrong_inputs`: where no map of the app's variables has the environment as a key,
    nothing else of them can be read. Only deploys are refused (they want a release): an environment may be taken from the list while it serves."""
    if not envs or "release_sha" not in wanted:
        return []
    if not listed(envs) or not all(isinstance(one, str) and re.match(NAME, one) for one in envs):
        return [f"app_envs is {typed(envs)}: expected a list of environments, such as [staging, prod]"]
    if not env or env in envs:
        return []
    return [f"env is {typed(env)}: the app is for {', '.join(envs)}; whoever wants it in another environment adds that to app_envs"]


def typed(value: t.Any) -> str:
    """What a person has typed, on one line, and not all of it."""
    line = re.sub(f"{CONTROL}+", " ", str(value))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def listed(value: t.Any) -> t.Sequence[t.Any]:
    return value if isinstance(value, t.Sequence) and not isinstance(value, str) else ()


def name_of(name: str, value: t.Any, missing: str) -> list[str]:
    if not value:
        return [missing]
    if isinstance(value, str) and re.match(NAME, value):
        return []
    return [f"{name} is {typed(value)}: expected letters in lower case, digits, '.', '_', '-'"]


def id_of(name: str, value: t.Any, expected: str) -> list[str]:
    return [f"{name} is {typed(value)}: expected {expected}"] if value and not re.match(DEPLOY_ID, str(value)) else []


def one_of(name: str, value: t.Any, words: t.Sequence[str], expected: str) -> list[str]:
    return [f"{name} is {typed(value)}: expected {expected}{guess(value, words)}"] if value and value not in words else []


def guess(value: t.Any, words: t.Sequence[str]) -> str:
    """Which of the words somebody may have meant."""
    near = difflib.get_close_matches(str(value)[:LONGEST], words, n=1)
    return f". Did you mean {near[0]}?" if near else ""


def line_of(name: str, value: t.Any) -> list[str]:
    if not value or isinstance(value, str) and len(value) <= 500 and not re.search(CONTROL, value):
        return []
    return [f"{name} is {typed(value)}: expected one line of at most 500 characters"]


def wrong_names(names: t.Sequence[str]) -> list[str]:
    """Variables that nobody reads, and that are a slip of the finger away from one of an app: it would leave out a proof, a hook or a way back without a
    word. Others are the user's own."""
    def meant(name: str) -> str:
        near = (own for own in OF_AN_APP if own[:5] == name[:5] and slips(name, own) <= (2 if len(name) > 8 else 1))
        return "" if name in OF_AN_APP + MADE else next(near, "")
    return [f"{name} is read by nobody: did you mean {near}? A variable of your own needs another name" for name in names if (near := meant(name))]


def slips(typed_name: str, right: str) -> int:
    """How many letters are missing, wrong or too many."""
    row = list(range(len(right) + 1))
    for at, letter in enumerate(typed_name, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(right, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != other))
    return row[-1]


def wrong_app(given: Given) -> list[str]:
    found, needed = [], {"app_hosts": "the hosts that the app runs on, as a list of names in the inventory"}
    if given["has_colors"]:
        needed["app_components"] = "what the app is made of, as a list"
    for name, gap in given["gaps"].items():
        if gap and name in needed:
            found.append(f"{name} cannot be read: {gap} on localhost, where inputs are checked: a variable of a host is not known there "
                         "(hostvars['app1'].the_variable is)")
    found += [f"{name} is missing: {what}" for name, what in needed.items() if not given["gaps"][name] and not listed(given[name])]
    return found


def wrong_strategy(given: Given) -> list[str]:
    if given["strategy"] not in STRATEGIES:
        return [f"app_strategy is {typed(given['strategy'])}: expected host, incus, compose_colors, pct, compose or kube"]
    if given["strategy"] == "kube" and len(listed(given["app_hosts"])) > 1:
        return ["app_hosts has several hosts, and app_strategy is kube: expected the one that kubectl runs on, since the workloads are there once"]
    if given["has_colors"] and not given["app_load_balancers"]:
        return ["app_load_balancers is missing: the hosts with HAProxy, which says what colour is active"]
    return []


def wrong_databases(value: t.Any, gap: str) -> list[str]:
    if gap:
        return [f"app_databases cannot be read: {gap} on localhost, where inputs are checked: a variable of a host is not known there "
                "(hostvars['db1'].the_variable is)"]
    if value and not listed(value):
        return [f"app_databases is {typed(value)}: expected a list, such as [{{database: shop}}]"]
    found, seen = [], set()
    for one in listed(value):
        if not isinstance(one, t.Mapping):
            found.append(f"app_databases has {typed(one)}: expected a dictionary, such as {{database: shop, on_host: db1}}")
            continue
        found += [f"app_databases has {typed(name)}, which is no option of a database: there are {', '.join(OF_A_DATABASE)}{guess(name, OF_A_DATABASE)}"
                  for name in one if name not in OF_A_DATABASE]
        name = one.get("database")
        if not isinstance(name, str) or not name or len(name.encode()) > 63 or re.search(CONTROL, name):
            found.append(f"app_databases has an entry whose database is {typed(name) if name else 'missing'}: expected its name, of at most 63 bytes")
        # A restore point is known by its host and its database.
        key = (one.get("on_host") or "", str(name))
        if key in seen:
            found.append(f"app_databases has {typed(name)} twice on {key[0] or 'the first of app_hosts'}: expected each database of a host once")
        seen.add(key)
    return found


def wrong_rehearse_env(value: t.Any) -> list[str]:
    if not value or isinstance(value, t.Mapping) and all(re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", str(name)) for name in value):
        return []
    return ["app_rehearse_env is no dictionary of variables of the environment: expected such as {PGDATABASE: '{shop}'}, where {shop} stands for the clone"]


def wrong_workers(given: Given) -> list[str]:
    """Components without a port. Whatever else a component has is checked by its role."""
    found = []
    for component in listed(given["app_components"]):
        if not isinstance(component, t.Mapping):
            continue
        at, proof = f"app_components, {typed(component.get('name'))}:", component.get("proof")
        if component.get("kind") != "worker":
            if given["strategy"] == "host" and component.get("kind") != "static" and not component.get("port"):
                found.append(f"{at} port is missing: a port for each colour, such as {{blue: 8081, green: 8082}}; only kind worker and static have none")
            if given["strategy"] == "incus" and component.get("kind") != "static" and not component.get("port"):
                found.append(f"{at} port is missing: the one on which it listens in its container, such as 8080; only kind worker has none")
            continue
        if given["strategy"] not in WITH_WORKERS:
            found.append(f"{at} kind worker is for the strategies {', '.join(WITH_WORKERS[:-1])} and {WITH_WORKERS[-1]}, and app_strategy is "
                         f"{typed(given['strategy'])}")
        if component.get("port"):
            found.append(f"{at} a worker has no port: leave it out, or say kind http or tcp")
        if given["strategy"] == "incus" and (early := [name for name in ("tasks", "inside") if name in component]):
            found.append(f"{at} the container of a worker does not run before the flip, so it has no {', '.join(early)}: take files, and proof")
        if given["strategy"] == "compose_colors" and isinstance(proof, t.Mapping) and "file" in proof:
            found.append(f"{at} proof by file is not for the strategy compose_colors: take command, which is run in the worker's container, or log")
        elif proof is not None and not is_proof(proof):
            found.append(f"{at} proof is {typed(proof)}: expected command, a list of words that begins with the absolute path of a program or with "
                         "{current}; or file, an absolute path or one in {current}; or log, a text that a line of its log has")
    return found


def wrong_static(given: Given) -> list[str]:
    """Components of files, which have no process."""
    found, components = [], [one for one in listed(given["app_components"]) if isinstance(one, t.Mapping)]
    for component in components:
        at, files = f"app_components, {typed(component.get('name'))}:", component.get("static_files")
        if component.get("kind") != "static":
            if files is not None:
                found.append(f"{at} static_files is for kind static alone: leave it out")
            continue
        if given["strategy"] != "host":
            found.append(f"{at} kind static is for the strategy host alone, and app_strategy is {typed(given['strategy'])}: let a component with a port serve "
                         "the files, so that they go with its colour")
        if of_processes := [name for name in OF_A_PROCESS if name in component]:
            found.append(f"{at} kind static has no process, so it has no {', '.join(of_processes)}: leave that out, or say kind http, tcp or worker")
        if files is not None and (not listed(files) or not all(is_below(file) for file in files)):
            found.append(f"{at} static_files is {typed(files)}: expected a list of paths in the release, such as [index.html, assets/shop.js]")
    kinds = {one.get("kind") for one in components}
    needs_port = given["strategy"] == "host" and "static" in kinds or given["strategy"] in ("incus", "compose_colors") and "worker" in kinds
    if needs_port and not kinds - {"static", "worker"}:
        found.append("app_components has no component with a port: the colour that HAProxy leads to is the active one, and workers and static files follow it")
    return found


def is_below(path: t.Any) -> bool:
    return isinstance(path, str) and path != "" and not path.startswith("/") and ".." not in path.split("/") and not re.search(CONTROL, path)


def is_proof(proof: t.Any) -> bool:
    if not isinstance(proof, t.Mapping) or len(proof) != 1:
        return False
    if "log" in proof:
        return isinstance(proof["log"], str) and bool(proof["log"].strip()) and not re.search(CONTROL, proof["log"])
    command = listed(proof.get("command"))
    place = proof.get("file") or (command[0] if command else "")
    return isinstance(place, str) and place.startswith(("/", "{current}/"))


def wrong_probes(value: t.Any, gap: str) -> list[str]:
    if gap:
        return [f"app_probes cannot be read: {gap} on localhost, where inputs are checked: a variable of a host is not known there "
                "(hostvars['app1'].the_variable is)"]
    if value and not listed(value):
        return [f"app_probes is {typed(value)}: expected a list, such as [{PROBES[0]}]"]
    found = []
    for one in listed(value):
        if isinstance(one, t.Mapping):
            if not one.get("name") or not one.get("kind"):
                found.append(f"app_probes has {typed(one)}: expected name and kind, as in ansible-doc reversible.deploy.health_gate")
        elif one not in PROBES:
            found.append(f"app_probes has {typed(one)}: there are {', '.join(PROBES)}; or a probe of your own, with name and kind{guess(one, PROBES)}")
    return found


def wrong_hooks(given: Given) -> list[str]:
    """Names under which nothing would ever be run. `hooks` are the names alone: what stands below them may be readable on other hosts only."""
    return [*(f"app_hooks has {typed(name)}: expected {', '.join(HOOKS)}" for name in given["hooks"] if name not in HOOKS),
            *(f"app_hooks has {name}, and {given['strategy']} changes the app in place, where nothing is flipped: leave it out"
              for name in given["hooks"] if name in FLIP_HOOKS and not given["has_colors"])]


def wrong_release(value: t.Any, is_wanted: bool) -> list[str]:
    if not value:
        return ["release_sha is missing: the release, a commit SHA of 40 hex characters"] if is_wanted else []
    if re.match(r"[0-9a-f]{40}\Z", str(value)):
        return []
    return [f"release_sha is {typed(value)}: expected 40 hex characters in lower case, got {len(str(value))}"]


def wrong_services(given: Given, wanted: t.Sequence[str]) -> list[str]:
    """Of a rollback to a restore point. Elsewhere somebody may have a variable of that name."""
    services = listed(given.get("services"))
    if not services or "mode" not in wanted or given["mode"] in ("fast", "full") and not given["to"]:
        return []
    if given["strategy"] != "compose" or given["mode"] not in ("backup", "fast"):
        return [f"services is {typed(', '.join(map(str, services)))}: only a Compose project that is changed in place (app_strategy compose) goes back in "
                "part, with mode=backup or to=; leave it out (-e services= where it is a variable of yours)"]
    return [f"services has {typed(name)}: expected names of services, such as web,worker" for name in services if not re.match(SERVICE, str(name))]


def wrong_consent(confirm: t.Any, accept: t.Any) -> list[str]:
    found = []
    if confirm and not re.match(r"(true|false|yes|no|plan-[0-9a-f]{12})\Z", str(confirm).lower()):
        found.append(f"confirm is {typed(confirm)}: expected true, false, or the id of the plan that was shown, such as plan-3f9a0c5512de")
    if accept and (not isinstance(accept, t.Iterable) or isinstance(accept, (str, t.Mapping))):
        found.append(f"accept is {typed(accept)}: expected a list, such as -e '{{\"accept\": [\"newer_snapshots\"]}}'")
    elif accept and not all(re.match(r"[a-z_]+\Z", str(word)) for word in accept):
        found.append(f"accept is {typed(', '.join(map(str, accept)))}: expected the words that the plan names, of letters and '_', such as newer_snapshots")
    return found
