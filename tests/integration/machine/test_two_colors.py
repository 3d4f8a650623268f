# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles work out of an app's components and of what Incus, Proxmox and Docker say, each case in no time; that the roles ask for it is seen in
their own tests, on the real systems."""
from __future__ import annotations

import json
import sys
import typing as t

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "collection/plugins"))
from plugin_utils import engines, incus_app, two_colors  # noqa: E402  (the path comes first)

WEB = {"name": "web", "port": {"blue": 8081, "green": 8082}, "command": ["{current}/run", "--port={port}", "{color}", "{release}", "{other}"],
       "env": {"TOKEN": "secret"}, "files": [{"path": "/etc/key", "content": "secret"}]}
LAYOUT = {"unit": "shop-{component}-{color}", "current": "/opt/{component}/{color}/current", "pidfile": "/run/{component}", "log": "/var/log/{component}"}
OFTEN = {"often": {"tries": 3}}


def test_each_component_has_a_side_in_each_colour_without_secrets() -> None:
    blue, green = two_colors.color_sides([WEB], LAYOUT, "4f2a")
    assert (blue["color"], blue["unit"], blue["port"], green["port"], green["current"]) == ("blue", "shop-web-blue", 8081, 8082, "/opt/web/green/current")
    assert blue["argv"] == ["/opt/web/blue/current/run", "--port=8081", "blue", "4f2a", "{other}"] and "secret" not in str((blue, green))
    assert two_colors.color_sides([{"name": "db", "port": 5432}], LAYOUT, "")[0]["argv"] == []
    [started] = two_colors.side_processes([blue], [WEB], "www-data")
    assert started["environment"] == {"TOKEN": "secret"} and started["user"] == "www-data" and started["chdir"] == "/opt/web/blue/current"


@pytest.mark.parametrize("asked, component, wanted", [
    ({}, {}, {}), ({"release": "4f2a"}, {}, {}), ({"release_field": "sha"}, {}, {}),
    ({"release": "4f2a", "release_field": "sha", "release_header": "X"}, {}, {"release": "4f2a", "release_field": "sha"}),
    ({"release": "4f2a", "release_field": "sha"}, {"release_field": "own"}, {"release": "4f2a", "release_field": "own"}),
    ({"release": "4f2a", "release_field": "sha", "release_header": "X"}, {"release_field": ""}, {"release": "4f2a", "release_header": "X"}),
])
def test_a_probe_asks_for_the_release_where_that_is_wanted(asked: dict[str, t.Any], component: dict[str, t.Any], wanted: dict[str, t.Any]) -> None:
    [made] = two_colors.side_probes(two_colors.color_sides([WEB | component], LAYOUT, "4f2a")[:1], "http://127.0.0.1:{port}{health}", OFTEN | asked)
    assert made == {"name": "shop-web-blue", "kind": "http", "url": "http://127.0.0.1:8081/", "tries": 3} | wanted


def test_a_container_is_asked_at_its_address_and_inside() -> None:
    components = [{"name": "web", "port": 80, "inside": ["true"]}, {"name": "db", "port": 5432, "url": "tcp://{instance}.lan"}]
    sides = two_colors.color_sides(components, {"instance": "{component}-{color}"}, "4f2a")[:2]
    made = two_colors.side_probes(sides, "http://{address}:{port}{health}", OFTEN | {"inside": ["incus", "exec", "{instance}", "--"]}, {"web-blue": "10.0.0.1"})
    assert [one.get("url") for one in made] == ["http://10.0.0.1:80/", None, "tcp://db-blue.lan"]
    assert made[1]["argv"] == ["incus", "exec", "web-blue", "--", "true"]
    assert [one["url"] for one in two_colors.side_probes(sides, "http://{address}", OFTEN)] == ["http://no-address.invalid", "tcp://db-blue.lan"]


def test_what_speaks_no_http_is_asked_for_a_connection() -> None:
    sides = two_colors.color_sides([WEB | {"kind": "tcp"}], LAYOUT, "4f2a")
    made = two_colors.side_probes(sides[:1], "http://127.0.0.1:{port}{health}", OFTEN | {"release": "4f2a", "release_field": "sha"})
    assert made == [{"name": "shop-web-blue", "kind": "tcp", "host": "127.0.0.1", "port": 8081, "tries": 3}]
    [six] = two_colors.side_probes(sides[:1], "tcp://[::1]:{port}", OFTEN)
    assert (six["host"], six["port"]) == ("::1", 8081)


def test_whoever_answers_must_be_the_process_that_was_started() -> None:
    sides = two_colors.color_sides([WEB, WEB | {"name": "docker", "listens": False}], LAYOUT, "4f2a")[:2]
    made = two_colors.side_probes(sides, "http://127.0.0.1:{port}/", OFTEN | {"listener": {"unit": "{unit}.service"}})
    assert [one["name"] for one in made] == ["shop-web-blue", "shop-web-blue itself", "shop-docker-blue"]
    assert made[1] == {"name": "shop-web-blue itself", "kind": "listener", "port": 8081, "unit": "shop-web-blue.service", "tries": 3}
    answers = [{"name": "shop-web-blue", "ok": True}, {"name": "shop-web-blue itself", "ok": False, "why": "process 7 (nginx) listens on port 8081"}]
    seen = two_colors.host_colors(sides[:1], [{"current": "4f2a"}], answers)["colors"]["blue"]["components"]["web"]
    assert seen == {"release": "4f2a", "well": False, "why": "process 7 (nginx) listens on port 8081"}


def test_a_worker_is_asked_by_what_it_does() -> None:
    worker = {"name": "mail", "kind": "worker", "command": ["/bin/worker"], "proof": {"file": "/srv/done-{color}"}}
    sides = two_colors.color_sides([WEB, worker], LAYOUT | {"stamp": "/run/{component}-{color}.started"}, "4f2a")[:2]
    assert [side["is_worker"] for side in sides] == [False, True]
    often = {"tries": 3, "consecutive": 2}
    served = two_colors.side_probes(sides, "http://127.0.0.1:{port}/", {"often": often, "listener": {"unit": "{unit}.service"}})
    assert {one["name"] for one in served} == {"shop-web-blue", "shop-web-blue itself"}
    assert two_colors.worker_probes(sides[1:], True, often) == [
        {"name": "shop-mail-blue", "kind": "unit", "unit": "shop-mail-blue.service", **often},
        {"name": "shop-mail-blue proof", "kind": "command", "argv": ["find", "/srv/done-blue", "-newer", "/run/mail-blue.started"], "stdout": "/srv/done-blue",
         **often}]
    for is_systemd, log in ((True, {"unit": "shop-mail-blue.service"}), (False, {"path": "/log/mail-blue"})):
        [by_log] = two_colors.color_sides([worker | {"proof": {"log": "ready"}}], LAYOUT | {"log": "/log/{component}-{color}"}, "4f2a")[:1]
        probe = {"name": "shop-mail-blue proof", "kind": "logs", **log, "text": "ready", "min": 1, **often}
        assert two_colors.worker_probes([by_log], is_systemd, often)[1:] == [probe]
    [command] = two_colors.color_sides([worker | {"proof": {"command": ["{current}/works", "{color}"]}}], LAYOUT, "4f2a")[:1]
    probes = two_colors.worker_probes([command], False, often)
    assert [one["argv"] for one in probes] == [["start-stop-daemon", "--status", "--pidfile", "/run/mail"], ["/opt/mail/blue/current/works", "blue"]]
    # It runs in the active colour alone, so that it says nothing of whether the other one is a way back.
    found = two_colors.host_colors(sides, [{"current": "4f2a", "releases": [{"sha": "4f2a"}]}] * 2, [{"name": "shop-web-blue", "ok": True}])
    assert found["releases"] == {"shop-web-blue": [{"sha": "4f2a"}], "shop-mail-blue": [{"sha": "4f2a"}]}
    held = found["colors"]["blue"]
    assert held["well"] and held["release"] == "4f2a"
    # Where nobody knows yet who starts things, both are asked, and either tells that it runs.
    looked = two_colors.side_probes(sides, "http://127.0.0.1:{port}/", {"often": {"tries": 1}, "workers": True})
    assert [one["name"] for one in looked] == ["shop-web-blue", "shop-mail-blue unit", "shop-mail-blue process"]
    for ok, colors in ((True, ["blue"]), (False, [])):
        answers = [{"name": "shop-mail-blue unit", "ok": False}, {"name": "shop-mail-blue process", "ok": ok}]
        assert two_colors.host_colors(sides, [{"current": None}] * 2, answers)["workers"] == {"mail": colors}


def test_static_files_are_served_by_a_link() -> None:
    site = {"name": "site", "kind": "static", "static_files": ["index.html", "a b"]}
    sides = two_colors.color_sides([site], LAYOUT | {"link": "/opt/{component}/active"}, "4f2a")
    folders = [{"current": "4f2a"}, {"current": None}]
    [there, missing] = two_colors.side_probes(sides, "http://127.0.0.1:{port}/", OFTEN | {"listener": {"unit": "{unit}.service"}})
    assert there == {"name": "shop-site-blue", "kind": "command", "tries": 3,
                     "argv": ["wc", "-c", "--", "/opt/site/blue/current/index.html", "/opt/site/blue/current/a b"]}
    held = two_colors.host_colors(sides, folders, [{"name": "shop-site-blue", "ok": True}, {"name": "shop-site-green", "ok": False, "why": "gone"}],
                                  {"/opt/site/active": {"kind": "link", "target": "blue/current"}})
    assert held["rollbacks"] == {"blue": True, "green": False} and held["colors"]["green"]["components"]["site"]["why"] == "gone" and missing
    assert held["static"] == {"site": {"target": "blue/current", "color": "blue", "release": "4f2a"}}
    elsewhere = two_colors.host_colors(sides, folders, [], {"/opt/site/active": {"target": "/srv"}})["static"]
    assert elsewhere == {"site": {"target": "/srv", "color": None, "release": None}}
    assert two_colors.host_colors(sides, folders, [])["static"]["site"]["target"] is None
    # A colour from before the app had it has no link; one that check mode would install has.
    link = {"path": "/opt/site/active", "state": "link"}
    assert two_colors.static_links(sides, folders) == [link | {"target": "blue/current"}, {"path": "/opt/site/active", "state": "absent"}]
    assert two_colors.static_links(sides[1:], folders[1:], True) == [link | {"target": "green/current"}]
    leads, files = two_colors.static_probes(sides, folders, "9c1e", {"tries": 2})
    assert leads == {"name": "shop-site-blue link", "kind": "command", "argv": ["readlink", "-f", "--", "/opt/site/active"], "stdout": "/blue/releases/9c1e",
                     "tries": 2}
    assert files["argv"][3:] == ["/opt/site/active/./index.html", "/opt/site/active/./a b"]
    unrecorded = two_colors.static_probes(sides[:1], folders, "", {})
    assert unrecorded[0]["stdout"] == "/blue/releases/4f2a"
    [anything] = two_colors.side_probes(two_colors.color_sides([{"name": "site", "kind": "static"}], LAYOUT | {"link": "x"}, "")[:1], "", OFTEN)
    assert anything["argv"][:3] == ["find", "-L", "/opt/site/blue/current"] and anything["stdout"] == "/opt/site/blue/current"


def test_a_colour_has_a_release_when_all_of_it_have() -> None:
    def held(release: str | None, well: bool = True) -> dict[str, t.Any]:
        return {"release": release, "well": well}
    colors = two_colors.by_color([("blue", "a", held("4f2a")), ("blue", "b", held("4f2a", False)), ("green", "a", held("x")), ("green", "b", held(None))])
    assert colors["rollbacks"] == {"blue": False, "green": True}
    colors = colors["colors"]
    assert (colors["blue"]["release"], colors["blue"]["well"], colors["green"]["release"], colors["green"]["well"]) == ("4f2a", False, None, True)
    assert colors["blue"]["components"]["b"] == held("4f2a", False)


def test_only_what_the_role_has_made_to_its_end_counts() -> None:
    sides = two_colors.color_sides([{"name": "web", "port": 80}], {"instance": "{component}-{color}"}, "")
    instances = {"web-blue": {"app": "shop-prod", "is_whole": True, "release": "4f2a", "status": "Running"},
                 "web-green": {"app": "other", "is_whole": True, "release": "4f2a", "status": "Stopped"}}
    colors = two_colors.incus_colors(sides, instances, [{"name": "web-blue", "ok": True}], "shop-prod")["colors"]
    assert (colors["blue"]["release"], colors["blue"]["well"], colors["green"]["release"], colors["green"]["well"]) == ("4f2a", True, None, False)
    assert "not made by this role" in colors["green"]["components"]["web"]["why"]
    assert two_colors.incus_colors(sides, {}, [], "shop-prod")["colors"]["blue"]["components"]["web"] == {"release": None, "well": False, "state": "absent", "why": ""}


def test_workers_in_incus_containers() -> None:
    components = [{"name": "web", "port": 80}, {"name": "mail", "kind": "worker", "proof": {"log": "is (ready)"}}]
    sides = two_colors.color_sides(components, LAYOUT | {"instance": "{component}-{color}", "stamp": "/opt/{component}/started"}, "")
    web = {"app": "shop-prod", "is_whole": True, "release": "4f2a", "status": "Running", "supervisor": "process"}
    instances = {"web-blue": web, "web-green": web, "mail-green": web | {"status": "Stopped"}}
    seen = two_colors.incus_colors(sides, instances, [{"name": f"web-{color}", "ok": True} for color in ("blue", "green")], "shop-prod")
    # Blue is from before the app had a worker; that of green does not run.
    assert seen["rollbacks"] == {"blue": True, "green": True} and seen["workers"] == {"mail": []} and "mail" not in seen["colors"]["blue"]["components"]
    half = instances | {"mail-blue": web | {"is_whole": False}}
    seen = two_colors.incus_colors(sides, half, [{"name": "web-blue", "ok": True}], "shop-prod")
    assert seen["rollbacks"]["blue"] is False and seen["workers"] == {"mail": ["blue"]}

    def proofs(supervisor: str, **proof: t.Any) -> list[dict[str, t.Any]]:
        [mail] = [side for side in sides if side["is_worker"] and side["color"] == "green"]
        mail = mail | {"component": mail["component"] | ({"proof": proof} if proof else {})}
        held = {"mail-green": web | {"supervisor": supervisor}}
        return incus_app.instance_proofs([mail], held, ["incus", "exec", "{instance}", "--"], "default", {"tries": 3})

    whole, process, log = proofs("process")
    assert whole == {"name": "mail-green", "kind": "incus", "instance": "mail-green", "project": "default", "tries": 3}
    assert process["argv"] == ["incus", "exec", "mail-green", "--", "start-stop-daemon", "-K", "-t", "-p", "/run/mail"]
    assert (log["kind"], log["path"], log["instance"], log["min"]) == ("logs", "/var/log/mail", "mail-green", 1)
    _, unit, journal = proofs("systemd")
    assert unit["argv"][4:] == ["systemctl", "is-active", "shop-mail-green.service"] and journal["argv"][-1] == r"--grep=is\ \(ready\)"
    _, file = proofs("image", file="{current}/done")
    assert file["argv"][4:] == ["find", "/opt/mail/green/current/done", "-newer", "/opt/mail/started"] and file["stdout"] == "/opt/mail/green/current/done"


def test_the_colours_of_a_project() -> None:
    layout = {"project": "shop-{color}", "folder": "/srv/{color}"}
    sides = two_colors.compose_sides([{"name": "my-web", "port": {"blue": 1, "green": 2}}], layout, "4f2a", ["a", "b"])
    assert sides["green"] == {"project": "shop-green", "folder": "/srv/green", "own": {
        "COLOR": "green", "RELEASE": "4f2a", "COMPOSE_PROJECT_NAME": "shop-green", "COMPOSE_FILE": "a:b", "MY_WEB_PORT": "2"}}
    components = [{"name": "web", "port": {"blue": 1, "green": 2}, "health": "/up"}]
    made = two_colors.compose_probes({"blue": sides["blue"]}, components, "127.0.0.1", ["web"], OFTEN)
    assert [one["name"] for one in made] == ["shop-blue", "shop-blue web"] and made[0]["services"] == ["web"] and made[1]["url"] == "http://127.0.0.1:1/up"
    answers = [{"name": "shop-blue", "ok": False, "why": "web does not run"}, {"name": "shop-blue web", "ok": True},
               {"name": "shop-green", "ok": True}, {"name": "shop-green web", "ok": True}]
    containers = {"blue": [{"app": "shop", "release": "4f2a"}, {"app": "shop", "release": "x"}], "green": [{"app": "other", "release": "4f2a"}]}
    colors = two_colors.compose_colors(sides, components, containers, answers, "shop")["colors"]
    assert colors["blue"]["components"]["web"] == {"release": None, "well": False, "why": "web does not run"}
    assert colors["green"]["components"]["web"] == {"release": None, "well": False, "why": "it was not made by this role"}


def test_workers_are_services_that_run_in_one_colour_alone() -> None:
    components = [{"name": "web", "port": {"blue": 1, "green": 2}}, {"name": "mail", "kind": "worker", "proof": {"command": ["/works", "{color}"]}},
                  {"name": "index", "kind": "worker", "proof": {"log": "ready"}}]
    sides = two_colors.compose_sides(components, {"project": "shop-{color}", "folder": "/srv/{color}"}, "4f2a", ["a"])
    assert [name for name in sides["blue"]["own"] if name.endswith("_PORT")] == ["WEB_PORT"]

    def container(color: str, service: str, running: bool) -> dict[str, t.Any]:
        return {"name": f"shop-{color}-{service}-1", "service": service, "color": color, "running": running, "app": "shop", "release": "4f2a"}

    containers = {color: [container(color, name, color == "green" or name == "web") for name in ("db", "index", "mail", "web")] for color in sides}
    made = two_colors.compose_probes(sides, components, "127.0.0.1", [], OFTEN, containers)
    assert [one["name"] for one in made] == ["shop-blue", "shop-blue web", "shop-green", "shop-green web"] and made[0]["services"] == ["db", "web"]
    assert two_colors.compose_probes(sides, components, "127.0.0.1", ["web", "mail"], OFTEN, containers)[0]["services"] == ["web"]
    answers = [{"name": one["name"], "ok": True} for one in made]
    seen = two_colors.compose_colors(sides, components, containers, answers, "shop")
    assert seen["workers"] == {"mail": ["green"], "index": ["green"]} and list(seen["colors"]["blue"]["components"]) == ["web"] and seen["rollbacks"]["blue"]
    proofs = two_colors.container_proofs(containers["blue"][1:3], components, {"tries": 3})
    assert [(one["name"], one["kind"]) for one in proofs] == [("shop-blue-index-1", "docker"), ("shop-blue-index-1 proof", "logs"),
                                                              ("shop-blue-mail-1", "docker"), ("shop-blue-mail-1 proof", "command")]
    assert proofs[1]["container"] == "shop-blue-index-1" and proofs[3]["argv"][3:] == ["shop-blue-mail-1", "/works", "blue"]


def test_what_incus_says_of_instances() -> None:
    def instance(name: str, network: t.Any, **marks: str) -> dict[str, t.Any]:
        return {"name": name, "status": "Running", "config": {f"user.reversible.{key}": text for key, text in marks.items()} | {"x": "y"},
                "state": {"network": network}}
    eth = [{"family": "inet6", "scope": "global", "address": "fd00::1"}, {"family": "inet", "scope": "link", "address": "169.254.0.1"}]
    four = [{"family": "inet", "scope": "global", "address": "10.0.0.1"}]
    said = json.dumps([instance("a", {"lo": {"addresses": four}, "eth0": {"addresses": eth}}, app="shop", deploy_id="1", installed="1"),
                       instance("b", {"eth0": {"addresses": eth + four}}, deploy_id="1"), instance("c", None), instance("other", None)])
    seen = engines.incus_instances(said, ["a", "b", "c"])
    assert {name: (one["address"], one["is_whole"]) for name, one in seen.items()} == {"a": ("[fd00::1]", True), "b": ("10.0.0.1", False), "c": ("", False)}
    assert seen["a"]["app"] == "shop" and seen["b"]["app"] == seen["b"]["supervisor"] == ""
    with pytest.raises(ValueError, match="does not say what a is"):
        engines.incus_instances('[{"name": "a", "status": "Error", "config": null, "state": null}]', ["a"])


def test_what_goes_into_a_container_and_out_of_it() -> None:
    component = {"name": "web", "port": 80, "source": "/srv/{release}", "files": [{"path": "/etc/x", "content": "y"}], "logs": ["/log"]}
    layout = {"instance": "{component}-{color}", "unit": "shop-{component}", "here": "/opt/{component}", "current": "/opt/{component}/current", "log": "/main"}
    [web, plain] = incus_app.container_sides([component, {"name": "db", "release": False, "image": "own"}], layout, "4f2a", "usual")[:2]
    assert (web["from"], web["source"], web["image"], plain["from"], plain["image"]) == ("source", "/srv/4f2a", "usual", "nowhere", "own")
    made = incus_app.container_contents([web, plain], [web], [plain], [component, {"name": "db"}], "4f2a")
    assert [one["path"] for one in made["files"]] == ["/etc/shop-web.env", "/etc/systemd/system/shop-web.service", "/opt/db/run", "/etc/x"]
    assert [(one["path"], one["to"]) for one in made["links"]] == [
        ("/opt/web/current", "4f2a"), ("/etc/systemd/system/multi-user.target.wants/shop-web.service", "/etc/systemd/system/shop-web.service")]
    logs = incus_app.container_logs([web], {"web-blue": {"deploy_id": "1"}}, "/kept", "2")
    assert [(one["path"], one["into"]) for one in logs] == [("/main", "/kept/1-blue/web.pulled-1"), ("/log", "/kept/1-blue/web.pulled-2")]


def test_what_docker_and_compose_say() -> None:
    labels = {"com.docker.compose.project": "shop-blue", "com.docker.compose.service": "web", "reversible.app": "shop"}
    said = json.dumps([{"Id": "1", "Name": "/web", "State": {"Running": True}, "Config": {"Labels": labels}},
                       {"Id": "2", "Name": "/x", "State": {"Running": True}, "Config": {"Labels": {"com.docker.compose.project": "other"}}}])
    seen = engines.compose_containers(said, {"blue": {"project": "shop-blue"}, "green": {"project": "shop-green"}})
    assert seen == {"blue": [{"id": "1", "name": "web", "running": True, "color": "blue", "service": "web", "app": "shop", "release": "",
                              "deploy_id": ""}], "green": []}

    def project(name: str, *ports: dict[str, t.Any]) -> str:
        return json.dumps({"services": {"web": {"container_name": name, "ports": list(ports)}, "db": {}}})
    udp = {"published": "53", "protocol": "udp", "host_ip": "::1"}
    assert engines.compose_clashes([project("a", {"published": "80"}, udp), project("b", udp)]) == ["the port 53 of ::1 (udp)"]
    assert engines.compose_clashes([project("a"), project("a")]) == ["the container name a"] and engines.compose_clashes([project("a"), project("b")]) == []
    # On the lab's engine: what has always or on-failure comes back with it after it was stopped; what was never started does not.
    workers = {"mail": {"restart": "always"}, "index": {"restart": "unless-stopped"}, "web": {"depends_on": {"index": {}, "db": {}}}, "db": {}}
    faults = engines.worker_faults(json.dumps({"services": workers}), ["mail", "index", "bill"])
    assert [fault[:24] for fault in faults] == ["mail has restart: always", "web depends on index, an", "the compose file has no "]
    failed = [{"rc": 0}, {"rc": 1, "stderr": "x\nno such file\n"}, {"rc": 1, "stderr": ""}, {"msg": "timed out"}]
    assert engines.last_lines(failed) == ["no such file", "it failed", "timed out"]


@pytest.mark.parametrize("kind, project, found", [
    ("container", "default", ["tank/i/containers/db", "tank/i/custom/default_data"]),
    ("virtual-machine", "blog", ["tank/i/virtual-machines/blog_db", "tank/i/virtual-machines/blog_db.block", "tank/i/custom/blog_data"]),
])
def test_the_datasets_of_an_instance(kind: str, project: str, found: list[str]) -> None:
    disks = {"root": {"type": "disk", "path": "/", "pool": "p"}, "data": {"type": "disk", "path": "/data", "pool": "p", "source": "data"},
             "bind": {"type": "disk", "path": "/x", "source": "/y"}, "eth0": {"type": "nic"}}
    said = json.dumps({"name": "db", "type": kind, "expanded_devices": disks})
    assert engines.incus_datasets(said, {"p": '{"config": {"zfs.pool_name": "tank/i", "source": "tank"}}'}, project) == found


def test_the_datasets_of_a_container_of_proxmox() -> None:
    config = "arch: amd64\nrootfs: zfs:base-100-disk-0/subvol-101-disk-0,size=8G\nmp0: zfs:subvol-101-disk-1,mp=/data\nmp1: /srv/bind,mp=/x\n"
    assert engines.pct_datasets(config, {"zfs": '{"pool": "rpool/data"}'}) == ["rpool/data/subvol-101-disk-0", "rpool/data/subvol-101-disk-1"]


def test_who_runs_says_so() -> None:
    def asked(name: str, rc: int, stdout: str, says: str) -> dict[str, t.Any]:
        return {"rc": rc, "stdout": stdout, "one": {"name": name, "says": says}}
    said = [asked("a", 0, "x\nstatus: running", "^status: running"), asked("b", 0, "status: stopped", "^status: running"), asked("c", 3, "active", "active"),
            asked("d", 0, "", "")]
    assert [one["name"] for one in engines.running_users(said, "one")] == ["a", "d"]
