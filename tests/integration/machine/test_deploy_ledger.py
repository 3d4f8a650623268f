# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""deploy_ledger on a target without Python, the role ledger as a playbook and its rescue use it, and its alerts in a real Prometheus."""
from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import platform
import re
import stat
import subprocess
import tempfile
import threading
import time
import typing as t
import urllib.request
from pathlib import Path

import pytest
from harness import BIN, EDGES, LOCAL, ROOT, Ansible, Run, lab, staged, system, wait_for
from labkit import daemon

MODULE, INFO, ROLE = ("reversible.deploy.deploy_ledger", "reversible.deploy.deploy_ledger_info", "reversible.deploy.ledger")
FIRST, SECOND, THIRD = "20261121t084500z-7f3a", "20261121t091500z-01bc", "20261122t091500z-44d0"
SHA = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a"
ON_BARE = {"app": "shop", "env": "prod", "path": "/root/ledger-test"}


class Site:
    """A controller with a ledger in a safe folder of this machine, and a checkout that it was started from."""

    def __init__(self, version: str, folder: Path, home: Path) -> None:
        self.folder, self.ledger = folder, home / "shop-prod"
        self.checkout = folder / "checkout"
        self.outcome = folder / "outcome"
        gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0}
        self.ansible = Ansible(version, folder, LOCAL | {"gone": gone})
        self.checkout.mkdir()

    def door(self, door: str, deploy: str = FIRST, **inputs: t.Any) -> dict[str, t.Any]:
        given = {"app": "shop", "env": "prod", "deploy_id": deploy, "path": str(self.ledger), "config_dir": str(self.checkout),
                 "report_dir": str(self.checkout / "docs/incidents")}
        if door in ("open", "close"):
            given["outcome_file"] = str(self.outcome)
        if door not in ("open",):
            given.pop("config_dir")
        if door != "report":
            given.pop("report_dir")
        return {"name": door, "ansible.builtin.include_role": {"name": ROLE, "tasks_from": door},
                "vars": {f"ledger_{key}": value for key, value in (given | inputs).items()}}

    def play(self, tasks: list[dict[str, t.Any]], *options: str) -> Run:
        return self.ansible.play(tasks, "local", *options)

    def good(self, tasks: list[dict[str, t.Any]], *options: str) -> Run:
        run = self.play(tasks, *options)
        assert run.code == 0, run.output
        return run

    def info(self, **options: t.Any) -> dict[str, t.Any]:
        run = self.good([{"name": "info", INFO: {"app": "shop", "env": "prod", "path": str(self.ledger)} | options}])
        return run.named("info").result


@pytest.fixture(params=EDGES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> t.Iterator[Site]:
    # The ledger is kept in no folder that others may write to, as /tmp is.
    with tempfile.TemporaryDirectory(prefix=".reversible-test-", dir=Path.home()) as home:
        yield Site(request.param, tmp_path, Path(home))


@pytest.fixture
def bare(edge_core: str, tmp_path: Path) -> Ansible:
    return Ansible(edge_core, tmp_path, LOCAL | system("bare"))


FAILS = {"name": "flip", "ansible.builtin.command": {"argv": ["sh", "-c", "echo out; echo the proof failed >&2; exit 7"]}}


def rescued(site: Site, **inputs: t.Any) -> list[dict[str, t.Any]]:
    """A deploy that fails, as a playbook has it: go back, record, close, report, fail again."""
    return [
        site.door("open", release=SHA, by="run 7", reason="release 7"),
        site.door("restore_point", layer="dataset", name="tank/a@pre", guid="17", cost={"bytes": 2048}),
        {"block": [FAILS], "rescue": [
            site.door("revert", reason="the flip failed"),
            site.door("phase", phase="flip", status="failed", result="{{ ansible_failed_result }}", required=False, **inputs),
            site.door("close", outcome="failed_reverted", color="blue", required=False, **inputs),
            site.door("report", release_url="https://forge.example/{app}/commit/{sha}", required=False, **inputs),
            {"name": "fail again", "ansible.builtin.fail": {"msg": "{{ ansible_failed_result.stderr }}"}},
        ]},
    ]


def test_on_a_target_without_python(bare: Ansible) -> None:
    bare.on("bare_root", "rm -rf /root/ledger-test; mkdir -m 700 /root/ledger-test")
    made = {"outcome_file": "/root/ledger-test/outcome", "metrics_file": "/root/ledger-test/shop.prom"}
    steps = [
        ("open", {"release": SHA, "config_commit": "c0ffee", "config_dirty": True}),
        ("restore_point", {"layer": "dataset", "name": "tank/a@pre", "guid": 1374283741928374, "cost": {"bytes": 2048}}),
        ("heartbeat", {}),
        ("revert", {"reason": "p99"}),
        ("closed", {"outcome": "failed_reverted", "color": "blue"}),
        ("report", {"report_markdown": "/root/ledger-test/r.md", "report_html": "/root/ledger-test/r.html"}),
    ]
    tasks = [{"name": state, MODULE: ON_BARE | {"deploy_id": FIRST, "state": state} | made | more} for state, more in steps]
    looked = {"layers": {"dataset": {"open": True, "holds": [{"name": "tank/a@pre", "guid": 1374283741928374}]}}, "deploy_id": FIRST}
    tasks += [{"name": "info", INFO: ON_BARE | looked}]
    checked = bare.play(tasks[:-1], "bare_root", "--check", "--diff")
    assert checked.code == 0, checked.output
    assert bare.on("bare_root", "ls /root/ledger-test") == ""
    run = bare.play(tasks, "bare_root", "-vvv")
    assert run.code == 0, run.output
    assert all(run.named(state)["changed"] for state, _more in steps), run.output
    assert run.reason == "", "each task took one round trip"
    info = run.named("info")
    assert info["readiness"]["ready"], info["readiness"]
    assert info["deploys"][0]["config"] == {"commit": "c0ffee", "dirty": True}
    again = bare.play(tasks[-3:-1], "bare_root")
    assert not any(task["changed"] for task in again.tasks), again.output
    told = bare.on("bare_root", "cd /root/ledger-test; cat outcome r.md shop.prom")
    for part in ("failed_reverted\n", "tank/a@pre", "reversible_deploy_last_revert_timestamp_seconds{"):
        assert part in told
    bare.on("bare_root", "rm -rf /root/ledger-test")


def test_the_page_allows_nothing_but_its_own_style(bare: Ansible) -> None:
    bare.on("bare_root", "rm -rf /root/ledger-test; mkdir -m 700 /root/ledger-test")
    common = ON_BARE | {"deploy_id": FIRST}
    report = {"state": "report", "report_html": "/root/ledger-test/r.html"}
    run = bare.play([{MODULE: common | {"state": "open"}}, {MODULE: common | report}], "bare_root")
    assert run.code == 0, run.output
    page = bare.on("bare_root", "cat /root/ledger-test/r.html")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert " style=" not in page, "a style of an element would be forbidden by that"
    bare.on("bare_root", "rm -rf /root/ledger-test")


def test_a_deploy_that_fails_ends_with_an_outcome_and_a_report(site: Site) -> None:
    for words in (["init", "-q"], ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", site.checkout, *words], check=True)
    head = subprocess.run(["git", "-C", site.checkout, "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    subprocess.run(["git", "-C", site.checkout, "remote", "add", "origin", "https://robot:a-secret@forge.example/acme/config.git"], check=True)
    (site.checkout / "changed.yml").write_text("---\n")
    site.outcome.write_text("done\n")
    run = site.play(rescued(site))
    assert run.code == 2, run.output
    assert run.tasks[-1].msg == "the proof failed", "the first failure is the one that is seen"
    assert site.outcome.read_text() == "failed_reverted\n"
    report = site.checkout / "docs/incidents/20261121-shop-rollback.md"
    told = report.read_text()
    for part in (SHA, "the proof failed", "tank/a@pre", f"{head} with changes that are in no commit", 
                 "Rollback initiated by the run itself: the flip failed", "## Root Cause", f"https://forge.example/shop/commit/{SHA}"):
        assert part in told, told
    assert "<title>shop rollback" in report.with_suffix(".html").read_text()
    deploy = site.info()["deploys"][0]
    assert (deploy["outcome"], deploy["color"], deploy["config"]) == (
        "failed_reverted", "blue", {"commit": head, "dirty": True, "remote": "https://forge.example/acme/config.git"})
    data = deploy["phases"][0]["data"]
    assert data["rc"] == 7 and "invocation" not in data, "of a result, only what the report understands is recorded"


# As the owner of the folder may do it: what is to get another mode by its name is a link by then.
SWAPS = """
import os, sys
def swap(event, args):
    if event == "tempfile.mkstemp" and "/.outcome." in args[0]:
        open({seen!r}, "w").close()
    if event == "os.chmod" and "/.outcome." in str(args[0]):
        os.remove(args[0])
        os.symlink({secret!r}, args[0])
sys.addaudithook(swap)
"""


def test_on_the_controller_no_mode_is_set_through_what_a_user_could_swap(site: Site) -> None:
    secret, seen, early = site.folder / "secret", site.folder / "seen", site.folder / "early"
    secret.touch(mode=0o600)
    early.mkdir()
    (early / "sitecustomize.py").write_text(SWAPS.format(seen=str(seen), secret=str(secret)))
    site.ansible.environ["PYTHONPATH"] = str(early)
    site.ansible.in_new_processes = True
    site.good([site.door("open", release=SHA), site.door("close", outcome="done", color="blue")])
    assert seen.exists(), "the swap was not there"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert site.outcome.read_text() == "done\n" and site.outcome.stat().st_mode & 0o777 == 0o644


def test_on_the_controller_nothing_is_read_or_replaced_but_regular_files(site: Site) -> None:
    """The folder of reports may be another user's, who puts there what keeps us waiting, has no end, or is not theirs to read."""
    incidents = site.checkout / "docs/incidents"
    report, secret = incidents / "20261121-shop-rollback.md", site.folder / "secret"
    secret.write_text(f"{FIRST}, and what only root may read\n")
    incidents.mkdir(parents=True)

    def a_sparse_file() -> None:
        with report.open("wb") as file:
            file.truncate((64 << 20) + 1)

    site.good([site.door("open", release=SHA)])
    for put in (lambda: report.symlink_to(secret), lambda: os.mkfifo(report), lambda: report.symlink_to("/dev/zero"), report.mkdir, a_sparse_file):
        put()
        run = site.play([site.door("report")])
        assert run.code == 2 and f"{report}: expected a regular file of at most 64 MiB" in run.tasks[-1].msg, run.output
        assert "only root" not in run.output and not report.with_suffix(".html").exists()
        report.rmdir() if report.is_dir() else report.unlink()
    for way in ("open", "close"):
        site.outcome = site.folder / f"outcome-{way}"
        os.mknod(site.outcome, 0o666 | stat.S_IFCHR, os.makedev(1, 3))   # as /dev/null is
        run = site.play([site.door(way, **({"release": SHA} if way == "open" else {"outcome": "done", "color": "blue"}))])
        assert run.code == 2 and f"{site.outcome}: expected a regular file" in run.tasks[-1].msg, run.output
        assert stat.S_ISCHR(site.outcome.lstat().st_mode)


def test_the_report_shows_what_a_gate_asked(site: Site) -> None:
    """health_gate's own result goes to the ledger as it was registered, or as it failed; also past the role."""
    gate, ahead = "reversible.deploy.health_gate", {"tries": 2, "delay": 0.1, "timeout": 2}
    probes = [
        {"name": "web <b>", "kind": "http", "url": "http://127.0.0.1:1/|x", **ahead},
        {"name": "disk", "kind": "disk", "path": "/", "max": 1},
    ]
    tasks = [
        site.door("open", release=SHA),
        {"name": "before", gate: {"probes": probes, "require": 1}, "register": "before"},
        site.door("phase", phase="baseline", result="{{ before }}"),
        {"name": "past", MODULE: {"app": "shop", "env": "prod", "path": str(site.ledger), "deploy_id": FIRST, "state": "phase",
                                  "phase": "past", "data": "{{ before }}"}},
        {"block": [{"name": "after", gate: {"probes": probes, "baseline": "{{ before }}"}}], "rescue": [
            site.door("phase", phase="gate", status="failed", result="{{ ansible_failed_result }}", required=False),
            site.door("close", outcome="failed_not_reverted", required=False),
            site.door("report", required=False),
        ]},
    ]
    run = site.good(tasks)
    report = site.checkout / "docs/incidents/20261121-shop-rollback.md"
    told, page = report.read_text(), report.with_suffix(".html").read_text()
    for phase, task, count in (("baseline", "before", "1 of 2 held; 1 had to."), ("past", "before", "1 of 2 held; 1 had to."),
                               ("gate", "after", "1 of 2 held; 2 had to.")):
        web, disk = run.named(task)["probes"]
        assert (web["ok"], web["tries"], disk["ok"], disk["tries"]) == (False, 2, True, 1)
        rows = [
            f"| failed | web &lt;b&gt; | http | 2 |  | {web['milliseconds']:.1f} ms | {web['why']} |",
            f"| ok | disk | disk | 1 | {disk['answer']} | {disk['milliseconds']:.1f} ms |  |",
        ]
        assert f"## Probes in phase {phase}\n\n{count}\n\n|  | Probe | Kind | Tries | Answer | Time | Why |\n" in told, told
        part = told.split(f"## Probes in phase {phase}\n")[1].split("\n## ")[0]
        assert part.strip().splitlines()[-2:] == rows, part
        part = page.split(f"<h2>Probes in phase {phase}</h2>")[1].split("</section>")[0]
        badges = ['<span class="badge bad">failed</span>', '<span class="badge good">ok</span>']
        assert all(cell in part for cell in (count, "web &lt;b&gt;", web["why"], disk["answer"], *badges)), part
    assert "<b>" not in page and f"Phase gate said: 1 of 2 probes failed: web &lt;b&gt;; web &lt;b&gt;: {web['why']}" in told
    assert "past / failed" not in told and "past / warnings: probe web" in told, "of a whole result only what says something"


def test_a_report_that_somebody_has_written_into_is_left_alone(site: Site) -> None:
    site.play(rescued(site))
    report = site.checkout / "docs/incidents/20261121-shop-rollback.md"
    written = report.read_text().replace("[Why the deployment failed]", "a full disk")
    report.write_text(written)
    site.good([site.door("report")])
    assert report.read_text() == written
    # Another one of that day does not take its name.
    close = site.door("close", deploy=SECOND, outcome="failed_not_reverted", with_report=True,
                      report_dir=str(site.checkout / "docs/incidents"))
    site.good([site.door("open", deploy=SECOND), close])
    assert report.read_text() == written
    assert SECOND in report.with_name(f"20261121-shop-rollback-{SECOND}.md").read_text()


def test_check_mode_goes_all_the_way_through_and_leaves_nothing(site: Site) -> None:
    tasks = [site.door("open"), site.door("phase", phase="flip"), site.door("restore_point", layer="color", name="blue"),
             site.door("heartbeat"), site.door("revert"), site.door("close", outcome="done"), site.door("report")]
    site.good(tasks, "--check", "--diff")
    assert not site.ledger.exists() and not site.outcome.exists() and not (site.checkout / "docs").exists()


def test_a_second_run_is_told_who_and_reads_no_outcome(site: Site) -> None:
    site.good([site.door("open", by="run 7"), site.door("phase", phase="migrations", status="started")])
    site.outcome.write_text("done\n")
    run = site.play([site.door("open", deploy=SECOND)])
    assert run.code == 2
    msg = run.tasks[-1].msg
    for part in (FIRST, "by run 7", "in phase migrations", f"take_over: {FIRST}"):
        assert part in msg
    assert not site.outcome.exists(), "what an earlier run said is not the outcome of this one"
    site.good([site.door("open", deploy=SECOND, take_over=FIRST)])
    late = site.play([site.door("phase", phase="flip")])
    assert late.tasks[-1]["reason"] == "superseded"


def unrecorded(run: Run) -> list[str]:
    return [task["unrecorded"] for task in run.tasks if "unrecorded" in task.result]


def test_what_cannot_be_recorded_in_a_rescue_hides_nothing(site: Site) -> None:
    tasks = rescued(site)
    broken = {"name": "break", "ansible.builtin.shell": f"echo by hand >> {site.ledger}/ledger.jsonl; echo the proof failed >&2; exit 7"}
    tasks[-1]["block"] = [broken]
    tasks[-1]["rescue"] = tasks[-1]["rescue"][1:]
    run = site.play(tasks)
    assert run.code == 2 and run.tasks[-1].task == "fail again", run.output
    said = unrecorded(run)
    assert len(said) == 2 and all("cannot be trusted" in msg for msg in said), run.output
    assert site.outcome.read_text() == "failed_reverted\n", "the workflow still learns how it ended"
    strict = site.play([site.door("phase", phase="x")])
    assert strict.code == 2 and strict.tasks[-1]["reason"] == "ledger_damaged"


def test_a_ledger_that_cannot_be_reached_stops_no_rescue(site: Site) -> None:
    doors = [site.door("phase", phase="flip", status="failed", required=False, host="gone"),
             site.door("close", outcome="failed_not_reverted", required=False, host="gone"),
             site.door("report", required=False, host="gone")]
    last = {"name": "fail again", "ansible.builtin.fail": {"msg": "{{ ansible_failed_result.stderr }}"}}
    run = site.play([{"block": [FAILS], "rescue": [*doors, last]}])
    assert run.tasks[-1].msg == "the proof failed", run.output
    assert len(unrecorded(run)) == 3, run.output
    assert "The ledger on gone does not know of this: " in " ".join(run.output.split()), run.output
    assert site.outcome.read_text() == "failed_not_reverted\n"
    strict = site.play([site.door("phase", phase="flip", host="gone"), {"name": "never", "ansible.builtin.debug": {}}])
    assert strict.code != 0 and strict.tasks[-1].task != "never", strict.output


def test_after_so_many_automatic_reverts_a_person_is_asked(site: Site) -> None:
    tasks = []
    for deploy in (FIRST, SECOND):
        close = site.door("close", deploy=deploy, outcome="failed_reverted")
        tasks += [site.door("open", deploy=deploy), site.door("revert", deploy=deploy), close]
    site.good(tasks)
    refused = site.play([site.door("open", deploy=THIRD, revert_cap=2)])
    assert refused.code == 2 and refused.tasks[-1]["reason"] == "locked"
    assert FIRST in refused.tasks[-1].msg and f"pass unlock: {SECOND}" in refused.tasks[-1].msg
    site.good([site.door("open", deploy=THIRD, revert_cap=2, unlock=SECOND)])


@pytest.mark.parametrize("inputs, part", [
    ({"outcome": "fine"}, "must be one of: done, failed_reverted, failed_not_reverted"),
    ({}, "ledger_outcome"),
    ({"outcome": "done", "deploy_id": "yesterday"}, "is not a deploy id"),
])
def test_bad_inputs_are_one_sentence(site: Site, inputs: dict[str, t.Any], part: str) -> None:
    run = site.play([site.door("close", **inputs)])
    assert run.code == 2 and part in str(run.tasks[-1].result), run.output
    assert not site.outcome.exists()


def test_a_role_without_a_door_refuses(site: Site) -> None:
    run = site.play([{"ansible.builtin.include_role": {"name": ROLE}}])
    assert run.code == 2 and "tasks_from" in run.tasks[-1].msg


RULES = ROOT / "collection/docs/prometheus"


def record(home: Path, **options: t.Any) -> dict[str, t.Any]:
    asked = {"_ansible_module_name": "deploy_ledger", "app": "shop", "env": "prod", "path": str(home / "shop-prod"), "metrics_file": str(home / "shop.prom")}
    asked |= options
    binary = staged() / BIN / f"deploy_ledger_{platform.machine()}"
    done = subprocess.run([binary, "-"], input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


def test_who_goes_back_is_told_which_migrations_stay_and_what_the_colours_may_hold() -> None:
    with tempfile.TemporaryDirectory(prefix=".reversible-test-", dir=Path.home()) as folder:
        home = Path(folder)
        (home / "shop.prom").touch()
        assert record(home, state="open", deploy_id=FIRST, release="a" * 40)["stays"] == []
        record(home, state="phase", deploy_id=FIRST, phase="preflight", data={"color": "green"})
        record(home, state="phase", deploy_id=FIRST, phase="migrate", data={"compatible_back_to": "b" * 40})
        record(home, state="closed", deploy_id=FIRST, outcome="done", color="green")
        told = {"deploy_id": FIRST, "release": "a" * 40, "compatible_back_to": "b" * 40}
        second = record(home, state="open", deploy_id=SECOND, release="b" * 40)
        green = {"deploy_id": FIRST, "release": "a" * 40}
        assert (second["stays"], second["taken"]) == ([told], {"green": green})
        record(home, state="phase", deploy_id=SECOND, phase="preflight", data={"color": "blue"})
        record(home, state="closed", deploy_id=SECOND, outcome="done", color="blue")
        third = record(home, state="open", deploy_id=THIRD, release="a" * 40)
        blue = {"deploy_id": SECOND, "release": "b" * 40}
        assert (third["stays"], third["taken"]) == ([], {"green": green, "blue": blue})
        record(home, state="closed", deploy_id=THIRD, outcome="done", color="green")
        # One that failed takes a colour only where a host may hold its release.
        for minute, installed in ((20, []), (30, ["app1"])):
            deploy, after = (f"20261122t09{number}00z-0001" for number in (minute, minute + 1))
            record(home, state="open", deploy_id=deploy, release="c" * 40)
            record(home, state="phase", deploy_id=deploy, phase="preflight", data={"color": "green"})
            record(home, state="phase", deploy_id=deploy, phase="install", status="failed", data={"installed": installed})
            record(home, state="closed", deploy_id=deploy, outcome="failed_reverted", color="blue")
            holds = {"deploy_id": deploy, "release": "c" * 40} if installed else green
            assert record(home, state="open", deploy_id=after, release="a" * 40)["taken"] == {"green": holds, "blue": blue}
            record(home, state="closed", deploy_id=after, outcome="done", color="blue")


def promtool(*words: str | Path, **keywords: t.Any) -> None:
    subprocess.run([Path(lab("get", "prometheus")).with_name("promtool"), *words], check=True, **keywords)


def test_the_rules_by_promtool() -> None:
    promtool("check", "rules", RULES / "reversible.rules.yml")
    promtool("test", "rules", RULES / "reversible.rules.test.yml")


class Prometheus:
    """The real one, scraping every second what stands in a file, as node-exporter would show it. No alert waits: `for` is taken away."""

    def __init__(self, folder: Path, metrics: Path) -> None:
        class Exporter(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # pylint: disable=invalid-name
                text = metrics.read_bytes()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_words: t.Any) -> None:
                pass

        self.exporter = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
        threading.Thread(target=self.exporter.serve_forever, daemon=True).start()
        port = daemon.free_port()
        self.url = f"http://127.0.0.1:{port}"
        rules = re.sub(r"(?m)^ +for: .*\n", "", (RULES / "reversible.rules.yml").read_text())
        (folder / "rules.yml").write_text(rules)
        target = {"targets": [f"127.0.0.1:{self.exporter.server_port}"]}
        often = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "200ms"}
        config = {"global": often, "rule_files": ["rules.yml"],
                  "scrape_configs": [{"job_name": "node", "static_configs": [target]}]}
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.log = open(folder / "prometheus.log", "w", encoding="utf-8")
        where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        self.process = subprocess.Popen([lab("get", "prometheus"), *where], stdout=self.log, stderr=self.log)

    def ask(self, path: str) -> t.Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return json.load(answer)["data"]
        except OSError:
            assert self.process.poll() is None, "Prometheus has ended"
            return None

    def firing(self) -> set[str]:
        alerts = (self.ask("/api/v1/alerts") or {"alerts": []})["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def scraped(self) -> bool:
        found = self.ask("/api/v1/query?query=reversible_deploy_open")
        return bool(found and found["result"])

    def judge_again(self) -> None:
        """Wait until the rules have been evaluated from beginning to end."""
        for _ in range(2):
            before = self._last_evaluation()
            wait_for(lambda before=before: self._last_evaluation() != before, "the rules are evaluated", 120)

    def _last_evaluation(self) -> str:
        return max(group["lastEvaluation"] for group in (self.ask("/api/v1/rules") or {"groups": [{"lastEvaluation": ""}]})["groups"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
        self.exporter.shutdown()
        self.exporter.server_close()


def test_the_alerts_in_a_real_prometheus(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".reversible-test-", dir=Path.home()) as folder:
        home = Path(folder)
        record(home, state="open", deploy_id=FIRST, release=SHA)
        record(home, state="restore_point", deploy_id=FIRST, layer="color", name="blue")
        record(home, state="closed", deploy_id=FIRST, outcome="done", color="green")
        prometheus = Prometheus(tmp_path, home / "shop.prom")
        try:
            wait_for(prometheus.scraped, "the metrics are scraped", 120)
            prometheus.judge_again()
            assert prometheus.firing() == set()
            info = wait_for(lambda: prometheus.ask("/api/v1/query?query=reversible_deploy_info")["result"], "what was deployed", 120)
            assert (info[0]["metric"]["color"], info[0]["metric"]["release"]) == ("green", SHA)

            time.sleep(1)  # a second later than the last success
            record(home, state="open", deploy_id=SECOND, lease=1)
            wait_for(lambda: prometheus.firing() == {"DeployAbandoned"}, "an open run that is silent is seen", 120)
            record(home, state="closed", deploy_id=SECOND, outcome="failed_reverted", color="green")
            wait_for(lambda: prometheus.firing() == {"DeployFailed"}, "it is closed, and the failure is seen", 120)
            record(home, state="report", deploy_id=FIRST, layers={"color": {"open": False, "why": "blue is gone"}})
            wait_for(lambda: prometheus.firing() == {"DeployFailed", "WayBackMissing"}, "no way back is seen", 120)
            time.sleep(1)
            record(home, state="open", deploy_id=THIRD)
            record(home, state="closed", deploy_id=THIRD, outcome="done", color="blue")
            record(home, state="report", deploy_id=FIRST, layers={"color": {"open": True, "holds": ["blue"]}})
            wait_for(lambda: prometheus.firing() == set(), "all is well again", 120)
        finally:
            prometheus.close()


def test_what_is_written_is_what_promtool_reads(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".reversible-test-", dir=Path.home()) as folder:
        home = Path(folder)
        record(home, state="open", deploy_id=FIRST, release='a"b\\c\nd')
        record(home, state="closed", deploy_id=FIRST, outcome="done", color="green")
        record(home, state="report", deploy_id=FIRST, layers={'x"y': {"open": False}})
        with open(home / "shop.prom", encoding="utf-8") as metrics:
            promtool("check", "metrics", stdin=metrics)
