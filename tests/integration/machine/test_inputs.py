# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the playbooks' inputs, each case in no time; that every playbook refuses them is seen in test_typed_inputs.py."""
from __future__ import annotations

import importlib.util
import re
import typing as t

import pytest
from harness import ROOT

SPEC = importlib.util.spec_from_file_location("inputs", ROOT / "collection/plugins/plugin_utils/inputs.py")
assert SPEC and SPEC.loader
inputs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(inputs)

GROUPS = {"all": ["app1", "lb1"]}
ID = "20261121t084500z-7f3a"
GOOD = dict.fromkeys(("release_sha", "target_color", "color", "mode", "deploy_id", "to", "take_over", "unlock", "confirm", "accept", "reason", "by"), "") | {
    "env": "staging", "app_name": "shop", "app_hosts": ["app1"], "app_components": [{"name": "web", "port": 80}], "app_load_balancers": ["lb1"],
    "app_data_hosts": [], "app_databases": [], "app_database_capture": "", "app_rehearse": "", "app_rehearse_env": {},
    "app_ledger_host": "", "strategy": "host", "has_colors": True, "taken": [], "has_own_id": False, "hooks": [], "names": [],
    "gaps": {"app_hosts": "", "app_components": ""}}


@pytest.mark.parametrize("given", [
    {}, {"release_sha": "a" * 40}, {"mode": "data"}, {"to": ID, "take_over": ID, "unlock": ID, "deploy_id": ID}, {"confirm": True}, {"confirm": "No"},
    {"confirm": "plan-3f9a0c5512de"}, {"accept": ["newer_snapshots"]}, {"reason": "x" * 500}, {"target_color": "green", "color": "blue"},
    {"strategy": "pct", "has_colors": False, "app_components": [], "app_load_balancers": []}, {"app_ledger_host": "lb1"},
    {"app_databases": [{"database": "My \"Shop\""}, {"database": "bill", "on_host": "lb1", "port": 5433}, {"database": "shop", "on_host": "lb1"}]},
    {"app_database_capture": "migrations", "mode": "database"},
    {"app_rehearse": "always", "app_rehearse_env": {"DATABASE_URL": "postgres:///{shop}"}}, {"env": "a", "app_name": "a.b_c-d" + "e" * 56 + "9"}], ids=str)
def test_what_is_right(given: dict[str, t.Any]) -> None:
    assert inputs.wrong_inputs(GOOD | given, [], GROUPS) == []


def test_a_name_that_was_mistyped_is_no_option_left_out() -> None:
    typos = {"app_proof": "app_prove", "app_hook": "app_hooks", "app_outsid": "app_outside", "app_databsses": "app_databases", "app_host": "app_hosts",
             "app_error_buget": "app_error_budget", "app_leger_host": "app_ledger_host"}
    assert inputs.wrong_names(list(typos)) == [
        f"{wrong} is read by nobody: did you mean {right}? A variable of your own needs another name" for wrong, right in typos.items()]
    assert inputs.wrong_names([*inputs.OF_AN_APP, "app_port", "app_ports", "app_user", "app_home", "app_image", "app_data_dir", "app_domain", "app_mail"]) == []


def test_no_name_of_our_own_is_taken_for_a_typo() -> None:
    used = {name for folder in ("playbooks", "roles") for file in (ROOT / folder).rglob("*.yml") for name in re.findall(r"\bapp_[a-z_]+", file.read_text())}
    assert {"app_hold_stats_socket", "app_observed"} <= used and inputs.wrong_names(sorted(used)) == []
    assert set(inputs.OF_AN_APP) <= used, "nobody reads it any more"


@pytest.mark.parametrize("given, said", [
    ({"env": ""}, "env is missing"),
    ({"env": "Prod"}, "env is Prod: expected letters in lower case"),
    ({"env": "a\n"}, "env is a : expected"),
    ({"env": 5}, "env is 5: expected"),
    ({"app_name": ""}, "app_name is missing"),
    ({"app_name": "-a"}, "app_name is -a: expected"),
    ({"app_name": "a" * 65}, "app_name is aaa"),
    ({"taken": ["deploy@shop-staging"]}, "the inventory has deploy@shop-staging"),
    ({"has_own_id": True, "deploy_id": ID}, f"deploy_id is {ID}, and this ansible-playbook has had a run before"),
    ({"gaps": {"app_hosts": "'port' is undefined", "app_components": ""}}, "app_hosts cannot be read: 'port' is undefined on localhost"),
    ({"app_hosts": []}, "app_hosts is missing"),
    ({"app_hosts": "app1"}, "app_hosts is missing"),
    ({"app_components": []}, "app_components is missing"),
    ({"app_components": [{"name": "web"}]}, "app_components, web: port is missing"),
    ({"app_hosts": ["app1", "app9"]}, "app9 is not in the inventory"),
    ({"app_load_balancers": ["lb9"]}, "lb9 is not in the inventory"),
    ({"app_ledger_host": "lb9"}, "lb9 is not in the inventory"),
    ({"strategy": "docker"}, "app_strategy is docker: expected host"),
    ({"app_load_balancers": []}, "app_load_balancers is missing"),
    ({"release_sha": "main"}, "release_sha is main: expected 40 hex characters in lower case, got 4"),
    ({"release_sha": "a" * 40 + "\n"}, "release_sha is aaa"),
    ({"target_color": "red"}, "target_color is red: expected blue or green, or nothing"),
    ({"color": "red"}, "color is red: expected blue or green"),
    ({"mode": "slow"}, "mode is slow: expected fast, full"),
    ({"mode": "databse"}, "mode is databse: expected fast, full, snapshot, data, database, backup or rollout. Did you mean database?"),
    ({"app_databases": "shop"}, "app_databases is shop: expected a list, such as [{database: shop}]"),
    ({"app_databases": ["shop"]}, "app_databases has shop: expected a dictionary"),
    ({"app_databases": [{"database": "shop", "on_hosts": "lb1"}]}, "app_databases has on_hosts, which is no option of a database: there are database, on_host"),
    ({"app_databases": [{"on_host": "lb1"}]}, "app_databases has an entry whose database is missing: expected its name"),
    ({"app_databases": [{"database": "ü" * 32}]}, "app_databases has an entry whose database is üüü"),
    ({"app_databases": [{"database": "shop\n"}]}, "app_databases has an entry whose database is shop : expected"),
    ({"app_databases": [{"database": 5}]}, "app_databases has an entry whose database is 5: expected its name"),
    ({"app_databases": [{"database": "shop"}, {"database": "shop", "port": 1}]}, "app_databases has shop twice on the first of app_hosts: expected"),
    ({"app_databases": [{"database": "shop", "on_host": "db9"}]}, "db9 is not in the inventory"),
    ({"gaps": {"app_hosts": "", "app_components": "", "app_databases": "'port' is undefined"}}, "app_databases cannot be read: 'port' is undefined"),
    ({"app_rehearse": "sometimes"}, "app_rehearse is sometimes: expected migrations (if it can be), always (or no deploy), or never"),
    ({"app_rehearse_env": ["DATABASE_URL"]}, "app_rehearse_env is no dictionary"),
    ({"app_rehearse_env": {"A-B": "x"}}, "app_rehearse_env is no dictionary"),
    ({"app_database_capture": "migration"}, "app_database_capture is migration: expected always, or migrations"),
    ({"deploy_id": "now"}, "deploy_id is now: expected an id"),
    ({"to": ID + "0"}, f"to is {ID}0: expected the id of a deploy"),
    ({"take_over": "yes"}, "take_over is yes"),
    ({"unlock": "yes"}, "unlock is yes"),
    ({"confirm": "plan-1"}, "confirm is plan-1: expected true, false"),
    ({"accept": "newer"}, "accept is newer: expected a list, such as -e '{\"accept\": [\"newer_snapshots\"]}'"),
    ({"accept": ["newer", "A!"]}, "accept is newer, A!: expected the words"),
    ({"reason": "a\nb"}, "reason is a b: expected one line"),
    ({"reason": "x" * 501}, f"reason is {'x' * 80}...: expected one line"),
    ({"by": ["me"]}, "by is ['me']: expected one line"),
], ids=str)
def test_what_is_wrong(given: dict[str, t.Any], said: str) -> None:
    found = inputs.wrong_inputs(GOOD | given, [], GROUPS)
    assert len(found) == 1 and found[0].startswith(said) and "\n" not in found[0], found


WORKER = {"name": "mail", "kind": "worker"}


@pytest.mark.parametrize("given, said", [
    ({}, []), ({"proof": {"command": ["/bin/works"]}}, []), ({"proof": {"file": "{current}/done"}}, []),
    ({"proof": {"log": "is ready"}}, []), ({"proof": {"log": " "}}, ["app_components, mail: proof is "]),
    ({"proof": {"log": "a", "file": "/done"}}, ["app_components, mail: proof is "]),
    ({"port": {"blue": 1, "green": 2}}, ["app_components, mail: a worker has no port"]),
    ({"proof": {"command": "/bin/works"}}, ["app_components, mail: proof is "]), ({"proof": {"file": "done"}}, ["app_components, mail: proof is "]),
    ({"proof": {"file": "/done", "command": ["/bin/works"]}}, ["app_components, mail: proof is "]), ({"proof": {}}, ["app_components, mail: proof is {}"]),
], ids=str)
def test_what_a_worker_may_be(given: dict[str, t.Any], said: list[str]) -> None:
    found = inputs.wrong_inputs(GOOD | {"app_components": [WORKER | given]}, [], GROUPS)
    assert len(found) == len(said) and all(map(str.startswith, found, said)), found
    [elsewhere] = inputs.wrong_inputs(GOOD | {"app_components": [WORKER], "strategy": "pct"}, [], GROUPS)
    assert elsewhere.startswith("app_components, mail: kind worker is for the strategies host, incus and compose_colors, and app_strategy is pct")


def test_what_a_worker_of_a_compose_project_may_be() -> None:
    def said(*components: dict[str, t.Any]) -> list[str]:
        return inputs.wrong_inputs(GOOD | {"app_components": list(components), "strategy": "compose_colors"}, [], GROUPS)

    web = {"name": "web", "port": {"blue": 1, "green": 2}}
    assert said(web, WORKER) == said(web, WORKER | {"proof": {"log": "ready"}}) == []
    assert [one[:48] for one in said(web, WORKER | {"proof": {"file": "/done"}})] == ["app_components, mail: proof by file is not for t"]
    assert [one[:44] for one in said(WORKER)] == ["app_components has no component with a port:"]
    assert [one[:67] for one in said(web, {"name": "site", "kind": "static"})] == [
        "app_components, site: kind static is for the strategy host alone, a"]


def test_what_a_worker_in_an_incus_container_may_be() -> None:
    def said(*components: dict[str, t.Any]) -> list[str]:
        return inputs.wrong_inputs(GOOD | {"app_components": list(components), "strategy": "incus"}, [], GROUPS)

    web = {"name": "web", "port": 8080}
    assert said(web, WORKER) == said(web, WORKER | {"proof": {"file": "{current}/done"}}) == []
    assert said({"name": "web"}) == ["app_components, web: port is missing: the one on which it listens in its container, such as 8080; only kind worker has none"]
    assert said(web, WORKER | {"tasks": "/srv/mail.yml"}) == [
        "app_components, mail: the container of a worker does not run before the flip, so it has no tasks: take files, and proof"]
    assert [one[:44] for one in said(WORKER)] == ["app_components has no component with a port:"]
    assert [one[:90] for one in said(web, {"name": "site", "kind": "static"})] == [
        "app_components, site: kind static is for the strategy host alone, and app_strategy is incu"]


SITE = {"name": "site", "kind": "static"}


@pytest.mark.parametrize("given, said", [
    ({}, []), ({"static_files": ["index.html", "assets/shop.js"], "package": "shop-site"}, []),
    ({"port": 80, "unit": "site", "probe": "gitlab"}, ["app_components, site: kind static has no process, so it has no port, unit, probe: leave that out"]),
    ({"command": ["/bin/site"]}, ["app_components, site: kind static has no process, so it has no command"]),
    ({"static_files": "index.html"}, ["app_components, site: static_files is index.html: expected a list"]),
    ({"static_files": ["/etc/passwd"]}, ["app_components, site: static_files is "]),
    ({"static_files": ["a/../../b"]}, ["app_components, site: static_files is "]),
    ({"static_files": [""]}, ["app_components, site: static_files is "]), ({"static_files": [1]}, ["app_components, site: static_files is "]),
    ({"kind": "http", "port": 80, "static_files": ["a"]}, ["app_components, site: static_files is for kind static alone"]),
], ids=str)
def test_what_static_files_may_be(given: dict[str, t.Any], said: list[str]) -> None:
    web = GOOD["app_components"]
    found = inputs.wrong_inputs(GOOD | {"app_components": [*web, SITE | given]}, [], GROUPS)
    assert len(found) == len(said) and all(map(str.startswith, found, said)), found
    [elsewhere] = inputs.wrong_inputs(GOOD | {"app_components": [*web, SITE], "strategy": "incus"}, [], GROUPS)
    assert elsewhere.startswith("app_components, site: kind static is for the strategy host alone")
    [alone] = inputs.wrong_inputs(GOOD | {"app_components": [SITE, WORKER]}, [], GROUPS)
    assert alone.startswith("app_components has no component with a port")


@pytest.mark.parametrize("given, said", [
    ([], []), (["gitlab", {"name": "own", "kind": "tcp", "port": 22}], []), (list(inputs.PROBES), []),
    ("gitlab", ["app_probes is gitlab: expected a list"]),
    (["nextclod"], ["app_probes has nextclod: there are gitlab, kubernetes, metrics, metrics_after_rollback, nextcloud, traefik, web; or a "
                    "probe of your own, with name and kind. Did you mean nextcloud?"]),
    ([{"name": "own"}], ["app_probes has {'name': 'own'}: expected name and kind"]), ([7], ["app_probes has 7: there are gitlab"]),
], ids=str)
def test_what_probes_there_are(given: t.Any, said: list[str]) -> None:
    found = inputs.wrong_inputs(GOOD | {"app_probes": given}, [], GROUPS)
    assert len(found) == len(said) and all(map(str.startswith, found, said)), found
    assert sorted(path.stem for path in (ROOT / "roles/health_probes/vars/main").glob("*.yml")) == list(inputs.PROBES)


@pytest.mark.parametrize("given, wanted, said", [
    ({"mode": "backup"}, ["mode"], []), ({"mode": "fast", "to": ID}, ["mode"], []), ({"mode": "backup", "services": ["a b"]}, ["mode"], ["services has a b: "]),
    # Somebody's variable of that name is nobody's business elsewhere.
    ({"mode": "fast", "strategy": "host"}, ["mode"], []), ({"mode": "backup", "release_sha": "0" * 40}, ["release_sha"], []), ({}, [], []),
    ({"mode": "data"}, ["mode"], ["services is web, db: only a Compose project"]),
    ({"mode": "backup", "strategy": "pct"}, ["mode"], ["services is web, db: only a Compose project"]),
], ids=str)
def test_where_only_some_services_go_back(given: dict[str, t.Any], wanted: list[str], said: list[str]) -> None:
    found = inputs.wrong_inputs(GOOD | {"strategy": "compose", "has_colors": False, "services": ["web", "db"]} | given, wanted, GROUPS)
    assert len(found) == len(said) and all(map(str.startswith, found, said)), found


def test_what_a_playbook_cannot_do_without() -> None:
    wrong = inputs.wrong_inputs(GOOD, ["release_sha", "color"], GROUPS)
    assert [sentence.split(":")[0] for sentence in wrong] == ["release_sha is missing", "color is missing"]


@pytest.mark.parametrize("given, said", [
    ({}, []), ({"hooks": ["before_flip", "after_flip", "downgrade"]}, []),
    ({"hooks": ["before-flip", "after_flip"]}, ["app_hooks has before-flip: expected before, migrate, before_flip"]),
    ({"strategy": "pct", "has_colors": False, "hooks": ["before", "after_flip"]}, ["app_hooks has after_flip, and pct changes the app in place"]),
], ids=str)
def test_hooks_that_would_never_run(given: dict[str, t.Any], said: list[str]) -> None:
    found = inputs.wrong_inputs(GOOD | {"release_sha": "a" * 40} | given, ["release_sha"], GROUPS)
    assert len(found) == len(said) and all(map(str.startswith, found, said)), found
    assert inputs.wrong_inputs(GOOD | given, ["mode"], GROUPS) == [], "nobody who goes back is refused"


@pytest.mark.parametrize("env, envs, said", [
    ("staging", [], ""), ("staging", ["staging", "prod"], ""), ("", ["prod"], ""),
    ("Prod\n", ["staging", "prod"], "env is Prod : the app is for staging, prod; "),
    ("prod", "staging", "app_envs is staging: expected a list"), ("prod", [1], "app_envs is [1]: expected a list"), ("prod", {"prod": 1}, "app_envs is {"),
], ids=str)
def test_the_environments_of_an_app(env: str, envs: t.Any, said: str) -> None:
    found = inputs.wrong_env(env, envs, ["release_sha"])
    assert len(found) == bool(said) and "".join(found).startswith(said), found
    assert inputs.wrong_env(env, envs, ["mode"]) == inputs.wrong_env(env, envs, []) == [], "nobody who goes back or looks is refused"
