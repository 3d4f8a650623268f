# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate about containers, units, logs and restarts.

Files and, where the lab can have one, systemd are real. Docker, Incus and Proxmox are stand-ins that answer in the clients' own JSON.
"""
from __future__ import annotations

import os
import time
import typing as t
from pathlib import Path

import pytest
from edge import Call
from gate import ONCE, Fakes, between_looks, fails, fakes, gate, holds  # noqa: F401  (fakes is a fixture)
from harness import Ansible, system

PROJECT, SERVICE, ONE_OFF = (f"com.docker.compose.{label}" for label in ("project", "service", "oneoff"))


def container(
    name: str, status: str = "running", health: str = "", restarts: int = 0, said: str = "", code: int = 0, **labels: str
) -> dict[str, t.Any]:
    """As `docker inspect` prints it (20.10 to 28)."""
    state: dict[str, t.Any] = {"Status": status, "Running": status == "running", "Paused": False, "Restarting": False, "ExitCode": code}
    if health:
        log = [{"Start": "2026-11-21T08:45:00Z", "End": "2026-11-21T08:45:01Z", "ExitCode": 1 if said else 0, "Output": said}]
        state["Health"] = {"Status": health, "FailingStreak": 0, "Log": log}
    return {"Id": f"{name}-id", "Name": f"/{name}", "RestartCount": restarts, "State": state, "Config": {"Labels": labels or None}}


def inspected(fakes: Fakes, *containers: dict[str, t.Any], by: t.Sequence[str] = ()) -> dict[str, str]:
    names = by or [one["Name"][1:] for one in containers]
    fakes.say("docker", ["inspect", "--type", "container", "--", *names], list(containers))
    return fakes.environ


# docker and compose


def test_docker_healthy(fakes: Fakes) -> None:
    environ = inspected(fakes, container("web", health="healthy"), container("db"))
    row = holds({"kind": "docker", "containers": ["web", "db"]}, environ=environ)
    assert row["answer"] == "2 of 2 healthy, 1 of them running without a check" and row["value"] == 2


@pytest.mark.parametrize("state, words", [
    ({"status": "exited", "code": 137}, "web is exited with 137, not running"),
    ({"status": "paused"}, "web is paused, not running"),
    ({"status": "restarting"}, "web is restarting, not running"),
    ({"health": "starting"}, "web is starting"),
    ({"health": "unhealthy", "said": "trying\ncurl: (7) refused\x1b[0m\n"}, "web is unhealthy: curl: (7) refused\\u{1b}[0m"),
])
def test_docker_not_healthy(fakes: Fakes, state: dict[str, t.Any], words: str) -> None:
    environ = inspected(fakes, container("db"), container("web", **state))
    fails({"kind": "docker", "containers": ["db", "web"]}, words, environ=environ)


def test_docker_that_has_no_answer(fakes: Fakes) -> None:
    probe = {"kind": "docker", "containers": ["web"]}
    argv = ["inspect", "--type", "container", "--", "web"]
    for stderr, words in (
        ("Error: No such container: web\n", "there is no container web"),
        ("error: no such object: web\n", "there is no container web"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.\n", "Cannot connect to the Docker daemon"),
    ):
        fakes.say("docker", argv, "[]\n", stderr, 1)
        fails(probe, words, environ=fakes.environ)
    for stdout, words in (("nonsense", "as JSON"), ("[]", "did not report all containers"), ("[{}]", "as JSON")):
        fakes.say("docker", argv, stdout)
        fails(probe, words, environ=fakes.environ)
    nowhere = {"PATH": str(fakes.folder / "empty")}
    also = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")  # where programs are looked for after PATH
    if not any(os.access(f"{folder}/docker", os.X_OK) for folder in also):
        fails(probe, "cannot run docker: this machine has no such program", environ=nowhere)


def test_a_compose_project(fakes: Fakes) -> None:
    labels = {PROJECT: "shop", ONE_OFF: "False"}
    web = container("shop-web-1", health="healthy", **{**labels, SERVICE: "web"})
    db = container("shop-db-1", health="healthy", **{**labels, SERVICE: "db"})
    job = container("shop-job-1", "exited", **{**labels, SERVICE: "job"})
    once = container("shop-web-run-1", "exited", code=1, **{PROJECT: "shop", SERVICE: "web", ONE_OFF: "True"})

    def there_are(*containers: dict[str, t.Any]) -> dict[str, str]:
        ids = [container["Id"] for container in containers]
        asked = ["ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={PROJECT}=shop"]
        fakes.say("docker", asked, "".join(f"{one}\n" for one in ids))
        return inspected(fakes, *containers, by=ids)

    probe = {"kind": "compose", "project": "shop"}
    assert holds(probe, environ=there_are(web, db, once))["answer"] == "2 of 2 healthy"
    holds({**probe, "count": 2}, environ=there_are(web, db, once))
    fails({**probe, "count": 3}, "expected 3 containers, there are 2", environ=there_are(web, db))
    fails(probe, "shop-job-1 is exited with 0, not running", environ=there_are(web, db, job))
    holds({**probe, "services": ["web", "db"]}, environ=there_are(web, db, job))
    fails({**probe, "services": ["web", "cache"]}, "the service cache has no container", environ=there_are(web, db))
    fails(probe, "the project shop has no containers", environ=there_are())


# incus and pct


def test_incus(fakes: Fakes) -> None:
    asked = ["list", "web", "--format", "json", "--project", "shop"]
    for status, words in (("Running", ""), ("Stopped", "web is stopped, not running"), ("Frozen", "web is frozen")):
        fakes.say("incus", asked, [{"name": "web2", "status": "Running"}, {"name": "web", "status": status}])
        probe = {"kind": "incus", "instance": "web", "project": "shop"}
        if words:
            fails(probe, words, environ=fakes.environ)
        else:
            holds(probe, environ=fakes.environ)
    # A name is a pattern to incus: another instance is no answer.
    fakes.say("incus", ["list", "web", "--format", "json"], [{"name": "web2", "status": "Running"}])
    fails({"kind": "incus", "instance": "web"}, "there is no instance web", environ=fakes.environ)


def test_pct(fakes: Fakes) -> None:
    node = os.uname().nodename.partition(".")[0]
    for where, extra in ((node, {}), ("pve2", {"node": "pve2"})):
        path = f"/nodes/{where}/lxc/2050/status/current"
        fakes.say("pvesh", ["get", path, "--output-format", "json"], {"status": "running", "vmid": 2050, "uptime": 12})
        holds({"kind": "pct", "vmid": 2050, **extra}, environ=fakes.environ)
        fakes.say("pvesh", ["get", path, "--output-format", "json"], {"status": "stopped", "vmid": 2050})
        fails({"kind": "pct", "vmid": 2050, **extra}, "2050 is stopped, not running", environ=fakes.environ)
    gone = ["get", "/nodes/pve2/lxc/2051/status/current", "--output-format", "json"]
    fakes.say("pvesh", gone, "", "Configuration file 'nodes/pve2/lxc/2051.conf' does not exist\n", 2)
    fails({"kind": "pct", "vmid": 2051, "node": "pve2"}, "does not exist", environ=fakes.environ)


# units


def unit(fakes: Fakes, **properties: t.Any) -> dict[str, str]:
    text = "".join(f"{name}={value}\n" for name, value in properties.items())
    fakes.say("systemctl", ["show", "--property=LoadState,ActiveState,SubState,Result,NRestarts", "--", "shop.service"], text)
    return fakes.environ


UP = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": 2}


def test_units(fakes: Fakes) -> None:
    probe = {"kind": "unit", "unit": "shop.service"}
    row = holds(probe, environ=unit(fakes, **UP))
    assert (row["answer"], row["value"]) == ("active (running), 2 restarts", 2)
    dead = {**UP, "ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}
    fails(probe, "expected shop.service to be active, it is failed (failed, result exit-code)", environ=unit(fakes, **dead))
    holds({**probe, "state": ["failed", "inactive"]}, environ=unit(fakes, **dead))
    fails(probe, "there is no unit shop.service", environ=unit(fakes, LoadState="not-found", ActiveState="inactive"))
    fails(probe, "printed no LoadState", environ=unit(fakes))


def test_a_unit_that_was_restarted_since(fakes: Fakes) -> None:
    probe = {"name": "it", "kind": "unit", "unit": "shop.service", "max_restarts": 1}
    before = gate(probe, environ=unit(fakes, **UP))
    for restarts, words in ((3, ""), (4, "was restarted 2 times since"), (1, ""), (0, "")):
        now = unit(fakes, **{**UP, "NRestarts": restarts})
        if words:
            fails(probe, words, baseline=before, environ=now)
        else:
            holds(probe, baseline=before, environ=now)
    fails(probe, "the baseline has no restart count", baseline={"probes": []}, environ=unit(fakes, **UP))


# restarts


def test_restarts_since_the_baseline(fakes: Fakes) -> None:
    probe = {"name": "it", "kind": "restarts", "containers": ["web", "db"], "window": 0}
    observed = gate(probe, require=0, environ=inspected(fakes, container("web", restarts=3), container("db")))
    assert "nothing can be counted" in observed["warnings"][0]
    holds(probe, baseline=observed, environ=inspected(fakes, container("web", restarts=3), container("db")))
    crashed = inspected(fakes, container("web", restarts=5), container("db"))
    fails(probe, "restarted: web 2 times", baseline=observed, environ=crashed)
    holds({**probe, "max": 2}, baseline=observed, environ=crashed)
    # Another container of that name counts from nothing.
    new = {**container("web", restarts=1), "Id": "another"}
    fails(probe, "restarted: web 1 times", baseline=observed, environ=inspected(fakes, new, container("db")))


def test_restarts_within_a_window(fakes: Fakes) -> None:
    environ = inspected(fakes, container("web", restarts=3))
    holds({"kind": "restarts", "containers": ["web"], "window": 0.5}, environ=environ)
    probe = {**ONCE, "name": "it", "kind": "restarts", "containers": ["web"], "window": 2}
    with between_looks(lambda: Call("health_gate", {"probes": [probe]}, **environ)) as running:
        inspected(fakes, container("web", restarts=4))
    [row] = running.wait()["probes"]
    assert row["ok"] is False and "restarted: web 1 times" in row["why"], row
    fails({"kind": "restarts", "containers": ["web"], "window": 60}, "leaves no time to watch for 60 s", environ=environ, deadline=2)


# logs


def append(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def test_a_file_watched_for_a_while(tmp_path: Path) -> None:
    path, noisy = tmp_path / "shop.log", tmp_path / "noisy.log"
    for log in (path, noisy):
        append(log, "ERROR long ago\n")
    probe = {**ONCE, "kind": "logs", "regex": r"\b(ERROR|FATAL)\b", "ignore": "healthz", "window": 2}
    probes = [
        {**probe, "name": "nothing of it", "path": str(path)},
        {**probe, "name": "some of it", "path": str(noisy)},
        {**probe, "name": "as much as may be", "path": str(noisy), "max": 2},
    ]
    with between_looks(lambda: Call("health_gate", {"probes": probes})) as running:
        append(path, "fine\nERRORS: none\nERROR healthz\n")
        append(noisy, "ERROR: \x1b[31mred\nFATAL\n")
    quiet, some, enough = running.wait()["probes"]
    assert quiet["ok"] and quiet["answer"] == "3 new lines, 0 of them match", quiet
    assert not some["ok"] and some["why"] == "2 new lines match, the first: ERROR: \\u{1b}[31mred" and some["value"] == 2, some
    assert enough["ok"], enough
    probe = {**probe, "path": str(path), "window": 0.1}
    fails({**probe, "window": 0}, "nothing can be counted")
    fails({**probe, "path": f"{path}.gone"}, "there is no log")
    fails({**probe, "path": str(tmp_path)}, "not a regular file")


def test_a_file_since_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "shop.log"
    append(path, "ERROR long ago\n")
    probe = {"name": "it", "kind": "logs", "path": str(path), "text": "ERROR (", "window": 0}
    before = gate(probe, require=0)
    append(path, "ERROR\nfine\n")
    assert holds(probe, baseline=before)["answer"] == "2 new lines, 0 of them match"
    append(path, "an ERROR (of ours)")
    os.rename(path, f"{path}.1")
    append(path, "ERROR (after the rotation)\n")
    row = fails(probe, "2 new lines match, the first: an ERROR (of ours)", baseline=before)
    assert row["answer"] == "4 new lines, 2 of them match"
    os.rename(f"{path}.1", f"{path}.2")
    fails(probe, "was replaced by another file since the baseline: take a new baseline", baseline=before)
    before = gate(probe, require=0)
    path.write_text("", encoding="utf-8")
    fails(probe, "was truncated since the baseline", baseline=before)
    fails(probe, "the baseline has no position in this log", baseline={"probes": [{"name": "it", "kind": "logs", "ok": False}]})


def test_docker_logs(fakes: Fakes) -> None:
    """Both streams, since a time that Docker understands."""
    script = fakes.folder / "docker"
    script.write_text("#!/bin/sh\necho \"$*\" >> \"$0.asked\"\necho 'ERROR one'; echo 'ERROR two' >&2\n", encoding="utf-8")
    script.chmod(0o755)
    fails({"kind": "logs", "container": "web", "text": "ERROR", "window": 0.1}, "2 new lines match", environ=fakes.environ)
    asked = (fakes.folder / "docker.asked").read_text(encoding="utf-8").split()
    assert asked[:2] == ["logs", "--since"] and asked[3:] == ["--", "web"], asked
    assert abs(float(asked[2]) - time.time()) < 60 and len(asked[2].partition(".")[2]) == 9


@pytest.mark.parametrize("where, client, before_words", [
    ({"instance": "web", "project": "shop"}, "incus", ["exec", "web", "--project", "shop", "--force-noninteractive", "--"]),
    ({"vmid": 2050}, "pct", ["exec", "2050", "--"]),
])
def test_a_file_inside(fakes: Fakes, where: dict[str, t.Any], client: str, before_words: list[str]) -> None:
    stat, path = [*before_words, "stat", "-L", "-c", "%i %s", "/var/log/shop.log"], "/var/log/shop.log"
    probe = {"name": "it", "kind": "logs", "path": path, "regex": "(?i)error", "window": 0, **where}
    fakes.say(client, stat, "77 100\n")
    fakes.say(client, [*before_words, "tail", "-c", "+101", path], "")
    before = gate(probe, require=0, environ=fakes.environ)
    assert before["probes"][0]["seen"] == {"log": {"inode": 77, "size": 100}}
    # A client that loses what was printed makes no log clean.
    fakes.say(client, stat, "77 119\n")
    fails(probe, "the output of tail in the container was incomplete", baseline=before, environ=fakes.environ)
    fakes.say(client, [*before_words, "tail", "-c", "+101", path], "fine\nan Error\nfine\n")
    fails(probe, "1 new lines match, the first: an Error", baseline=before, environ=fakes.environ)
    fakes.say(client, stat, "78 130\n")
    fails(probe, "another file", baseline=before, environ=fakes.environ)
    fakes.say(client, stat, "")
    fails(probe, "the output of stat in the container was incomplete", baseline=before, environ=fakes.environ)
    fakes.say(client, stat, "", "stat: cannot stat '/var/log/shop.log': No such file or directory\n", 1)
    fails(probe, "No such file", baseline=before, environ=fakes.environ)
    # Nor does a failure come through without its words, when they were lost once.
    fakes.say(client, stat, "", "", 1)
    fails(probe, "failed (rc 1)", baseline=before, environ=fakes.environ)
    said = "printf 'stat: No such file\\n' >&2"
    (fakes.folder / client).write_text(f"#!/bin/sh\nif ! mkdir {fakes.folder}/asked-once 2> /dev/null; then {said}; fi\nexit 1\n", encoding="utf-8")
    fails(probe, "No such file", baseline=before, environ=fakes.environ)


# systemd itself


def test_real_units_and_the_real_journal(edge_core: str, tmp_path: Path) -> None:
    ansible = Ansible(edge_core, tmp_path, system("systemd"))
    module, host = "reversible.deploy.health_gate", "systemd_root"
    probes = [
        {"name": "haproxy", "kind": "unit", "unit": "haproxy.service", "max_restarts": 0},
        {"name": "journal", "kind": "logs", "unit": "shop-test.service", "text": "ERROR", "window": 1, "tries": 1},
        {"name": "restarts", "kind": "restarts", "unit": "haproxy.service", "window": 1},
    ]
    gone = {"name": "gone", "kind": "unit", "unit": "no-such.service", "tries": 1}
    # The journal of a unit that says what is in a file each time that it is started.
    ansible.on(host, "printf '[Service]\\nType=oneshot\\nExecStart=/bin/cat /run/shop-says\\n' > /run/systemd/system/shop-test.service")
    ansible.on(host, "echo ERROR before > /run/shop-says && echo ERROR now > /run/shop-says-next")
    ansible.on(host, "systemctl daemon-reload && systemctl start shop-test")

    def do(name: str, *argv: str) -> dict[str, t.Any]:
        return {"name": name, module: {"probes": [{"name": name, "kind": "command", "argv": list(argv)}]}}

    before = {"name": "before", module: {"probes": probes}, "register": "before"}
    quiet = {"name": "quiet", module: {"probes": probes, "baseline": "{{ before }}"}}
    loud = {"name": "loud", module: {"probes": [*probes, gone], "baseline": "{{ before }}"}}
    write, restart = do("write", "cp", "/run/shop-says-next", "/run/shop-says"), do("restart", "systemctl", "restart", "shop-test")
    run = ansible.play([before, quiet, write, restart, loud], host)
    ansible.on(host, "rm -f /run/systemd/system/shop-test.service /run/shop-says* && systemctl daemon-reload")
    assert [run.named(name).status for name in ("before", "quiet", "write", "restart", "loud")] == ["ok"] * 4 + ["failed"], run.output
    why = {row["name"]: row["why"] for row in run.named("loud")["probes"]}
    assert why["haproxy"] is None and why["restarts"] is None
    assert why["journal"] == "1 new lines match, the first: ERROR now"
    assert why["gone"] == "there is no unit no-such.service"
