# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of `make test` that are no files of tests: each a function that runs commands through its Job."""
from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from circles import circles
from jobs import ROOT, Failed, Job, Skip, Stage, count_cargo, count_sanity

LAB = ROOT / "tests" / "lab"
sys.path.insert(0, str(LAB))

from labkit import CACHE, Fail as LabFail, apt  # noqa: E402  (the path comes first)
from labkit.cache import entry  # noqa: E402, F401  (run.py takes it from here)
from labkit.rust import check_rust  # noqa: E402

CANDIDATES = {"2.22"}   # not released yet
CORES = ("2.16", "2.17", "2.18", "2.19", "2.20", "2.21", "2.22")
INSTALLERS = ("2.16", "2.19", "2.21", "2.22")   # install the archive also with little time
COPIES = ROOT / "target" / "test-copies"
STAGED = COPIES / "staged"   # with the test-only modules
BOTH = COPIES / "staged for both"
INSTALLED = COPIES / "installed"   # from the archive
COLLECTION = Path("ansible_collections/reversible/deploy")
PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_got: dict[str, Path | Exception] = {}
_locks: dict[str, threading.Lock] = {}


def needs() -> str:
    """What this machine would get, said before it does."""
    asked = subprocess.run([LAB / "lab", "needs"], stdout=subprocess.PIPE, text=True, check=False)
    if asked.returncode != 0:
        sys.exit("the lab cannot say what it needs")
    lines = ["What is missing of the following is installed (apt) or made in the cache (the rest) as the stages need it:"]
    lines += [f"  {line}" for line in asked.stdout.splitlines()]
    lines += [] if shutil.which("cc") else ["  cargo: installs gcc libc6-dev"]
    return "\n".join(lines) + "\n"


def prepare() -> None:
    """What cargo itself needs, before it is called at all."""
    try:
        check_rust()
    except LabFail as fail:
        sys.exit(f"make test: {fail}")
    if not shutil.which("cc"):
        try:
            apt.install("gcc", "libc6-dev")
        except LabFail as fail:
            sys.exit(f"cargo needs a C compiler to link with: {fail}")


def tool(job: Job, name: str) -> Path:
    """`lab get`, once for all stages, since each checks what is cached; a refusal is remembered as well."""
    with _locks.setdefault(name, threading.Lock()):
        if name not in _got:
            try:
                output = job.run(LAB / "lab", "get", name, ok=(0, 77)).strip().splitlines()
                skipped = re.match(r"lab: SKIPPED: (.*)", output[-1])
                _got[name] = Skip(skipped[1]) if skipped else Path(output[-1])
            except Failed as error:
                _got[name] = Failed(f"the lab could not get {name}: {error}")
        found = _got[name]
    if isinstance(found, Exception):
        raise found
    return found


def cores(job: Job, wanted: tuple[str, ...]) -> list[tuple[str, Path]]:
    """These versions of ansible-core, as far as this machine has a Python for them; the others count as skipped."""
    found = []
    for version in wanted:
        try:
            found.append((version, tool(job, f"ansible-{version}")))
        except Skip as skip:
            job.skips.append(f"ansible-core {version}: {skip}")
    return found


def edges(job: Job) -> list[tuple[str, Path]]:
    """The oldest and the newest version of ansible-core that can be had here; all of them when there is time."""
    if job.long:
        return cores(job, CORES)
    ends = []
    for versions in (CORES, CORES[::-1]):
        for version in versions:
            try:
                ends.append((version, tool(job, f"ansible-{version}")))
                break
            except Skip:
                continue
    if not ends:
        raise Skip("no ansible-core can be had here")
    return sorted(set(ends))


def files() -> list[Path]:
    """What is in the repository, or would be with the next commit."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            stdout=subprocess.PIPE, text=True, check=True).stdout
    return [ROOT / name for name in sorted(listed.split("\0")) if name and os.path.lexists(ROOT / name)]


def metadata(job: Job) -> dict:
    output = job.run("cargo", "metadata", "--no-deps", "--format-version", "1", "--quiet")
    return json.loads(next(line for line in output.splitlines() if line.startswith("{")))

# ---------------------------------------------------------------- what cargo does


def fmt(job: Job) -> None:
    job.run("cargo", "fmt", "--all", "--check", "--", "--color", "never")


def tree(job: Job) -> None:
    """No name of a package registry's host and no path of one machine; the code map names every crate; no circles in the crates."""
    foreign = re.compile(r"(?<![\w.-])/wor[k]/|(?<![\w.-])/far[m]/|[.][.]/share[d]\b|deb[.]debia|crate[s][.]io|pyp[i][.]o|npmj[s][.]")
    wrong = []
    for path in files():
        if path.is_symlink() or not path.is_file() or path.name == "Cargo.lock":
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            # Among the tasks of the playbooks it is a folder of ours.
            ours = re.sub(r"[.][.]/share[d]/", "", line) if ROOT / "playbooks/tasks" in path.parents else line
            if foreign.search(ours):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    job.write("\n".join(wrong))
    architecture = (ROOT / "modules/ARCHITECTURE.md").read_text()
    unnamed = [crate["name"] for crate in metadata(job)["packages"] if not re.search(rf"\b{crate['name']}\b", architecture)]
    job.write(f"crates that modules/ARCHITECTURE.md does not name: {' '.join(unnamed) or 'none'}")
    round_trips = circles()
    job.write("\n".join(round_trips))
    problems = (wrong, unnamed, round_trips)
    job.failed, job.passed = sum(map(bool, problems)), sum(not problem for problem in problems)
    if job.failed:
        raise Failed(f"{len(wrong)} lines name a registry's host or a path of one machine; {len(unnamed)} crates are not in the code map; "
                     f"{len(round_trips)} circles of files that need each other")


def clippy(job: Job) -> None:
    job.run("cargo", "clippy", "--workspace", "--all-targets", "--locked")


def docs(job: Job) -> None:
    job.run("cargo", "xtask", "docs", "--check")


def cargo_test(job: Job) -> None:
    env = {"REVERSIBLE_LONG": "1"} if job.long else {}
    what = [word for crate in job.crates for word in ("--package", crate)] or ["--workspace"]
    if shutil.which("cargo-nextest"):
        job.tests(count_cargo, "cargo", "nextest", "run", *what, "--locked", "--no-tests", "fail", env=env)
    else:
        job.tests(count_cargo, "cargo", "test", *what, "--locked", "--no-fail-fast", env=env)


def collection(job: Job) -> None:
    """Built (xtask checks that each binary is static, small and runs), not built again when nothing changed, and staged: for this
    machine's architecture, since the tests wait for it. `dist` builds both."""
    here = ("--arch", platform.machine())
    job.run("cargo", "xtask", "collection", *here)
    again = job.run("cargo", "xtask", "collection", *here)
    job.run("cargo", "xtask", "stage", STAGED, "--with-tests", *here)
    job.passed = 2
    if built := re.findall(r"(?m)^(?:building .*|.*, new)$", again):
        job.failed, job.passed = 1, 1
        raise Failed(f"`cargo xtask collection` with nothing changed has built again: {'; '.join(built)}")


def dist(job: Job) -> None:
    """The archive, for both architectures; in short as a draft, whose binaries for the other one are neither small nor measured. When
    there is time, as it is shipped, and once more in another folder, from nothing: the same bytes."""
    tool(job, "aarch64-toolchain")
    env = {"SOURCE_DATE_EPOCH": job.run("git", "log", "-1", "--format=%ct").strip()}
    job.run("cargo", "xtask", "dist", *draft(job), env=env, timeout=3600)
    if not job.long:
        job.write("left to make test-long: the other architecture as it is shipped, its sizes, and the same bytes from a second build")
        return
    twin = COPIES / "twin of it"
    shutil.rmtree(twin, ignore_errors=True)
    for path in files():
        place = twin / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
    here = Path(metadata(job)["target_directory"])
    job.run(here / "debug/xtask", "dist", cwd=twin, env=env | {"CARGO_TARGET_DIR": twin / "target"})
    name = f"*{version(job)}.tar.gz"
    (one, other) = (list((folder / "dist").glob(name)) for folder in (here, twin / "target"))
    sums = {hashlib.sha256(path.read_bytes()).hexdigest() for path in one + other}
    job.write(f"{one} {other} {sums}")
    if len(one) != 1 or len(other) != 1 or len(sums) != 1:
        raise Failed("two builds of the archive from the same sources differ")
    shutil.rmtree(twin)


def draft(job: Job) -> list[str]:
    return [] if job.long else ["--draft"]


def version(job: Job) -> str:
    return metadata(job)["packages"][0]["version"]


def deny(job: Job) -> None:
    """Licences, sources and, where its database can be reached, known vulnerabilities of the crates."""
    env = {"PATH": f"{tool(job, 'cargo-deny').parent}:{os.environ['PATH']}", "GIT_TERMINAL_PROMPT": "0"}
    job.run("cargo", "deny", "check", "licenses", "bans", "sources", env=env)
    job.passed = 1
    try:
        job.run("cargo", "deny", "fetch", "db", env=env, timeout=120)
    except Failed:
        job.skips.append("the database of known vulnerabilities cannot be reached: the crates were NOT checked against it")
    else:
        job.run("cargo", "deny", "check", "advisories", env=env)
        job.passed = 2

# ---------------------------------------------------------------- what Python tools do


def yamllint(job: Job) -> None:
    job.run(tool(job, "linters") / "bin/yamllint", "--strict", ".")


def reuse(job: Job) -> None:
    job.run(tool(job, "linters") / "bin/reuse", "lint")


def docsite(job: Job) -> None:
    """What a docsite is made of: every page of a module, role and filter is whole, and what it refers to is there. When there is time, the pages."""
    folder = tool(job, "linters") / "bin"
    with copy_of_archive(job) as place:
        env = {"PATH": f"{folder}:{PLAIN_PATH}", "ANSIBLE_COLLECTIONS_PATH": place.parents[2]}
        job.run(folder / "antsibull-docs", "lint-collection-docs", "--plugin-docs", ".", cwd=place, env=env)
        if job.long:
            pages = place.parents[2] / "pages"
            pages.mkdir(mode=0o700)
            job.run(folder / "antsibull-docs", "collection", "--use-current", "--fail-on-error", "--dest-dir", pages, "reversible.deploy", env=env)
        else:
            job.write("left to make test-long: the pages themselves")


def changelog(job: Job) -> None:
    """The fragments are sound. The changelog is what antsibull-changelog makes of what is there, so CHANGELOG.rst is what changelog.yaml yields, and
    every module of a released version is in both. A role and a playbook have no version of their own: each is named in the changelog or in a fragment.
    """
    folder = tool(job, "linters") / "bin"
    with tempfile.TemporaryDirectory(prefix="reversible-changelog-") as name:
        copy = Path(name)
        for path in files():
            if not path.is_symlink() and (words := path.relative_to(ROOT).parts)[0] in ("collection", "galaxy.yml", "playbooks", "roles"):
                place = copy.joinpath(*words[words[0] == "collection":])   # as in the archive: antsibull-changelog follows no links to folders
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        written = [copy / "changelogs/changelog.yaml", copy / "CHANGELOG.rst"]
        before = [path.read_text() for path in written]
        fragments = [path for path in sorted((copy / "changelogs/fragments").iterdir()) if not path.name.startswith(".")]
        known = "\n".join([before[0], *(path.read_text() for path in fragments)])
        names = [path.name for path in (ROOT / "roles").iterdir()] + [path.stem for path in (ROOT / "playbooks").glob("*.yml")]

        def antsibull(*words) -> None:
            job.run(folder / "antsibull-changelog", *words, cwd=copy, env={"PATH": f"{folder}:{PLAIN_PATH}"})

        antsibull("lint")
        antsibull("lint-changelog-yaml", "--strict", written[0])
        for path in fragments:
            path.unlink()
        newest = re.search(r"(?m)^  (\d\S*):$", before[0])[1]
        antsibull("release", "--update-existing", "--version", newest, "--date", re.search(r"release_date: '(.*)'", before[0])[1])
        changed = [path for path, text in zip(written, before) if path.read_text() != text]
        for path in changed:
            job.run("diff", "-u", ROOT / "collection" / path.relative_to(copy), path, ok=(0, 1))
    unnamed = [name for name in sorted(names) if not re.search(rf"(?m)^[\s-]+name: {name}$", known)]
    job.write(f"roles and playbooks that neither the changelog nor a fragment names: {' '.join(unnamed) or 'none'}")
    job.failed, job.passed = bool(changed) + bool(unnamed), 1 + (not changed) + (not unnamed)
    if changed:
        raise Failed("`make changelog` would write another changelog")
    if unnamed:
        raise Failed(f"no fragment says that this is new: {' '.join(unnamed)}")


def shellcheck(job: Job) -> None:
    def is_shell(path: Path) -> bool:
        if path.is_symlink() or not path.is_file() or path.suffix == ".j2":   # a template is no shell yet
            return False
        with path.open("rb") as file:
            return bool(re.match(rb"#!\s*(/usr)?/bin/(env )?(ba|da)?sh\b", file.readline(80))) or path.suffix == ".sh"
    job.run(tool(job, "shellcheck"), *(path.relative_to(ROOT) for path in files() if is_shell(path)))


def ansible_lint(job: Job) -> None:
    """What the archive installs, as a Hub lints it: with none of our settings but what to ignore, and without its rules for YAML, which yamllint
    knows by ours. Then what only the checkout has; called by hand there, it looks at everything."""
    folder = tool(job, "linters") / "bin"
    lint = (folder / "ansible-lint", "--nocolor", "--strict", "--offline", "--profile", "production")
    shipped = ("roles", "playbooks", "collection/plugins", "collection/meta", "collection/changelogs", "collection/docs/workflows")
    with copy_of_archive(job) as place:
        env = {"PATH": f"{folder}:{PLAIN_PATH}", "ANSIBLE_COLLECTIONS_PATH": place.parents[2]}
        said = job.run(*lint, "--ignore-file", ROOT / ".ansible-lint-ignore", "--skip-list", "yaml", cwd=place, env=env)
    job.passed = 1
    said += job.run(*lint, *(word for path in shipped for word in ("--exclude", path)), env=env | {"ANSIBLE_COLLECTIONS_PATH": ROOT / ".dev"})
    job.passed = 2
    # What it could not look at is said there, and is no violation to it.
    if errors := re.findall(r"(?m)^(?:CRITICAL|ERROR) .*", said):
        job.failed, job.passed = 1, 1
        raise Failed("; ".join(errors))


def galaxy(job: Job) -> None:
    """What a Hub does with the archive before it takes it: no error, and no warning. Its sanity tests and its lint (to which it gives 180 seconds by the
    clock) are the stages `sanity` and `ansible-lint`, of the same files by the same ansible-lint."""
    folder = tool(job, "linters") / "bin"
    with tempfile.TemporaryDirectory(prefix="reversible-galaxy-") as name:
        config = Path(name) / "galaxy-importer.cfg"
        config.write_text("[galaxy-importer]\ncheck_required_tags = yes\nrun_ansible_test = no\nrun_ansible_lint = no\n")
        env = {"PATH": f"{folder}:{PLAIN_PATH}", "HOME": name, "GALAXY_IMPORTER_CONFIG": config}
        said = job.run(folder / "python", "-m", "galaxy_importer.main", archive_file(job), cwd=name, env=env)
        found = json.loads((Path(name) / "importer_result.json").read_text())["contents"]
    if complaints := re.findall(r"(?m)^(?:CRITICAL|ERROR|WARNING): .*", said):
        raise Failed("; ".join(complaints))
    execution_environment(job, folder)
    names = {kind: {item["name"] for item in found if item["content_type"] == kind} for kind in ("module", "role", "playbook")}
    wanted = {"module": {path.stem for path in (ROOT / "collection/plugins/modules").glob("*.py")},
              "role": {path.name for path in (ROOT / "roles").iterdir()}, "playbook": {path.name for path in (ROOT / "playbooks").glob("*.yml")}}
    if names != wanted:
        raise Failed(f"it has found {names}")
    job.passed = 2 + sum(map(len, names.values()))


def execution_environment(job: Job, folder: Path) -> None:
    """ansible-builder reads what the collection needs, and takes the example; the image itself would come from a registry of containers."""
    with copy_of_archive(job) as place:
        said = job.run(folder / "ansible-builder", "introspect", place.parents[2])
        if "openssh-client" not in said:
            raise Failed("ansible-builder does not find what an execution environment needs for the collection (bindep.txt)")
        example = place / "docs/execution-environment.yml"
        for name in re.findall(r"(?m)^  - src: (\S+)$", example.read_text()):
            shutil.copy(archive_file(job), example.with_name(name))
        job.run(folder / "ansible-builder", "create", "--file", example, "--context", place.parents[2] / "context")


def syntax(job: Job) -> None:
    """Every playbook, by the oldest and the newest ansible-core."""
    is_playbook = re.compile(r"(?m)^(- |  )(hosts|(ansible\.builtin\.)?import_playbook):")
    texts = {path: path.read_text(errors="replace") for path in files() if path.suffix == ".yml"}
    # An inventory has hosts as well, and is no list.
    books = [path for path, text in texts.items() if is_playbook.search(text) and not re.search(r"(?m)^\w", text)]
    if not books:
        raise Skip("there is no playbook yet")
    for _version, venv in edges(job):
        job.run(venv / "bin/ansible-playbook", "--syntax-check", *books, env={"ANSIBLE_COLLECTIONS_PATH": STAGED, "ANSIBLE_LOCALHOST_WARNING": "0"})
        job.passed += len(books)


def sanity(job: Job) -> None:
    """All of ansible-test's sanity tests on what the archive installs, with the newest version (with time with all), for that controller's
    own Python. Not run: compile and import for other Pythons, since our code runs on controllers only and each version is run in full elsewhere.
    A release candidate's ansible-test wants a pylint that is nowhere but at its author's: the newest release's looks at the same files.
    """
    home = tool(job, "ansible-test-pip")
    for core, venv in cores(job, CORES if job.long else CORES[-2:]):
        without = ["--skip-test", "pylint"] if core in CANDIDATES else []
        python = job.run(venv / "bin/python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        with copy_of_archive(job) as place:
            env = {"HOME": home, "PATH": f"{venv / 'bin'}:{PLAIN_PATH}"}
            job.tests(count_sanity, venv / "bin/ansible-test", "sanity", "--color", "no", "--python", python, *without, cwd=place, env=env)


def archive_file(job: Job) -> Path:
    """The archive of the stage `dist`."""
    return Path(metadata(job)["target_directory"]) / ("dist" if job.long else "draft") / f"reversible-deploy-{version(job)}.tar.gz"


def archive(job: Job) -> None:
    """The archive of `make dist`: each ansible-core (in short, of INSTALLERS) installs it without a network, and the same files; the oldest and the
    newest verify them and find the modules' documentation. The tests of every module run what was installed."""
    modules = [f"reversible.deploy.{path.stem}" for path in (ROOT / "collection/plugins/modules").glob("*.py")]
    if INSTALLED.exists():
        shutil.rmtree(INSTALLED)
    first: dict[str, tuple[int, str]] = {}
    ends = dict(edges(job))
    for core, venv in cores(job, CORES if job.long else tuple(sorted({*INSTALLERS, *ends}))):
        with tempfile.TemporaryDirectory(prefix="reversible-archive-") as name:
            env = {"ANSIBLE_COLLECTIONS_PATH": name, "HOME": name, "ANSIBLE_NOCOLOR": "1"}
            job.run(venv / "bin/ansible-galaxy", "collection", "install", archive_file(job), "--offline", "-p", name, env=env)
            found = contents(Path(name) / COLLECTION)
            if core in ends:
                job.run(venv / "bin/ansible-galaxy", "collection", "verify", "--offline", "reversible.deploy", "-p", name, env=env)
                listed = job.run(venv / "bin/ansible-doc", "-l", "reversible.deploy", env=env)
                missing = [module for module in modules if not re.search(rf"(?m)^{re.escape(module)}\s", listed)]
                if missing or not modules:
                    raise Failed(f"ansible-core {core}: ansible-doc -l does not show {', '.join(missing) or 'any module'}")
                job.run(venv / "bin/ansible-doc", *modules, env=env)
            if not first:
                first = found
                shutil.copytree(Path(name) / COLLECTION, INSTALLED / COLLECTION, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            if differ := sorted(path for path in first | found if first.get(path) != found.get(path)):
                raise Failed(f"ansible-core {core} installs other files than the oldest: {', '.join(differ)}")
        job.passed += 1


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """The mode and the hash of each file."""
    return {str(path.relative_to(folder)): (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in folder.rglob("*") if path.is_file()}


@contextmanager
def copy_of_archive(job: Job) -> Iterator[Path]:
    """What the archive installs, outside of the checkout: what its .gitignore names, Ansible's tools leave out."""
    with tempfile.TemporaryDirectory(prefix="reversible-archive-") as folder:
        place = Path(folder) / COLLECTION
        shutil.copytree(INSTALLED / COLLECTION, place, symlinks=True)
        yield place

# ---------------------------------------------------------------- what the tests need


def prepare_lab(job: Job) -> None:
    """All that the tests want of the lab: in their sandboxes nothing can be fetched. And the bytecode of what they share, which each of hundreds of
    processes would else make for itself where Python is told to write none."""
    job.run(LAB / "lab", "prepare", env={"REVERSIBLE_LONG": "1"} if job.long else {}, timeout=3600)
    job.run(tool(job, "pytest") / "bin/python", "-m", "compileall", "-q", LAB, ROOT / "tests/support")


def both(job: Job) -> None:
    """A collection with the binaries of both architectures, as `dist` has built them."""
    tool(job, "aarch64-toolchain")
    job.run("cargo", "xtask", "stage", BOTH, *draft(job))


def setting(job: Job) -> tuple[Path, dict[str, str]]:
    """Where pytest is, and the environment of every test."""
    versions = ",".join(version for version, _venv in cores(job, CORES))
    env = {"REVERSIBLE_CORES": versions, "REVERSIBLE_STAGED": str(STAGED), "REVERSIBLE_CACHE": str(CACHE), "CARGO_NET_OFFLINE": "true"}
    return tool(job, "pytest") / "bin/pytest", env | ({"REVERSIBLE_LONG": "1"} if job.long else {})


STAGES = [
    Stage("fmt", "cargo fmt", fmt),
    Stage("tree", "nothing of one machine in the repository; the code map is complete", tree),
    Stage("prepare", "what the tests want of the lab, fetched and built", prepare_lab, counts=False),
    Stage("collection", "the static binaries: built, checked, staged; nothing to do the second time", collection, cargo=True),
    Stage("cargo-test", "the Rust tests", cargo_test, cargo=True),
    Stage("clippy", "clippy on everything, warnings denied", clippy, cargo=True),
    Stage("docs", "the generated documentation is that of the option specs", docs, ("collection",), cargo=True),
    Stage("dist", "the archive, for both architectures", dist, ("collection",), cargo=True),
    Stage("both", "the collection staged for both architectures", both, ("dist",), cargo=True, counts=False),
    Stage("deny", "licences, sources and known vulnerabilities of the crates", deny),
    Stage("yamllint", "YAML", yamllint),
    Stage("reuse", "every file says whose it is and its licence", reuse),
    Stage("docsite", "the pages of a docsite are whole", docsite, ("archive",)),
    Stage("changelog", "the changelog's fragments, and that it is what they and the modules make it", changelog),
    Stage("shellcheck", "shell scripts", shellcheck),
    Stage("ansible-lint", "what the archive installs, and what only the checkout has, in the production profile", ansible_lint, ("archive",)),
    Stage("galaxy", "what a Hub does with the archive: no error, no warning", galaxy, ("archive",)),
    Stage("sanity", "ansible-test sanity", sanity, ("archive",)),
    Stage("syntax", "every playbook's syntax", syntax, ("collection", "prepare")),
    Stage("archive", "the archive installs, with each ansible-core the same, and documents itself", archive, ("dist", "prepare")),
]
