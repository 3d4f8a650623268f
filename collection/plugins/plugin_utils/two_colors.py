# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of the roles of apps with two colours: the parts of each component in each colour, its probes, and the release of each colour.
Pure: no I/O, no Ansible.

A side is one component in one colour. Loops go over sides, and an item of a loop stands in the output when it fails: a side lacks what may hold secrets
(`env`, `files`).
"""
from __future__ import annotations

import typing as t
from urllib.parse import urlsplit

from .one_run import filled

COLORS = ("blue", "green")
SECRET = ("env", "files")
ITSELF = " itself"   # the probe of whether a component has its port
PROOF = " proof"   # a worker's own
LINK = " link"   # where that of a static component leads
RUNNING = (" unit", " process")   # the probes of whether a worker runs, where it is not known yet who has started it

Side = t.Mapping[str, t.Any]
Probe = dict[str, t.Any]


def color_sides(components: t.Sequence[t.Mapping[str, t.Any]], layout: t.Mapping[str, str], release: str) -> list[dict[str, t.Any]]:
    """Each component in each colour, with the names and paths of `layout`, in which words in braces stand for the component and the colour. `argv` is its
    command, in which they stand for the layout's `current` and `instance` as well."""
    found = []
    for color in COLORS:
        for component in components:
            port = component.get("port")
            if isinstance(port, t.Mapping):
                port = port[color]
            words = {"component": component["name"], "color": color}
            places = {key: filled([text], words)[0] for key, text in layout.items()}
            words = {"color": color, "port": port, "release": release} | {key: places[key] for key in ("current", "instance") if key in places}
            shown = {key: component[key] for key in component if key not in SECRET}
            found.append({"component": shown, "color": color, "port": port, "is_worker": component.get("kind") == "worker",
                          "is_static": component.get("kind") == "static", **places, "argv": filled(component.get("command") or [], words)})
    return found


def side_processes(wanted: t.Sequence[Side], components: t.Sequence[t.Mapping[str, t.Any]], user: str) -> list[dict[str, t.Any]]:
    """The sides as processes that app_processes starts, with their variables."""
    envs = {component["name"]: component.get("env") or {} for component in components}
    return [{"name": side["unit"], "pidfile": side["pidfile"], "argv": side["argv"], "user": side["component"].get("user", user),
             "chdir": side["current"], "log": side["log"], "environment": envs[side["component"]["name"]]} for side in wanted]


def compose_sides(components: t.Sequence[t.Mapping[str, t.Any]], layout: t.Mapping[str, str], release: str, files: t.Sequence[str]) -> dict[str, t.Any]:
    """Each colour of a Compose project: its project, its folder, and the variables that differ between the colours or from deploy to deploy."""
    found = {}
    for color in COLORS:
        project, folder = filled([layout["project"], layout["folder"]], {"color": color})
        own = {"COLOR": color, "RELEASE": release, "COMPOSE_PROJECT_NAME": project, "COMPOSE_FILE": ":".join(files)}
        for component in components:
            if component.get("kind") == "worker":   # it has no port
                continue
            name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in component["name"].upper())
            own[f"{name}_PORT"] = str(component["port"][color])
        found[color] = {"project": project, "folder": folder, "own": own}
    return found


def probe(name: str, url: str, component: t.Mapping[str, t.Any], asked: t.Mapping[str, t.Any]) -> Probe:
    """A probe of one component; of one that speaks no HTTP, whether it takes connections. `asked` has `often`, how often it is tried, and `release`,
    unless one look is enough, which asks for no release."""
    if component.get("kind") == "tcp":
        place = urlsplit(url)
        return {"name": name, "kind": "tcp", "host": place.hostname, "port": place.port, **asked["often"]}
    made = {"name": name, "kind": "http", "url": url, **asked["often"]}
    if asked.get("release"):
        fields = {key: asked.get(key, "") if component.get(key) is None else component[key] for key in ("release_field", "release_header")}
        for key in fields:
            if fields[key]:
                return made | {"release": asked["release"], key: fields[key]}
    return made


def side_probes(wanted: t.Sequence[Side], url: str, asked: t.Mapping[str, t.Any], addresses: t.Mapping[str, str] | None = None) -> list[Probe]:
    """A probe for each side, by the name of its instance or unit; with a command inside (`asked.inside` stands before it) one for that as well."""
    made = []
    for side in wanted:
        if side.get("is_worker"):   # it has no port, and runs in the active colour alone: see worker_probes
            if asked.get("workers"):
                made += [{"name": f"{side['unit']}{what}", **runs(side, what == " unit"), **asked["often"]} for what in RUNNING]
            continue
        if side.get("is_static"):   # it has no process; the files of either colour are a way back
            made.append({"name": side["unit"], **has_files(side, side["current"]), **asked["often"]})
            continue
        name, component = side.get("instance") or side["unit"], side["component"]
        words = {"address": (addresses or {}).get(name) or "no-address.invalid", "port": side["port"], "health": component.get("health") or "/",
                 "instance": name, "color": side["color"]}
        made.append(probe(name, filled([component.get("url") or url], words)[0], component, asked))
        # Else a process that cannot have its port is taken for whoever has it.
        if asked.get("listener") and component.get("listens", True):
            started = {key: filled([value], side)[0] for key, value in asked["listener"].items()}
            made.append({"name": f"{name}{ITSELF}", "kind": "listener", "port": side["port"], **started, **asked["often"]})
        if component.get("inside") and asked.get("inside"):
            argv = [*filled(asked["inside"], {"instance": name}), *component["inside"]]
            made.append({"name": f"{name} inside", "kind": "command", "argv": argv, **asked["often"]})
    return made


def runs(side: Side, is_systemd: bool) -> Probe:
    if is_systemd:
        return {"kind": "unit", "unit": f"{side['unit']}.service"}
    return {"kind": "command", "argv": ["start-stop-daemon", "--status", "--pidfile", side["pidfile"]]}


def worker_probes(wanted: t.Sequence[Side], is_systemd: bool, often: t.Mapping[str, t.Any]) -> list[Probe]:
    """Whether each worker runs, and its own proof: a command that ends well, a file that has changed since the worker was started (its side's `stamp`
    has), or a line in its log that was not there before (the probe wants a baseline of that time)."""
    made: list[Probe] = []
    for side in wanted:
        name, proof = side["unit"], side["component"].get("proof") or {}
        made.append({"name": name, **runs(side, is_systemd), **often})
        words = {key: side[key] for key in ("color", "current") if key in side}
        if proof.get("command"):
            made.append({"name": f"{name}{PROOF}", "kind": "command", "argv": filled(proof["command"], words), **often})
        if proof.get("file"):
            [file] = filled([proof["file"]], words)
            made.append({"name": f"{name}{PROOF}", "kind": "command", "argv": ["find", file, "-newer", side["stamp"]], "stdout": file, **often})
        if proof.get("log"):
            log = {"unit": f"{name}.service"} if is_systemd else {"path": side["log"]}
            made.append({"name": f"{name}{PROOF}", "kind": "logs", **log, "text": proof["log"], "min": 1, **often})
    return made


def has_files(side: Side, folder: str) -> Probe:
    """Whether the folder has the files that the component names (`static_files`); where it names none, whether anything is in it."""
    files = side["component"].get("static_files") or []
    if files:
        # Unlike `test` it says which one is missing, and a folder is no file to it.
        return {"kind": "command", "argv": ["wc", "-c", "--", *(f"{folder}/{file}" for file in files)]}
    return {"kind": "command", "argv": ["find", "-L", folder, "-maxdepth", "0", "-type", "d", "-not", "-empty"], "stdout": folder}


def static_links(wanted: t.Sequence[Side], folders: t.Sequence[t.Mapping[str, t.Any]], is_predicted: bool = False) -> list[dict[str, str]]:
    """The link of each static component, as host_files has it: to its colour, below the folder of both, so that it leads there from a container as well.
    A colour that has no release of it, from before the app had the component, has no link; a run that only predicts has not installed one."""
    return [{"path": side["link"], "state": "link", "target": f"{side['color']}/current"} if is_predicted or folder["current"] else
            {"path": side["link"], "state": "absent"} for side, folder in zip(wanted, folders)]


def static_probes(wanted: t.Sequence[Side], folders: t.Sequence[t.Mapping[str, t.Any]], release: str, often: t.Mapping[str, t.Any]) -> list[Probe]:
    """Whether each link leads to its colour, there to the release that is active (where that is known), and whether the files are there by way of it."""
    made: list[Probe] = []
    for side, folder in zip(wanted, folders):
        if folder["current"]:
            place = f"/{side['color']}/releases/{release or folder['current']}"
            made += [{"name": f"{side['unit']}{LINK}", "kind": "command", "argv": ["readlink", "-f", "--", side["link"]], "stdout": place, **often},
                     {"name": side["unit"], **has_files(side, f"{side['link']}/."), **often}]
    return made


def worker_services(components: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """The services of a Compose project that are workers: they are called as their components."""
    return [component["name"] for component in components if component.get("kind") == "worker"]


def compose_probes(wanted: t.Mapping[str, Side], components: t.Sequence[t.Mapping[str, t.Any]], address: str, services: t.Sequence[str],
                   asked: t.Mapping[str, t.Any], containers: t.Mapping[str, t.Any] | None = None) -> list[Probe]:
    """Each colour as a whole, then its components by their own ports. Workers run in the active colour alone: with them, a whole colour is all other
    services that have one of the `containers`."""
    made: list[Probe] = []
    workers = worker_services(components)
    for color, side in wanted.items():
        whole = {"name": side["project"], "kind": "compose", "project": side["project"], **asked["often"]}
        named = list(services)
        if workers:
            there = sorted({one["service"] for one in (containers or {}).get(color) or []})
            named = [service for service in named or there if service not in workers]
        made.append(whole | {"services": named} if named else whole)
        for component in components:
            if component["name"] in workers:
                continue
            url = f"http://{address}:{component['port'][color]}{component.get('health') or '/'}"
            made.append(probe(f"{side['project']} {component['name']}", url, component, asked))
    return made


def by_color(entries: t.Iterable[tuple[str, str, dict[str, t.Any]]]) -> dict[str, t.Any]:
    """What each colour holds (`colors`), of what each of its components (colour, name, what was seen) holds: a release when all hold the same. A colour
    in which all are well can be rolled back to (`rollbacks`)."""
    colors: dict[str, t.Any] = {color: {"components": {}} for color in COLORS}
    for color, name, seen in entries:
        colors[color]["components"][name] = seen
    for held in colors.values():
        seen = held["components"].values()
        releases = {one["release"] for one in seen}
        held |= {"release": releases.pop() if len(releases) == 1 else None, "well": all(one["well"] for one in seen)}
    return {"colors": colors, "rollbacks": {color: held["well"] for color, held in colors.items()}}


def answer_of(answers: t.Sequence[t.Mapping[str, t.Any]], name: str) -> t.Mapping[str, t.Any]:
    return next((one for one in answers if one["name"] == name), {})


def host_colors(wanted: t.Sequence[Side], folders: t.Sequence[t.Mapping[str, t.Any]], answers: t.Sequence[t.Mapping[str, t.Any]],
                links: t.Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
    """What the colours hold whose releases are folders, in the order of the sides; of each worker in which colours it runs (`workers`), of each static
    component where its link (one of `links`, by path) leads (`static`), and the `releases` that are kept, by the side's unit: for those a deploy into that
    side needs no registry."""
    def seen(side: Side, folder: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        asked = [answer for name in ("", ITSELF) if (answer := answer_of(answers, side["unit"] + name))]
        wrong = [answer for answer in asked if not answer["ok"]]
        return {"release": folder["current"], "well": not wrong, "why": (wrong[0].get("why") or "") if wrong else ""}
    workers: dict[str, list[str]] = {}
    static: dict[str, dict[str, t.Any]] = {}
    for side, folder in zip(wanted, folders):
        if side.get("is_static"):
            target = (links or {}).get(side["link"], {}).get("target")
            if static.setdefault(side["component"]["name"], {"target": target, "color": None, "release": None})["target"] == f"{side['color']}/current":
                static[side["component"]["name"]] |= {"color": side["color"], "release": folder["current"]}
        if side.get("is_worker"):
            running = workers.setdefault(side["component"]["name"], [])
            if any(answer_of(answers, side["unit"] + what).get("ok") for what in RUNNING):
                running.append(side["color"])
    return {**by_color((side["color"], side["component"]["name"], seen(side, folder)) for side, folder in zip(wanted, folders)),
            "workers": workers, "static": static, "releases": {side["unit"]: folder.get("releases") or [] for side, folder in zip(wanted, folders)}}


def incus_colors(wanted: t.Sequence[Side], instances: t.Mapping[str, t.Any], answers: t.Sequence[t.Mapping[str, t.Any]], mark: str) -> dict[str, t.Any]:
    """What the colours hold that are containers, by what Incus says of them. Only what bears the app's mark, and was made to its end, counts. A worker's
    container that is whole is well while it is stopped; a colour from before the app had that worker has none. Of each worker in which colours its container
    runs (`workers`)."""
    def seen(side: Side) -> dict[str, t.Any]:
        instance, answer = instances.get(side["instance"], {}), answer_of(answers, side["instance"])
        ours = instance.get("app") == mark and instance["is_whole"]
        return {"release": (instance["release"] or None) if ours else None, "well": bool(ours and (side.get("is_worker") or answer.get("ok"))),
                "state": instance.get("status", "absent").lower(),
                "why": answer.get("why") or "" if ours or not instance else "it was not made by this role, or not to its end"}
    workers: dict[str, list[str]] = {}
    for side in wanted:
        if side.get("is_worker"):
            running = workers.setdefault(side["component"]["name"], [])
            running += [side["color"]] if instances.get(side["instance"], {}).get("status") == "Running" else []
    return {**by_color((side["color"], side["component"]["name"], seen(side)) for side in wanted
                       if not side.get("is_worker") or side["instance"] in instances), "workers": workers}


def compose_colors(wanted: t.Mapping[str, Side], components: t.Sequence[t.Mapping[str, t.Any]], containers: t.Mapping[str, t.Any],
                   answers: t.Sequence[t.Mapping[str, t.Any]], mark: str) -> dict[str, t.Any]:
    """What the colours hold that are Compose projects, by the labels of their containers."""
    def seen(color: str, side: Side, name: str) -> dict[str, t.Any]:
        ours = all(one["app"] == mark for one in containers[color])
        releases = {one["release"] for one in containers[color]} if ours else set()
        whole, answer = answer_of(answers, side["project"]), answer_of(answers, f"{side['project']} {name}")
        why = (answer if whole["ok"] else whole).get("why") or ""
        return {"release": releases.pop() if len(releases) == 1 else None, "well": ours and whole["ok"] and answer["ok"],
                "why": why if ours else "it was not made by this role"}
    workers = worker_services(components)
    held = by_color((color, component["name"], seen(color, side, component["name"])) for color, side in wanted.items() for component in components
                    if component["name"] not in workers)
    runs_in = {name: [color for color in wanted if any(one["service"] == name and one["running"] for one in containers[color])] for name in workers}
    return {**held, "workers": runs_in}


def container_proofs(containers: t.Sequence[t.Mapping[str, t.Any]], components: t.Sequence[t.Mapping[str, t.Any]],
                     often: t.Mapping[str, t.Any]) -> list[Probe]:
    """Whether the containers of workers run, and the proof of each worker: a command in each container, or a line in its log that was not there before (the
    probe wants a baseline of that time)."""
    proofs = {component["name"]: component.get("proof") or {} for component in components}
    made: list[Probe] = []
    for one in containers:
        proof = proofs[one["service"]]
        made.append({"name": one["name"], "kind": "docker", "containers": [one["name"]], **often})
        if proof.get("command"):
            argv = ["docker", "container", "exec", one["name"], *filled(proof["command"], {"color": one["color"]})]
            made.append({"name": f"{one['name']}{PROOF}", "kind": "command", "argv": argv, **often})
        if proof.get("log"):
            made.append({"name": f"{one['name']}{PROOF}", "kind": "logs", "container": one["name"], "text": proof["log"], "min": 1, **often})
    return made
