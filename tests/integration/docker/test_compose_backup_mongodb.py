# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_backup on a project with MongoDB, by the recipe of the role compose_app: stopped, paused, and dumped.

Debian has no MongoDB, and its own image cannot be had without a registry. So the image is a stand-in, which does what the recipe relies on: data in /data/db
and /data/configdb, both volumes of the image; writes in a journal until a checkpoint, which a clean end makes; a lock file that an unclean end leaves, after
which the next start recovers; and mongodump and mongorestore by --archive. Whether the real one keeps its own promises is not seen here.
"""
from __future__ import annotations

import json
import shlex
import typing as t

import pytest
import yaml
from compose import Engine, Project, an_engine  # noqa: F401  (one is a fixture)
from harness import ROOT

ID, BACK = "20261121t084500z-7f3a", "20261121t090000z-1c2d"
MAGIC = "m\u2641"   # the first four bytes of an archive of mongodump
COMPOSE = """\
services:
  mongo:
    image: NAME/mongo:1
    volumes: [dbdata:/data/db]
    healthcheck: {test: [CMD, mongosh, --quiet, --eval, db.runCommand("ping").ok], interval: 1s, timeout: 5s, retries: 60}
volumes: {dbdata: {}}
"""
PROGRAMS = {
    "mongod": """\
checkpoint() { cat /data/db/journal >> /data/db/orders; : > /data/db/journal; }
touch /data/db/orders /data/db/journal /data/configdb/seen
if [ -s /data/db/mongod.lock ]; then
    echo "unclean shutdown detected, recovering from the journal"
    checkpoint
fi
echo 1 > /data/db/mongod.lock
trap 'checkpoint; : > /data/db/mongod.lock; echo "clean shutdown"; exit 0' TERM
echo "waiting for connections"
while :; do sleep 0.1 & wait $!; done
""",
    "mongosh": """\
case "$3" in
    *ping*) test -s /data/db/mongod.lock && echo 1 ;;
    *insert*) echo "${3##* }" >> /data/db/journal ;;
    *drop*) : > /data/db/journal; : > /data/db/orders ;;
    *find*) cat /data/db/orders /data/db/journal ;;
esac
""",
    "mongodump": """\
case "$*" in *--archive*) ;; *) echo "dump goes to a folder in the container" >&2; exit 1 ;; esac
if [ -e /data/db/refuses ]; then echo "Failed: error connecting to db server" >&2; exit 1; fi
printf 'm\\342\\231\\201\\n'
cat /data/db/orders /data/db/journal
""",
    "mongorestore": """\
read magic && [ "$magic" = "$(printf 'm\\342\\231\\201')" ] || exit 1
case "$*" in *--drop*) : > /data/db/journal; : > /data/db/orders ;; esac
cat >> /data/db/journal
""",
}


class Mongo(Project):
    def __init__(self, on: Engine) -> None:
        super().__init__(on, "", "mongo")
        self.file.write_text(f"name: {self.name}\n{COMPOSE.replace('NAME', self.name)}")
        image = self.place / "image"
        image.mkdir()
        for name, text in PROGRAMS.items():
            (image / name).write_text(f"#!/bin/sh\n{text}")
            (image / name).chmod(0o755)
        lines = ["FROM reversible-lab/busybox:1", f"COPY {' '.join(PROGRAMS)} /bin/", 'VOLUME ["/data/db", "/data/configdb"]',
                 'CMD ["mongod", "--bind_ip_all"]']
        (image / "Dockerfile").write_text("\n".join(lines) + "\n")
        on.docker("build", "--quiet", "--tag", f"{self.name}/mongo:1", image)

    def eval(self, text: str) -> list[str]:
        return self.inside("mongo", "mongosh", "--quiet", "--eval", text).split()

    def orders(self) -> list[str]:
        return self.eval("db.orders.find()")

    def log(self) -> str:
        return self.engine.docker("logs", self.container_of("mongo"))


@pytest.fixture(name="mongo")
def a_mongo(on: Engine) -> t.Iterator[Mongo]:
    mongo = Mongo(on)
    try:
        mongo.up()
        for number in ("1", "2", "3"):
            mongo.eval(f"db.orders.insert {number}")
        yield mongo
    finally:
        mongo.remove()
        on.docker("rmi", "--force", f"{mongo.name}/mongo:1", ok=False)


def recipe() -> tuple[list[dict[str, t.Any]], list[str]]:
    """As the role's README shows it: the dumps, and the command that restores one."""
    section = (ROOT / "roles/compose_app/README.md").read_text(encoding="utf-8").split("## MongoDB")[1].split("\n## ")[0]
    dumps = yaml.safe_load(section.split("```yaml\n")[1].split("```")[0])["compose_app_dumps"]
    [command] = [line.strip() for line in section.splitlines() if "mongorestore" in line and line.startswith("    docker compose exec")]
    return dumps, shlex.split(command)


def test_stopped_and_dumped_and_put_back(mongo: Mongo) -> None:
    dumps, restore = recipe()
    done = mongo.backup(deploy_id=ID, dumps=dumps)
    kept = mongo.backups / done["backup"] / "dumps/mongo.archive"
    assert kept.read_text() == f"{MAGIC}\n1\n2\n3\n" and mongo.orders() == ["1", "2", "3"]
    # It was copied when it had ended cleanly, both of its volumes.
    assert mongo.log().count("clean shutdown") == 1 and "recovering" not in mongo.log()
    mounts = json.dumps(mongo.manifest(done["backup"])["mounts"])
    assert '"/data/db"' in mounts and '"/data/configdb"' in mounts, mounts
    mongo.eval("db.orders.drop()")
    mongo.eval("db.orders.insert 666")
    mongo.restore(deploy_id=ID, rollback_id=BACK)
    assert mongo.orders() == ["1", "2", "3"] and "recovering" not in mongo.log() and mongo.settled() == {"mongo": "running healthy"}

    # The dump alone, into a server that has something else by now.
    mongo.eval("db.orders.insert 4")
    at = restore.index("mongo")
    mongo.engine.docker("exec", "-i", mongo.container_of("mongo"), *restore[at + 1:restore.index("<")], given=kept.read_text())
    assert mongo.orders() == ["1", "2", "3"]
    # What was replaced comes back as it was.
    mongo.restore(undo=BACK, rollback_id="20261121t091500z-5e6f")
    assert mongo.orders() == ["666"]


def test_paused_it_is_as_after_a_power_failure(mongo: Mongo) -> None:
    mongo.backup(deploy_id=ID, consistency="pause")
    assert "clean shutdown" not in mongo.log()
    mongo.eval("db.orders.drop()")
    mongo.restore(deploy_id=ID)
    assert "recovering from the journal" in mongo.log() and mongo.orders() == ["1", "2", "3"]


def test_a_dump_that_fails_keeps_no_backup(mongo: Mongo) -> None:
    (mongo.engine.volume(f"{mongo.name}_dbdata") / "refuses").touch()
    mongo.fails("bad_dump", "mongo.archive", "error connecting", dumps=recipe()[0])
    assert mongo.complete == [] and mongo.unfinished == [] and mongo.orders() == ["1", "2", "3"] and "clean shutdown" not in mongo.log()
