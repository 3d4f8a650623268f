# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd: a Debian with systemd as its first process and Debian's own haproxy.service, so that `systemctl reload haproxy` is real.

Namespaces and a control group of its own; only the network is the host's, on loopback. Its root is the cached one below a tmpfs.
"""
from __future__ import annotations

import json
import re
import shutil
import signal
import zlib
from contextlib import suppress
from pathlib import Path

from labkit import HERE, Fail, Skip, apt, daemon, run
from labkit.cache import entry
from labkit.login import Login, learn_host_keys, make_keys, write_inventory
from systems.haproxy import MAP_KEY, RELEASES, ask, fetch
from things.programs import web

HELP = "[map|reload] systemd with Debian's haproxy.service before blue and green; logs in as root, with Python"
OPTIONS = ("map", "reload")
PACKAGES = ["openssh-client"]
CACHES = ["a Debian with systemd, haproxy, openssh-server, python3"]

# apt takes what these depend on; what Debian calls essential it takes for granted, so that is named.
PROGRAMS = ["systemd", "haproxy", "openssh-server", "python3", "sudo", "procps", "iproute2", "base-files", "base-passwd", "bash",
            "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "hostname", "libc-bin", "login", "mount", "passwd", "sed", "tar",
            "util-linux"]
UNNEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/debconf")
# Of what systemd starts before everything else: the rest is for real machines, or would change the host's kernel.
EARLY = ("systemd-journald.service", "systemd-tmpfiles-setup.service")
ACCOUNTS = {"haproxy": (110, "/var/lib/haproxy"), "sshd": (111, "/run/sshd"), "systemd-journal": (112, "/"), "systemd-network": (113, "/")}


def prepare() -> None:
    apt.install(*PACKAGES)
    root_folder()
    web()


def up(folder: Path, method: str = "map") -> str:
    if status(folder)[0] == "up" and _edge(folder)["options"]["method"] == method:
        return (folder / "inventory.yml").read_text()
    down(folder)
    refused = run(["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child", "true"], ok=tuple(range(256)))
    if refused.returncode != 0:
        raise Skip(f"no namespaces can be made here: {refused.stderr.strip()}")
    tree = root_folder()
    folder.mkdir(mode=0o700)
    for name in ("root", "cgroup", "files"):
        (folder / name).mkdir()
    (folder / "console.log").touch()
    ports = {name: daemon.free_port() for name in ("ssh", "frontend", *RELEASES)}
    _furnish(folder / "files", ports, make_keys(folder), method)
    for custom in (tree / "etc").glob("python3.*/sitecustomize.py"):
        (folder / "files/etc" / custom.parent.name).mkdir()
        shutil.copy(HERE / "inside/keep_compiled.py", folder / "files/etc" / custom.parent.name / custom.name)
    daemon.start(folder, "systemd", ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--",
                                     "sh", HERE / "inside/own_cgroup.sh", "start", folder, tree, _name(folder), HERE / "inside/systemd_init.sh"])
    try:
        daemon.wait_for(lambda: learn_host_keys(folder, ports["ssh"]), "systemd", folder, "systemd", 60)
    except Fail as fail:
        skipped = re.search(r"(?m)^SKIP: (.*)", (folder / "systemd.log").read_text(errors="replace"))
        raise (Skip(skipped[1]) if skipped else Fail(f"{fail}\n{_console(folder)}")) from fail
    (folder / "edge.json").write_text(json.dumps(_offer(folder, ports, method), indent=2) + "\n")
    daemon.wait_for(lambda: status(folder)[0] == "up", "systemd", folder, "systemd", 30)
    return write_inventory(folder, "systemd", {"systemd_root": _login(folder)}, ansible_python_interpreter="/usr/bin/python3",
                           edge=_edge(folder))


def down(folder: Path) -> None:
    daemon.stop(folder, "systemd", signal.SIGKILL)
    if (folder / "cgroup").exists():
        run(["unshare", "--mount", "--", "sh", HERE / "inside/own_cgroup.sh", "tidy", folder, _name(folder)])
    if folder.exists():
        shutil.rmtree(folder)


def status(folder: Path) -> tuple[str, str]:
    if not (folder / "edge.json").exists():
        return "down", ""
    said = (_login(folder).ask("systemctl", "is-active", "haproxy.service", "web-blue.service", "web-green.service") or "no login").split()
    if said != ["active"] * 3:
        return "broken", f"haproxy, web-blue and web-green are {' '.join(said)}\n{_console(folder)}"
    edge = _edge(folder)
    try:
        version = next(line.split()[1] for line in ask(edge["stats"], "show info").splitlines() if line.startswith("Version:"))
    except (OSError, StopIteration) as error:
        return "broken", f"haproxy does not answer at {edge['stats']}: {error}"
    answer = fetch(edge["url"])
    return ("up" if answer.split(" ")[0] in RELEASES else "broken"), f"haproxy {version} on {edge['url']}, active {answer or 'nothing'}"


def root_folder() -> Path:
    """The cached root: packages as they are unpacked, what their scripts would have made, and nothing that is one machine's own."""
    def build(folder: Path) -> None:
        archive, root = apt.Archive(apt.architecture()), folder / "root"
        for here in ("bin", "sbin", "lib", "lib64"):
            (root / "usr" / here).mkdir(parents=True)
            (root / here).symlink_to(f"usr/{here}")
        archive.unpack(archive.closure(*PROGRAMS), root)
        for path in UNNEEDED:
            shutil.rmtree(root / path, ignore_errors=True)
        for path in ("dev", "proc", "sys", "run", "tmp", "root", "etc", "var/lib/haproxy/dev"):
            (root / path).mkdir(parents=True, exist_ok=True)
        for name in ("passwd", "group"):
            lines = (root / f"usr/share/base-passwd/{name}.master").read_text().splitlines()
            own = [f"{user}:x:{uid}:{uid}::{home}:/usr/sbin/nologin" for user, (uid, home) in ACCOUNTS.items()]
            lines += own if name == "passwd" else [f"{user}:x:{uid}:" for user, (uid, _home) in ACCOUNTS.items()]
            (root / "etc" / name).write_text("\n".join(lines) + "\n")
        (root / "etc/shadow").write_text("root:*:19000::::::\n")
        (root / "etc/shadow").chmod(0o600)
        for wants in (root / "usr/lib/systemd/system").glob("*.target.wants/*"):
            if wants.parent.name in ("sysinit.target.wants", "local-fs.target.wants") and wants.name not in EARLY:
                wants.unlink()
        run(["chroot", root, "/sbin/ldconfig"])
        run(["chroot", root, "/usr/bin/python3", "-c", "import json, ssl"])
        run(["chroot", root, "/usr/sbin/haproxy", "-v"])
    return entry(f"systemd-{apt.codename()}-{apt.architecture()}", build) / "root"


def _furnish(files: Path, ports: dict[str, int], public_key: str, method: str) -> None:
    """What makes this one machine of it: keys, accounts' keys, units and the configuration of HAProxy."""
    for name in ("etc/systemd/system", "etc/ssh", "root/.ssh", "usr/local/bin", "etc/haproxy", "etc/tmpfiles.d"):
        (files / name).mkdir(parents=True)
    (files / "root").chmod(0o700)
    shutil.copy(web(), files / "usr/local/bin/web")
    units = files / "etc/systemd/system"
    services = ["ssh.service", "haproxy.service"]
    for colour, release in RELEASES.items():
        command = f"/usr/local/bin/web serve --port {ports[colour]} --colour {colour} --release {release} " \
                  f"--control /run/web-{colour}.control"
        (units / f"web-{colour}.service").write_text(f"[Unit]\nDescription=the {colour} web app\n\n[Service]\nExecStart={command}\n")
        services.append(f"web-{colour}.service")
    (units / "lab.target").write_text("[Unit]\nDescription=the lab's machine\nRequires=basic.target\nAfter=basic.target\n"
                                      f"Wants={' '.join(services)}\n")
    (units / "default.target").symlink_to("lab.target")
    (units / "network-online.target").symlink_to("/dev/null")   # the network is the host's, and up
    etc = {
        "hosts": "127.0.0.1 localhost\n",
        "machine-id": "00000000000000000000000000000001\n",
        "resolv.conf": "",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
        "ssh/sshd_config": f"Port {ports['ssh']}\nListenAddress 127.0.0.1\nHostKey /etc/ssh/host_key\nUsePAM no\n"
                           "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxSessions 100\n"
                           "Subsystem sftp /usr/lib/openssh/sftp-server\n",
        "haproxy/active.map": f"{MAP_KEY} blue\n",
        "haproxy/haproxy.cfg": config(ports, method, "blue"),
    }
    for name, text in etc.items():
        (files / "etc" / name).write_text(text)
    (files / "root/.ssh/authorized_keys").write_text(public_key)
    (files / "root/.ssh").chmod(0o700)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", files / "etc/ssh/host_key"])


def config(ports: dict[str, int], method: str, colour: str) -> str:
    asked = f"use_backend shop-web-%[str({MAP_KEY}),map(/etc/haproxy/active.map,missing)]"
    backends = "".join(
        f"\nbackend shop-web-{each}\n    option httpchk GET /health\n    server web-{each} 127.0.0.1:{ports[each]} check inter 100 rise 1\n"
        for each in RELEASES)
    return f"""\
global
    chroot /var/lib/haproxy
    stats socket /run/haproxy/admin.sock mode 660 level admin
    user haproxy
    group haproxy
    daemon

defaults
    mode http
    option idle-close-on-response
    timeout connect 1s
    timeout client 30s
    timeout server 10s

frontend shop
    bind 127.0.0.1:{ports['frontend']}
    {asked if method == 'map' else f'default_backend shop-web-{colour}'}
{backends}"""


def _offer(folder: Path, ports: dict[str, int], method: str) -> dict:
    """As the test edge offers it. Paths in `options` and `inside` are the machine's, the others lead into it from the host."""
    family = daemon.children({daemon.running(folder, "systemd")})
    [inside] = filter(_is_first, family)
    root = f"/proc/{inside}/root"
    options = {"method": method, "config": "/etc/haproxy/haproxy.cfg", "map_key": MAP_KEY, "state_dir": f"/var/lib/reversible/{MAP_KEY}"}
    if method == "map":
        options["map"] = "/etc/haproxy/active.map"
    return {
        "root": root, "url": f"http://127.0.0.1:{ports['frontend']}/", "unit": "haproxy.service", "map_key": MAP_KEY, "options": options,
        "config": f"{root}/etc/haproxy/haproxy.cfg", "map": f"{root}/etc/haproxy/active.map", "pidfile": f"{root}/run/haproxy.pid",
        "stats": f"{root}/run/haproxy/admin.sock", "master": f"{root}/run/haproxy-master.sock",
        "inside": {"stats": "/run/haproxy/admin.sock", "master": "/run/haproxy-master.sock", "pidfile": "/run/haproxy.pid"},
        "controls": {colour: f"{root}/run/web-{colour}.control" for colour in RELEASES},
        "apps": {colour: f"http://127.0.0.1:{ports[colour]}/" for colour in RELEASES},
        "configs": {colour: config(ports, method, colour) for colour in RELEASES},
    }


def _is_first(pid: int) -> bool:
    """Is it the first process of its machine?"""
    with suppress(OSError):   # it may just have ended
        return bool(re.search(r"(?m)^NSpid:\s.*\s1$", Path(f"/proc/{pid}/status").read_text()))
    return False


def _edge(folder: Path) -> dict:
    return json.loads((folder / "edge.json").read_text())


def _name(folder: Path) -> str:
    """Of the host and of its control group, which the host sees: another lab's machine has another."""
    return f"reversible-lab-systemd-{zlib.crc32(str(folder).encode()):08x}"


def _login(folder: Path) -> Login:
    port = re.findall(r"(?m)^Port (\d+)", (folder / "files/etc/ssh/sshd_config").read_text())[0]
    return Login(folder, int(port), "root")


def _console(folder: Path) -> str:
    return "systemd said last:\n" + (folder / "console.log").read_text(errors="replace").strip()[-1500:]
