# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""health_gate: the gate itself, and the kinds http, tcp, command and disk, against real servers, programs and filesystems.

Containers, units and logs are in test_health_gate_machines.py, metrics in test_health_gate_prometheus.py, bad servers and bad input in
tests/faults/test_health_gate_faults.py.
"""
from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest
from edge import Call
from gate import ONCE, Servers, answer, certificates, fails, gate, holds, in_turn, refused, serve  # noqa: F401  (serve is a fixture)
from harness import LOCAL, ROOT, Ansible, staged, system, wait_for

ABSENT = {"name": "absent", "kind": "command", "argv": ["false"]}
PRESENT = {"name": "present", "kind": "command", "argv": ["true"]}


# The gate itself


def test_a_table_in_the_order_given(serve: Servers, tmp_path: Path) -> None:
    server = serve(answer('{"status": "up"}'))
    result = gate(
        {"name": "web", "kind": "http", "url": f"{server.url}health"},
        {"name": "port", "kind": "tcp", "host": "localhost", "port": server.port},
        {"name": "program", "kind": "command", "argv": ["echo", "fine"]},
        {"name": "disk", "kind": "disk", "path": str(tmp_path), "max": 1},
    )
    assert not result.get("failed") and result["msg"] == "4 of 4 probes hold"
    assert (result["held"], result["required"], result["failed_probes"]) == (4, 4, [])
    rows = result["probes"]
    assert [row["name"] for row in rows] == ["web", "port", "program", "disk"]
    assert [row["answer"] for row in rows[:3]] == ["status 200, 16 bytes", "connected", "rc 0: fine"]
    for row in rows:
        assert row["ok"] and row["tries"] == 1 and row["why"] is None and row["milliseconds"] >= 0, row
    assert 0 < rows[3]["value"] <= 1 and "of the space" in rows[3]["answer"]


def test_the_names_that_failed_come_first() -> None:
    result = gate(ABSENT, PRESENT, {**ABSENT, "name": "other"})
    assert result["failed"] and result["reason"] == "gate_failed" and result["changed"] is False
    assert result["msg"] == "2 of 3 probes failed: absent, other; absent: false failed (rc 1); other: false failed (rc 1)"
    assert result["failed_probes"] == ["absent", "other"] and result["held"] == 1
    assert [row["ok"] for row in result["probes"]] == [False, True, False]


def test_some_may_be_enough() -> None:
    for require, ok in ((0, True), ("1", True), (2, False), ("all", False)):
        result = gate(ABSENT, PRESENT, require=require)
        assert bool(result.get("failed")) is not ok, result
        if ok:
            assert result["warnings"] == ["probe absent: false failed (rc 1)"]
    assert "1 of 3 probes failed (3 must hold)" not in gate(ABSENT, PRESENT, {**PRESENT, "name": "more"}, require=2)["msg"]


def test_check_mode_asks_nothing(serve: Servers, tmp_path: Path) -> None:
    server, touched = serve(answer()), tmp_path / "touched"
    touch = {"name": "touch", "kind": "command", "argv": ["touch", str(touched)]}
    result = gate({"name": "web", "kind": "http", "url": server.url}, touch, check=True)
    assert not result.get("failed") and result["msg"].startswith("not evaluated")
    assert [(row["ok"], row["tries"], row["why"]) for row in result["probes"]] == [(None, 0, "not evaluated")] * 2
    assert not server.requests and not touched.exists()


class Held:
    """Answers only when it is told to, and counts how many wait for it."""

    def __init__(self) -> None:
        self.lock, self.let_go = threading.Lock(), threading.Event()
        self.waiting = self.most = 0

    def __call__(self, connection: t.Any) -> None:
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        assert self.let_go.wait(100)
        with self.lock:
            self.waiting -= 1   # before the answer: whoever has it may ask again at once
        answer()(connection)


def held_probes(serve: Servers, held: Held, count: int) -> Call:
    url = serve(held).url
    probes = [{**ONCE, "name": f"p{number}", "kind": "http", "url": url, "timeout": 100} for number in range(count)]
    return Call("health_gate", {"probes": probes, "deadline": 100})


def test_twenty_probes_are_asked_side_by_side(serve: Servers) -> None:
    held = Held()
    running = held_probes(serve, held, 20)
    wait_for(lambda: held.waiting == 20, "all of them wait for an answer", 60)
    held.let_go.set()
    result = running.wait()
    assert not result.get("failed") and result["held"] == 20, result


def test_at_most_32_at_once(serve: Servers) -> None:
    held = Held()
    running = held_probes(serve, held, 50)
    wait_for(lambda: held.waiting == 32, "as many as may wait at once", 60)
    threads = [path.read_text(encoding="utf-8") for path in Path(f"/proc/{running.pid}/task").glob("*/comm")]
    assert threads.count("probe\n") == 32, threads
    held.let_go.set()
    result = running.wait()
    assert not result.get("failed") and len(result["probes"]) == 50 and held.most == 32, (result, held.most)


def test_tries_until_it_holds(serve: Servers) -> None:
    down, up = answer("", "503 Service Unavailable"), answer()
    row = holds({"kind": "http", "url": serve(in_turn(down, down, up)).url, "tries": 5})
    assert row["tries"] == 3
    row = fails({"kind": "http", "url": serve(down).url, "tries": 3}, "got 503 (asked 3 times)")
    assert row["tries"] == 3 and row["answer"] == "status 503, 0 bytes"


def test_so_many_in_a_row(serve: Servers) -> None:
    down, up = answer("", "503 Service Unavailable"), answer()
    flapping = in_turn(up, down, up, up, up)
    assert holds({"kind": "http", "url": serve(flapping).url, "tries": 9, "consecutive": 3})["tries"] == 5
    fails({"kind": "http", "url": serve(in_turn(down, up)).url, "tries": 3, "consecutive": 3}, "it held 2 times in a row, expected 3")


def test_one_deadline_for_everything() -> None:
    """One after the other, or each with the time that is its own, they would take longer than anyone waits for the answer."""
    sleeps = {"kind": "command", "argv": ["sleep", "600"], "timeout": 600, "tries": 9}
    result = gate(*({"name": f"p{number}", **sleeps} for number in range(40)), {**PRESENT, "name": "last"}, deadline=1)
    assert result["failed"] and len(result["failed_probes"]) == 41
    # A machine with much else to do may not come to end them all in time, and then says that they hang.
    assert all(re.search(r"not done after [01](\.\d+)? s|deadline of 1 s passed before|it hangs", row["why"]) for row in result["probes"]), result
    assert result["probes"][40]["tries"] == 0, "its turn came after the deadline"


# http


BODY = '{"status": "up", "build": {"sha": "4f2d1c9", "number": 7}, "checks": [{"db": true}]}'
GOOD = [
    {},
    {"status": [200]},
    {"text": '"up"'},
    {"json": {"status": "up", "build.number": 7, "/checks/0/db": True}},
    {"response_headers": {"x-release": "4f2d1c9", "Content-Type": "application/json"}},
    {"release": "4f2d1c9", "release_field": "build.sha", "release_header": "X-Release"},
]
BAD = [
    ({"status": [204, 302]}, "expected status 204 or 302, got 200"),
    ({"text": "down"}, "expected down in the body"),
    ({"json": {"status": "down"}}, "expected down in the JSON field status, got up"),
    ({"json": {"build.number": "7"}}, "expected 7 in the JSON field build.number, got the number 7"),
    ({"json": {"nothing": None}}, "there is no such field"),
    ({"response_headers": {"X-Release": "other"}}, "expected other in the header X-Release, got 4f2d1c9"),
    ({"release": "0b8e7d6", "release_field": "build.sha"}, "expected 0b8e7d6 in the JSON field build.sha, got 4f2d1c9"),
    ({"release": "0b8e7d6", "release_header": "X-Release"}, "expected 0b8e7d6 in the header X-Release"),
]


@pytest.mark.parametrize("expected", GOOD, ids=lambda expected: ",".join(expected) or "nothing")
def test_an_answer_as_it_must_be(serve: Servers, expected: dict[str, t.Any]) -> None:
    server = serve(answer(BODY, X_Release="4f2d1c9", Content_Type="application/json"))
    holds({"kind": "http", "url": server.url, **expected})


@pytest.mark.parametrize("expected, words", BAD, ids=[words for _, words in BAD])
def test_an_answer_that_is_not(serve: Servers, expected: dict[str, t.Any], words: str) -> None:
    server = serve(answer(BODY, X_Release="4f2d1c9", Content_Type="application/json"))
    fails({"kind": "http", "url": server.url, **expected}, words)


def test_what_is_sent(serve: Servers) -> None:
    server = serve(answer())
    probe = {"kind": "http", "url": "http://shop.example:8080/a?b=c", "connect_to": f"127.0.0.1:{server.port}"}
    holds(probe)
    assert server.requests[0].startswith("GET /a?b=c HTTP/1.1\r\nHost: shop.example:8080\r\n")
    holds({"kind": "http", "url": server.url, "headers": {"Host": "staging.shop.example", "Authorization": "Bearer s3cr3t-token"}})
    assert "Host: staging.shop.example\r\n" in server.requests[1] and "Authorization: Bearer s3cr3t-token\r\n" in server.requests[1]


def test_a_token_is_never_shown(serve: Servers) -> None:
    server = serve(answer("you sent s3cr3t-token", "403 Forbidden"))
    asked = {"name": "it", "kind": "http", "url": server.url, "headers": {"X-Token": "s3cr3t-token"}}
    result = gate({**asked, "status": [403], "text": "welcome"})
    assert result["failed"] and "s3cr3t" not in str(result) and "you sent ****" in result["msg"]


def test_redirects_are_followed_only_when_asked(serve: Servers) -> None:
    target = serve(answer("there"))
    server = serve(answer("", "302 Found", Location=f"{target.url}x"))
    fails({"kind": "http", "url": server.url}, "expected status 200 to 299, got 302")
    assert not target.requests
    holds({"kind": "http", "url": server.url, "redirects": 1, "text": "there"})


def test_certificates(serve: Servers, tmp_path: Path) -> None:
    made = certificates(tmp_path, "shop.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server = serve(answer(), wrap=lambda connection: context.wrap_socket(connection, server_side=True))
    place = {"kind": "http", "connect_to": f"127.0.0.1:{server.port}"}
    holds({**place, "url": "https://shop.example/", "ca_file": str(made.authority)})
    fails({**place, "url": "https://other.example/", "ca_file": str(made.authority)}, "other.example")
    fails({**place, "url": "https://shop.example/"})
    result = gate({**place, "name": "it", "url": "https://other.example/", "insecure": True})
    assert not result.get("failed")
    assert result["warnings"] == ["probe it: insecure: the certificate is not checked, so anyone on the network path can answer"]


# command, disk


def test_programs() -> None:
    row = holds({"kind": "command", "argv": ["sh", "-c", "echo one; echo two; exit 3"], "rc": [0, 3], "stdout": "one"})
    assert row["answer"] == "rc 3: two"
    fails({"kind": "command", "argv": ["sh", "-c", "echo broken >&2; exit 4"]}, "failed (rc 4): broken")
    lost = {"kind": "command", "argv": ["echo", "all is lost"], "stdout": "all is well"}
    fails(lost, 'expected "all is well" in its output, whose last line is: all is lost')
    fails({"kind": "command", "argv": ["true"], "stdout": "x"}, "nothing was printed")
    fails({"kind": "command", "argv": ["no-such-program-here"]}, "cannot run no-such-program-here: this machine has no such program")
    fails({"kind": "command", "argv": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], "timeout": 0.3}, "was not done after 0.3 s")
    assert holds({"kind": "command", "argv": ["printf", "\\033[31mred\\n\\n"]})["answer"] == "rc 0: \\u{1b}[31mred"


def test_no_shell_and_no_environment_but_what_is_given() -> None:
    assert holds({"kind": "command", "argv": ["echo", "$HOME; `id`"]})["answer"] == "rc 0: $HOME; `id`"
    probe = {"kind": "command", "argv": ["sh", "-c", "echo ${LEAK:-none} $API_TOKEN $COLOR"]}
    probe["environment"] = {"API_TOKEN": "s3cr3t-token", "COLOR": "deep-blue"}
    assert holds(probe, environ={"LEAK": "leaked"})["answer"] == "rc 0: none ******** deep-blue"


@pytest.mark.skipif(os.geteuid() != 0, reason="a filesystem is mounted to be filled")
def test_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=100", "tmpfs", place], check=True)
    try:
        holds({"kind": "disk", "path": str(place), "max": 0.5})
        (place / "big").write_bytes(b"x" * (800 << 10))
        row = fails({"kind": "disk", "path": str(place), "max": 0.5}, f"{place} is fuller than 50.0 %")
        assert 0.7 < row["value"] < 0.9
        (place / "big").unlink()
        for number in range(95):
            (place / str(number)).touch()
        assert fails({"kind": "disk", "path": str(place)}, "fuller than 90.0 %")["value"] > 0.9
    finally:
        subprocess.run(["umount", place], check=True)
    fails({"kind": "disk", "path": f"{place}/gone"}, "cannot read the usage of the filesystem of")


# As Ansible gives it


@pytest.fixture
def bare(edge_core: str, tmp_path: Path) -> Ansible:
    return Ansible(edge_core, tmp_path, LOCAL | system("bare"))


def test_a_registered_result_is_a_baseline(bare: Ansible) -> None:
    """On a target without Python: before, a line is written, after."""
    bare.on("bare_root", "printf 'ERROR old\\n' > /root/shop.log")
    probes = [{"name": "log", "kind": "logs", "path": "/root/shop.log", "text": "ERROR", "window": 0, "tries": 1}]
    module = "reversible.deploy.health_gate"
    before = {"name": "before", module: {"probes": probes, "require": 0}, "register": "before"}
    after = {module: {"probes": probes, "baseline": "{{ before }}"}}
    write = {"name": "write", module: {"probes": [{"name": "tee", "kind": "command", "argv": ["cp", "/root/new.log", "/root/shop.log"]}]}}
    bare.on("bare_root", "printf 'ERROR old\\nERROR new\\n' > /root/new.log")
    run = bare.play([before, {**after, "name": "quiet"}, write, {**after, "name": "after"}], "bare_root")
    bare.on("bare_root", "rm -f /root/shop.log /root/new.log")
    assert run.named("before").status == "ok" and run.named("before")["probes"][0]["seen"], run.output
    assert run.named("quiet").status == "ok", run.output
    assert run.named("after").status == "failed", run.output
    assert run.named("after").msg == "1 of 1 probe failed: log; log: 1 new lines match, the first: ERROR new"


def test_a_line_that_must_come(tmp_path: Path) -> None:
    """It comes from what was started after the baseline, also into a log that was missing then."""
    log = tmp_path / "shop.log"
    probe = {"name": "it", "kind": "logs", "path": str(log), "text": "ready", "min": 1, "tries": 1}
    missing = gate(probe, require=0)
    assert not missing.get("warnings"), missing
    fails(probe, "expected 1 new lines that match, got 0 of 0 new lines", baseline=missing)
    log.write_text("starting\nready\n")
    holds(probe, baseline=missing)
    before = gate(probe, require=0)
    fails(probe, "got 0 of 0 new lines", baseline=before)
    with log.open("a") as file:
        file.write("starting again\n")
        file.flush()
        fails(probe, "got 0 of 1 new lines", baseline=before)
        file.write("ready again\n")
    holds(probe, baseline=before)
    fails({**probe, "min": 2}, "expected 2 new lines that match, got 1 of 2 new lines", baseline=before)


def test_an_answer_is_as_fast_as_it_was(serve: Servers) -> None:
    def after_a_pause(connection: t.Any) -> None:
        threading.Event().wait(0.3)
        answer()(connection)

    web = {"name": "it", "kind": "http", "url": serve(after_a_pause).url}
    before = gate(web, require=0)
    assert before["probes"][0]["value"] >= 300

    def was(milliseconds: float) -> dict[str, t.Any]:
        return {"probes": [{**before["probes"][0], "value": milliseconds}]}

    holds({**web, "max_rise": 60_000}, baseline=before)
    holds({**web, "max_factor": 9, "max_rise": 5000, "max": 60_000}, baseline=was(60_000))
    fails({**web, "max_factor": 2}, "milliseconds: ", "is more than 2 times the 20 of the baseline", baseline=was(20))
    fails({**web, "max_rise": 100}, "is more than 100 above the 20 of the baseline", baseline=was(20))
    fails({**web, "max": 200}, "milliseconds: ", "is above 200")
    holds({**web, "max_rise": 1})  # without a baseline there is nothing to compare with yet
    fails({**web, "max_rise": 1}, "the baseline has no value", baseline={"probes": []})
    wrong = gate({**web, "status": [500]}, require=0)
    assert wrong["probes"][0]["value"] is None, "how fast a wrong answer came is nothing to compare with"
    refused(gate({**web, "min_factor": 2}), "the option min_factor is not for kind http")


def test_a_disk_is_not_much_fuller_than_it_was(tmp_path: Path) -> None:
    disk = {"name": "it", "kind": "disk", "path": str(tmp_path), "max": 1}
    before = gate(disk, require=0)
    value = before["probes"][0]["value"]
    # Others write to this disk, too, but not half of it.
    holds({**disk, "max_rise": 0.5, "max_factor": 100}, baseline=before)
    was = {"probes": [{**before["probes"][0], "value": value / 4}]}
    fails({**disk, "max_factor": 2}, str(tmp_path), "is more than 2 times", baseline=was)
    fails({**disk, "max_rise": value / 4}, "of the baseline", baseline=was)
    fails({**disk, "max_rise": 0.1}, "the baseline has no value", baseline={"probes": []})
    refused(gate({**disk, "max": 90}), "expected a share from 0 to 1")


def test_the_way_a_person_asks(bare: Ansible) -> None:
    run = bare.adhoc("health_gate", """{"probes": [{"name": "disk", "kind": "disk", "path": "/", "max": 1}]}""", "bare_root")
    assert run.code == 0, run.output


# The role health_probes


PROBES = "health_probes"
HAVE = {"name": "have", "ansible.builtin.include_role": {"name": f"reversible.deploy.{PROBES}", "public": True}}
SERVICES = {"gitlab": 3, "kubernetes": 1, "metrics": 3, "metrics_after_rollback": 2, "nextcloud": 3, "traefik": 2, "web": 3}
INPUTS = {
    "gitlab_url": "https://gitlab.example.com",
    "gitlab_vmid": 2050,
    "nextcloud_url": "https://nextcloud.example.com",
    "nextcloud_vmid": "2051",
    "nextcloud_insecure": True,
    "metrics_prometheus": "http://127.0.0.1:9090",
    "metrics_labels": 'job="shop"',
    "kubernetes_context": "prod",
    "kubernetes_namespace": "shop",
    "kubernetes_labels": {"app": "shop"},
    "web_url": "https://shop.example.com",
    "web_needs": [{"name": "database", "host": "db1", "port": 5432}],
    "web_ready_json": {"database": "up"},
}


def inputs(**other: t.Any) -> dict[str, t.Any]:
    return {f"{PROBES}_{key}": value for key, value in {**INPUTS, **other}.items()}


def service(name: str, only: str = "", **change: t.Any) -> dict[str, t.Any]:
    """A gate of the probes of a service, or of those with this word in their names."""
    probes = f"{{{{ {PROBES}_{name} | selectattr('name', 'search', '{only}') | map('combine', {change}) | list }}}}"
    return {"name": name, "reversible.deploy.health_gate": {"probes": probes}}


def test_the_probes_of_each_service_are_a_gate(bare: Ansible) -> None:
    files = (ROOT / "roles/health_probes/vars/main").glob("*.yml")
    assert sorted(path.stem for path in files) == sorted(SERVICES)
    run = bare.play([HAVE, *map(service, SERVICES)], "bare_root", "--check", vars=inputs())
    assert run.code == 0, run.output
    for name, count in SERVICES.items():
        assert [row["why"] for row in run.named(name)["probes"]] == ["not evaluated"] * count, run.output


def test_installed_or_from_a_checkout_they_are_the_same(edge_core: str, tmp_path: Path) -> None:
    """By each way in which a play or a role can have them."""
    name = f"reversible.deploy.{PROBES}"
    shown = {"name": "shown", "ansible.builtin.debug": {"msg": [f"{{{{ {PROBES}_{name} }}}}" for name in SERVICES]}}
    ways: list[tuple[list[dict[str, t.Any]], dict[str, t.Any]]] = [
        ([HAVE, shown], {}),
        ([{"name": "have", "ansible.builtin.import_role": {"name": name}}, shown], {}),
        ([shown], {"roles": [name]}),
    ]
    seen = []
    for collections in (staged(), ROOT / ".dev"):
        ansible = Ansible(edge_core, tmp_path, LOCAL, collections=collections)
        for tasks, more in ways:
            run = ansible.play(tasks, "local", vars=inputs(), **more)
            assert run.code == 0, run.output
            seen.append(run.named("shown")["msg"])
    assert seen == [seen[0]] * 6 and [len(probes) for probes in seen[0]] == list(SERVICES.values())
    assert "2050" in json.dumps(seen) and "{{" not in json.dumps(seen)


@pytest.mark.parametrize("name, only, variable, path, good, bad", [
    ("gitlab", "health", "gitlab_url", "/-/health", "GitLab OK", "GitLab is not OK"),
    ("nextcloud", "status", "nextcloud_url", "/status.php", '{"installed":true,"maintenance":false,"needsDbUpgrade":false}',
     '{"installed":true,"maintenance":true,"needsDbUpgrade":false}'),
    ("traefik", "api", "traefik_api", "/api/overview", '{"http":{"routers":{"errors":0},"services":{"errors":0}}}',
     '{"http":{"routers":{"errors":1},"services":{"errors":0}}}'),
    ("web", "ready", "web_url", "/ready", '{"database":"up"}', '{"database":"down"}'),
])
def test_what_they_ask(serve: Servers, bare: Ansible, name: str, only: str, variable: str, path: str, good: str, bad: str) -> None:
    for body, code in ((good, 0), (bad, 2)):
        server = serve(answer(body))
        run = bare.play([HAVE, service(name, only, tries=1, consecutive=1, timeout=60)], "bare_root", vars=inputs(**{variable: server.url.rstrip("/")}))
        assert run.code == code and run.named(name).status == ("failed" if code else "ok"), run.output
        assert server.requests and all(request.startswith(f"GET {path} ") for request in server.requests)
