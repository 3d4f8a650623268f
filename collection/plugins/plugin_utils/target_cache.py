# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache of module binaries on the target: the shell scripts that use it, and how their answers are read.

A binary lies in ``~/.reversible-deploy`` of the user who executes it, under a name that ends in its own sha256. Invariant: nothing
is executed from there that anyone but root and that user could have written, nor anything whose hash is not the one asked for. It is
hashed again whenever it may have changed: when its inode, size or time of change is another, and after each boot of the machine.

Each script answers with one line, ``reversible <nonce> <word> <arch> <text>``. The nonce keeps a command line that is echoed (by
sudo, by ``set -x``, in a module's own output) from being taken for an answer: there the script still says ``$nonce``.

The scripts are plain POSIX sh (dash, busybox ash, bash). They hold no single quote, newline or exclamation mark, since they travel
through up to four rounds of shell quoting and, for some users, through csh. Each program that they start costs about a millisecond.
"""
from __future__ import annotations

import re
import typing as t

FOLDER = ".reversible-deploy"
KEPT_VERSIONS = 3


class Binary(t.NamedTuple):
    """One built module on the controller, and what it is called in the cache of a target."""

    arch: str
    path: str
    sha256: str
    stem: str  # such as "pct_snapshot_x86_64"

    @property
    def cached_name(self) -> str:
        return f"{self.stem}-{self.sha256}"


class Answer(t.NamedTuple):
    """What a script said.

    word: run (the binary was started, and the output is all its own), absent, corrupt, unusable, stored, progress, or system (this
    target is another one than we have binaries for, or the question was what it is).
    arch: the one that was chosen, or "-".
    text: the path for run and stored; the reason for unusable; what uname says for system; what is told for progress.
    """

    word: str
    arch: str
    text: str
    output: str


_ANSWER = re.compile(r"^reversible (?P<nonce>\w+) (\w+) (\S+) ?(.*?)\r?$\n?", re.MULTILINE)


def read_answer(nonce: str, stdout: str) -> Answer | None:
    for match in _ANSWER.finditer(stdout):
        if match["nonce"] == nonce:
            return Answer(*match.groups()[1:], stdout[match.end():])
    return None


def run_script(nonce: str, binaries: t.Iterable[Binary]) -> str:
    """Start the binary for the target's own architecture, if the cache holds it. The module's arguments are on stdin."""
    cases = " ".join(f'"Linux {b.arch}") arch={b.arch} name={b.cached_name} hash={b.sha256};;' for b in binaries)
    return _script(nonce, _SAY, _WHICH_SYSTEM.replace("CASES", cases), _WHICH_FOLDER, _CHECK, _RUN)


def store_script(nonce: str, binary: Binary) -> str:
    """Put the binary that is on stdin into the cache, whole or not at all, and prune what has not been used for long."""
    settings = f"arch={binary.arch}; name={binary.cached_name}; stem={binary.stem}; hash={binary.sha256}; kept={KEPT_VERSIONS};"
    return _script(nonce, settings, _SAY, _WHICH_FOLDER, _CHECK, _STORE, _PRUNE)


def progress_script(nonce: str, name: str) -> str:
    """Say what the binary that runs under this name tells of itself."""
    read = f'text=; {{ read -r text <"$real/.progress-{name}"; }} 2>/dev/null; say progress "$text"'
    return _script(nonce, "arch=-;", _SAY, _WHICH_FOLDER, read)


def system_script(nonce: str) -> str:
    """Only say what the target is."""
    return _script(nonce, 'printf "%s\\n" "reversible $nonce system - $(uname -sm)"')


def _script(nonce: str, *parts: str) -> str:
    return " ".join(f"nonce={nonce}; {' '.join(parts)}".split())


# Stdin is drained before a script ends without having used it: ssh takes a pipe that breaks under its hands for a lost connection.
_SAY = """
say() { cat >/dev/null; printf "%s\\n" "reversible $nonce $1 $arch $2"; exit 0; };
"""

_WHICH_SYSTEM = """
arch=-;
system=$(uname -sm);
case $system in CASES *) say system "$system";; esac;
"""

# The home is the one in the password database: HOME and XDG_CACHE_HOME may still be those of the user who became this one.
# sha256sum and stat are looked for first, so that no binary is sent to a target that could not check it. The effective uid is the
# second one in the kernel's own table about this shell; "id -u" would say the same a millisecond later. The folder is entered in a
# subshell, since the module must start where it would in the ordinary way.
_WHICH_FOLDER = """
for program in stat sha256sum; do
  command -v $program >/dev/null || say unusable "the target has no $program";
done;
uid=;
while read -r key _ id _; do case $key in Uid:) uid=$id; break;; esac; done </proc/self/status;
[ "$uid" ] || uid=$(id -u);
entry=$(getent passwd "$uid" 2>/dev/null || grep "^[^:]*:[^:]*:$uid:" /etc/passwd);
set -f; IFS=:; set -- $entry; unset IFS; set +f;
case $6 in /*) folder=${6%/}/FOLDER;; *) say unusable "the password database has no home for uid $uid";; esac;
[ -d "$folder" ] || error=$( { umask 077 && mkdir "$folder"; } 2>&1) || [ -d "$folder" ] || say unusable "$error";
real=$(cd -P "$folder" 2>&1 && pwd -P) || say unusable "$real";
""".replace("FOLDER", FOLDER)

# check PATH: PATH and all folders above it must belong to root or to this user, and nobody else may write to them, except that
# root's sticky folders (/tmp) will do: there, what is ours cannot be swapped by others. "stat" says one line a path, such as
# 1000:755:131:4096:2026-11-21 08:45:00.123456789 +0000, of which the first two words of PATH's are its state.
_CHECK = """
first() { state="$1 $2"; };
check() {
  path=$1; while [ "$path" ]; do path=${path%/*}; set -- "$@" "${path:-/}"; done;
  stats=$(stat -c %u:%a:%i:%s:%z "$@") || say unusable "stat -c does not work on the target";
  first $stats;
  for word in $stats; do
    case $word in *:*:*:*:*) owner=${word%:*:*:*};; *) continue;; esac;
    case $owner in
      0:[1357]???) ;;
      *[2367]|*[2367]?) say unusable "others can write to $1 ($owner)";;
      0:*|"$uid":*) ;;
      *) say unusable "$1 belongs to another user ($owner)";;
    esac;
    shift;
  done;
};
"""

# The binary is not exec'ed, and the shell outlives a SIGTERM to the whole group: if the shell itself died of a signal, ssh would
# end with 255, and Ansible would take the host for unreachable.
_RUN = """
file=$real/$name;
[ -f "$file" ] || { check "$real"; say absent; };
check "$file";
boot=; { read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null;
checked=; { read -r checked <"$real/.checked-$name"; } 2>/dev/null;
known=; case $checked in "$boot $state") known=$boot;; esac;
[ "$known" ] || {
  sum=$(sha256sum <"$file") || say unusable "sha256sum does not work on the target";
  case $sum in "$hash"*) ;; *) say corrupt;; esac;
  { (umask 077; printf "%s\\n" "$boot $state" >"$real/.checked-$name"); } 2>/dev/null;
};
trap : HUP INT TERM;
printf "%s\\n" "reversible $nonce run $arch $file";
"$file" -;
exit $?
"""

# Two controllers may do this at the same time: each writes its own file, and the rename puts the same content in place.
_STORE = """
check "$real";
umask 077;
new=$real/.new-$nonce;
trap "rm -f \\"\\$new\\"" EXIT;
error=$( { cat >"$new"; } 2>&1);
sum=$(sha256sum <"$new");
case $sum in "$hash"*) ;; *) say unusable "the binary did not arrive whole in $real: $error";; esac;
error=$( { chmod 700 "$new" && mv -f "$new" "$real/$name"; } 2>&1) || say unusable "$error";
"""

# Kept: the versions last used, and any that was sent or run in the last two days (running it reads it, and so renews its access
# time), since another controller may be about to run it again. One that is running keeps its inode whatever happens to its name.
# What a killed run has left (.new-*, .progress-*) goes after a day; and with it what was checked (.checked-*), which is then hashed once more.
_PRUNE = """
find "$real" -name ".[cnp]*-*" -mtime +1 -exec rm -f "{}" + 2>/dev/null;
count=0;
for old in $(ls -tu "$real"); do
  case $old in "$stem"-*)
    count=$((count + 1));
    [ $count -le $kept ] || find "$real/$old" -mtime +1 -atime +1 -exec rm -f "{}" + 2>/dev/null;;
  esac;
done;
say stored "$real/$name"
"""
