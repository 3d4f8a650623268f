# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook init: what it writes for each kind of app is what the documents show and other tests run, by the app's own name; what is there stays."""
from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml
from harness import CORES, Ansible, Run
from runbooks import DOCS, blocks
from test_inputs import GOOD, inputs

EXAMPLES = DOCS / "examples"
WITH_COLORS = ("host", "incus", "compose_colors")
WORKFLOWS = {
    **{forge: {f".{forge}/workflows/{name}.yml" for name in ("deploy", "rollback", "status", "check", "logs")} for forge in ("forgejo", "github")},
    "gitlab": {".gitlab-ci.yml"}, "none": set(),
}


@pytest.fixture(name="ansible")
def an_ansible(one_core: str, tmp_path: Path) -> Ansible:
    return Ansible(one_core, tmp_path, {})


def init(ansible: Ansible, folder: Path, *options: str, **given: str) -> Run:
    named = [word for name, value in ({"folder": str(folder)} | given).items() for word in ("-e", f"{name}={value}")]
    return ansible._start(["ansible-playbook", *options, "reversible.deploy.init", *named]).wait()


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind, forge", [("host", "forgejo"), ("incus", "none"), ("compose_colors", "github"), ("compose", "forgejo"), ("pct", "gitlab"), ("kube", "none")])
def test_each_kind(ansible: Ansible, tmp_path: Path, kind: str, forge: str) -> None:
    folder = tmp_path / "repository"
    looked = init(ansible, folder, "--check", kind=kind, app_name="my-blog", forge=forge)
    assert looked.code == 0 and not folder.exists(), looked.output
    done = init(ansible, folder, kind=kind, app_name="my-blog", forge=forge)
    assert done.code == 0, done.output
    found = files(folder)
    own = {"deploy/inventory.yml", "deploy/app.yml"} | ({"deploy/edge.yml"} if kind in WITH_COLORS else set())
    own |= {"deploy/rbac.yml"} if kind == "kube" else set()
    more = set() if forge == "none" else {"deploy/inputs.yml", "deploy/requirements.txt", "deploy/requirements.yml"}
    more |= {f".{forge}/workflows/{name}" for name, there in (("cleanup-failed.yml", kind in WITH_COLORS), ("restore-test.yml", kind == "compose"))
             if there and forge in ("forgejo", "github")}
    assert set(found) == own | WORKFLOWS[forge] | more
    for name in own:
        assert found[name] == (EXAMPLES / kind / Path(name).name).read_text(encoding="utf-8").replace("shop", "my-blog")
    assert "shop" not in "".join(found[name] for name in own)

    # The playbooks take what was written.
    app, known = yaml.safe_load(found["deploy/app.yml"]), yaml.safe_load(found["deploy/inventory.yml"])["all"]["hosts"]
    shape = {"strategy": app.get("app_strategy", "host"), "has_colors": kind in WITH_COLORS}
    given = GOOD | {name: app.get(name, []) for name in ("app_name", "app_hosts", "app_components", "app_load_balancers")} | shape
    assert inputs.wrong_inputs(given, [], {"all": list(known)}) == []

    # What is there stays, also when it was changed; only what is missing is written.
    (folder / "deploy/app.yml").write_text("mine: true\n", encoding="utf-8")
    (folder / "deploy/inventory.yml").unlink()
    again = init(ansible, folder, kind=kind, app_name="my-blog", forge=forge)
    assert again.code == 0, again.output
    assert files(folder) == found | {"deploy/app.yml": "mine: true\n"}
    said = str(again.named("Show the next steps")["msg"])
    assert re.search(r"Written: deploy/inventory\.yml'", said) and "left as they are: " in said and "deploy/app.yml" in said


@pytest.mark.parametrize("given, says", [
    ({"app_name": "shop"}, "kind is missing: expected host, incus, compose_colors, compose, pct, kube"),
    ({"kind": "hosts", "app_name": "shop"}, "kind is hosts: expected host, incus"),
    ({"kind": "host"}, "app_name is missing: expected small letters"),
    ({"kind": "host", "app_name": "../x"}, "app_name is ../x: expected small letters"),
    ({"kind": "host", "app_name": "shop", "forge": "gitea"}, "forge is gitea: expected forgejo, github, gitlab, none"),
], ids=str)
def test_what_is_refused(ansible: Ansible, tmp_path: Path, given: dict[str, t.Any], says: str) -> None:
    done = init(ansible, tmp_path / "repository", **given)
    assert done.code == 2 and f"Nothing was written. {says}" in done.output, done.output
    assert not (tmp_path / "repository").exists()


def test_the_files_for_a_host_are_those_of_the_first_deploy(tmp_path: Path) -> None:
    """So that what is written is what the first deploy is done with (test_docs.py)."""
    shown = {block.word: yaml.safe_load(block.text) for block in blocks(DOCS / "first-deploy.md") if block.language == "yaml"}
    written = {name: yaml.safe_load((EXAMPLES / "host" / name).read_text(encoding="utf-8")) for name in ("inventory.yml", "edge.yml", "app.yml")}
    assert written == {"inventory.yml": shown["inventory.yml"], "edge.yml": shown["edge.yml"], "app.yml": shown["shop.yml"]}


def test_the_newest_core(tmp_path: Path) -> None:
    done = init(Ansible(CORES[-1], tmp_path, {}), tmp_path / "repository", kind="host", app_name="shop")
    assert done.code == 0 and "deploy/app.yml" in files(tmp_path / "repository"), done.output
