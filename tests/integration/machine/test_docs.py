# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runbooks are run: each command in collection/docs, in its order, on machines that start empty; and what else is shown is known to
exist."""
from __future__ import annotations

import json
import re
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
import yaml
from edge import call
from harness import ROOT, staged, venv, wait_for
from runbooks import DOCS, Block, Machines, blocks, indented, unknown_in, words_that_are_known
from workflows import load, play

FIRST, SECOND = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a", "0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a4f2a9c1e"
LOST = "7d63f58a2c9e4d1b6f7a8c9d0e1f2a4f2a9c1e0b"
STORY = ("first-deploy.md", "rolling-back.md", "incident.md")
LEASE = "20261121t084500z-7f3a"


def hold_the_lease(machines: Machines) -> None:
    """A run whose controller died; it was started after what the last rollback has taken back was fixed."""
    time.sleep(1.1)  # ids are in seconds: this one must be newer than that of the run before, which may have ended within its own second
    holder = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime()) + "-0000"
    machines.edits[LEASE] = holder
    ledger = {"app": "shop", "env": "staging", "path": str(machines.ledger)}
    locked = call("deploy_ledger_info", ledger)["locked"]
    opened = call("deploy_ledger", {**ledger, "deploy_id": holder, "state": "open", "unlock": locked and locked["deploy_id"]})
    assert opened.get("changed") is True, opened
    time.sleep(1.1)  # ids are in seconds: the next one must be newer


def fail_green(machines: Machines) -> None:
    machines.kill("green")
    asked = {"map": str(machines.map), "map_key": "shop-staging", "config": str(machines.config), "stats_socket": [str(machines.socket)],
             "state_dir": str(machines.state)}
    wait_for(lambda: not call("haproxy_color_switch_info", asked)["previous"].get("open"), "HAProxy sees that green is gone")


# What has happened before a block makes sense, by words of it.
BEFORE: dict[str, t.Callable[[Machines], None]] = {"incident.md refused": hold_the_lease, "incident.md cleanup_failed": fail_green}
AFTER = {"first-deploy.md": ("blue", SECOND), "rolling-back.md": ("blue", LOST), "incident.md": ("blue", SECOND)}


@pytest.fixture(name="machines")
def some_machines(one_core: str, tmp_path: Path) -> t.Iterator[Machines]:
    with Machines(tmp_path, one_core) as machines:
        yield machines


def test_the_runbooks_run(machines: Machines) -> None:
    """First deploy, ways back, incident: one story on one pair of machines. A command that only looks is run once."""
    seen: set[str] = set()
    for sha in (FIRST, LOST):
        machines.build(sha)
    machines.registry.publish(SECOND, machines.build(SECOND), package="shop-backend")
    for name in STORY:
        for block in blocks(DOCS / name):
            if block.language == "yaml" and block.word:
                machines.write(block)
            elif block.language == "bash" and not ("reversible.deploy.status" in block.text and block.text in seen):
                run(machines, name, block)
                seen.add(block.text)
        assert machines.serves() == AFTER[name], name
    assert not machines.app_pids("green") and list(machines.place.glob("kept/*-green/*-backend-green.log"))
    assert list(machines.place.glob("docs/incidents/*-shop-rollback*.md"))
    play_the_workflows(machines)


def play_the_workflows(machines: Machines) -> None:
    """As the forge's runner would: deploy on a push to main, back by hand, and a cleanup that nobody has confirmed."""
    machines.check_out()

    def dispatch(name: str, **inputs: str) -> tuple[bool, str]:
        workflow = load(DOCS / f"workflows/forgejo/{name}.yml")
        says = {"github.ref_type == 'tag' && 'prod' || 'staging'": "staging", "github.sha": FIRST, "github.run_number": "1832",
                "secrets.FORGE_TOKEN": machines.token, "secrets.DEPLOY_SSH_KEY": "a key", "secrets.DEPLOY_KNOWN_HOSTS": "hosts"}
        asked = (workflow["on"].get("workflow_dispatch") or {}).get("inputs", {})
        says |= {f"inputs.{each}": "" for each in asked} | {f"inputs.{each}": value for each, value in inputs.items()}
        given = {"HOME": str(machines.place / "home")}
        return play(workflow, machines.place, machines.environment() | given, says, machines.edited)
    good, output = dispatch("deploy")
    assert good and "outcome: done" in output and machines.serves() == ("green", FIRST), output
    good, output = dispatch("rollback", env="staging", mode="fast")
    assert good and "outcome: done" in output and machines.serves() == ("blue", SECOND), output
    good, output = dispatch("cleanup-failed", env="staging", color="green", confirm="false")
    # Nobody but the ledger and the machines can say how it is when a run says nothing.
    assert not good and "outcome: not known" in output and "-e confirm=true" in output and "PLAY [Report the status]" in output, output
    good, output = dispatch("status", env="staging")
    assert good and SECOND in output, output
    good, output = dispatch("check", env="staging", release_sha=SECOND)
    assert not good and "would be refused by the lock of" in output and "held by web" in output, output
    good, output = dispatch("logs", env="staging", color="blue", lines="3")
    assert good and "backend-blue" in output and "backend-green" not in output, output
    assert not list(machines.place.glob("deploy-*")), "the key is removed"


def test_the_rust_that_the_readme_promises_is_enough() -> None:
    """Debian 13 has 1.85. clippy finds a newer function by `rust-version`, and not the one newer grammar that is easily written."""
    [promised] = re.findall(r"Rust \((\S+) or newer\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert f'rust-version = "{promised}"' in (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    sources = [path for folder in ("modules", "tests/fakes") for path in (ROOT / folder).rglob("*.rs") if "target" not in path.parts]
    chains = [str(path.relative_to(ROOT)) for path in sources if re.search(r"&&\s*let\b", path.read_text(encoding="utf-8"))]
    assert len(sources) > 100 and not chains, "a condition joined with a `let` wants Rust 1.88"


def test_an_existing_setup_is_adopted(machines: Machines) -> None:
    """A HAProxy that was configured by hand, before an app that was started by hand; both are there before the first command."""
    snippet = next(block for block in blocks(DOCS / "adopting.md") if block.language == "haproxy")
    machines.map.write_text("shop-staging blue\n", encoding="utf-8")
    machines.start_haproxy(snippet)
    machines.registry.publish(SECOND, machines.build(SECOND), package="shop-backend")
    for block in blocks(DOCS / "first-deploy.md"):
        if block.word in ("inventory.yml", "shop.yml"):
            machines.write(block)
    with machines.by_hand("blue", FIRST):
        wait_for(lambda: machines.serves() == ("blue", FIRST), "HAProxy finds what was started by hand")
        for block in blocks(DOCS / "adopting.md"):
            if block.language == "bash":
                run(machines, "adopting.md", block)
                if "deploy_app" in block.text:
                    assert machines.serves() == ("green", SECOND)
        assert machines.serves() == ("blue", FIRST)


def run(machines: Machines, name: str, block: Block) -> None:
    for words, do in BEFORE.items():
        if words == f"{name} {block.word}" or (words.startswith(name) and words.split()[1] in block.text):
            do(machines)
    before = machines.serves() if block.word == "refused" else None
    code, output = machines.bash(block.text)
    assert (code != 0) == (block.word == "refused"), f"{name}:\n{block.text}\n{output}"
    if before:
        assert "Traceback" not in output and machines.serves() == before, output

# What is shown without being run here


def all_of(pattern: str) -> list[Path]:
    return sorted(ROOT.glob(pattern))


def test_commands_elsewhere_exist() -> None:
    """app.md, databases.md, the README, the workflows, and the playbooks' own heads name playbooks, modules and inputs that there are."""
    known, commands = words_that_are_known(), []
    for path in [DOCS / "app.md", DOCS / "databases.md", DOCS / "kubernetes.md", ROOT / "README.md", *all_of("roles/*/README.md")]:
        commands += [(path, command) for command in indented(path)]
    for path in all_of("playbooks/*.yml"):
        commands += [(path, line.lstrip("# ")) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#   ansible")]
    assert len(commands) > 8, commands
    wrong = {f"{path.relative_to(ROOT)}: {command}": found for path, command in commands if (found := unknown_in(command, known))}
    assert not wrong, wrong
    assert unknown_in("ansible-playbook reversible.deploy.deploi -e env=x -e no_such_input=1", known) == ["deploi", "no_such_input"]


def plays_of(path: Path) -> t.Iterator[list[dict[str, t.Any]]]:
    """The blocks of YAML that are plays or tasks, as plays."""
    for block in blocks(path):
        shown = yaml.safe_load(block.text) if block.language == "yaml" else None
        if isinstance(shown, list):
            yield shown if "hosts" in shown[0] else [{"hosts": "localhost", "gather_facts": False, "tasks": shown}]


def options_of(module: str) -> set[str]:
    text = (ROOT / f"collection/plugins/modules/{module}.py").read_text(encoding="utf-8")
    return set(yaml.safe_load(re.search(r'DOCUMENTATION = r"""\n(.*?)"""', text, re.DOTALL)[1])["options"])


def inputs_of(role: str) -> set[str]:
    text = (ROOT / f"roles/{role}/meta/argument_specs.yml").read_text(encoding="utf-8")
    # What stands in for an input is said in its description.
    said = set(re.findall(r"default is C\((\w+)\)", text))
    return said | {name for spec in yaml.safe_load(text)["argument_specs"].values() for name in spec.get("options", {})}


def wrong_in(play: t.Any) -> list[str]:
    """Options of modules and inputs of roles, anywhere in a play, that do not exist."""
    wrong: list[str] = []
    if isinstance(play, list):
        return [each for one in play for each in wrong_in(one)]
    if not isinstance(play, dict):
        return wrong
    role = str(play.get("role") or (play.get("ansible.builtin.include_role") or {}).get("name") or "")
    if role.startswith("reversible.deploy."):
        known = inputs_of(role.rpartition(".")[2])
        wrong += [f"{role}: {name}" for name in play.get("vars", {}) if name not in known]
    for key, value in play.items():
        if key.startswith("reversible.deploy.") and isinstance(value, dict):
            wrong += [f"{key}: {name}" for name in value if name not in options_of(key.rpartition(".")[2])]
        wrong += wrong_in(value)
    return wrong


def test_examples_of_playbooks_are_sound(one_core: str, tmp_path: Path) -> None:
    """Each play and task that the README, the roles and the documents show: its options exist, and Ansible can read it."""
    books = []
    shown = [(path, play) for path in [ROOT / "README.md", *all_of("roles/*/README.md"), *all_of("collection/docs/*.md")] for play in plays_of(path)]
    shown += [(path, yaml.safe_load(path.read_text(encoding="utf-8"))) for path in all_of("collection/docs/examples/*/edge.yml")]
    for number, (path, play) in enumerate(shown):
        assert not wrong_in(play), (path, wrong_in(play))
        book = tmp_path / f"{path.parent.name}-{path.stem}-{number}.yml"
        book.write_text(json.dumps(play))
        books.append(str(book))
    assert len(books) > 8, books
    # Files that a reader has beside them.
    for name in set(re.findall(r"import_tasks\": \"([\w.]+)\"", "".join(Path(book).read_text() for book in books))):
        (tmp_path / name).write_text("[]")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_COLLECTIONS_PATH": str(staged())}
    argv = [venv(one_core) / "bin/ansible-playbook", "--syntax-check", *books]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert wrong_in([{"reversible.deploy.deploy_ledger": {"app": "x", "ap": "y"}}]) == ["reversible.deploy.deploy_ledger: ap"]


def test_every_document_is_told_apart() -> None:
    """A block that the tests would not notice is a mistake: a language without a meaning, or a document that no test knows."""
    known = {"bash": {"", "refused"}, "haproxy": {"", "hold"}, "yaml": {"", "inventory.yml", "edge.yml", "shop.yml"}}
    pages = {path.name for path in DOCS.glob("*.md")}
    others = {"adopting.md", "app.md", "databases.md", "kubernetes.md", "numbers.md", "when-it-fails.md", "workflows.md"}
    assert pages == {*STORY, *others}, "say in STORY when the commands of a new page are run"
    found = [(name, block.language, block.word) for name in pages for block in blocks(DOCS / name)]
    assert not [each for each in found if each[2] not in known.get(each[1], ())]
