#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# A control group of its own for a machine of the lab, made the root of a cgroup namespace in which the machine's script INIT goes on; and
# the tidying after its end: the kernel ends and unmounts all but the group. "SKIP: ..." says what this machine does not allow.
# usage: own_cgroup.sh start FOLDER TREE NAME INIT    (INIT is called with FOLDER TREE NAME)
#        own_cgroup.sh tidy FOLDER NAME               (in a mount namespace of its own)
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022
act=$1 folder=$2

skip() {
    echo "SKIP: $*"
    exit 1
}

case $act in
start)
    name=$4
    # A mount of our own: hosts have theirs in different places, or none beside the old hierarchies.
    mount -t cgroup2 cgroup2 "$folder/cgroup" || skip "no control groups (cgroup2) can be mounted here"
    mkdir -p "$folder/cgroup/$name" || skip "no control group can be made here"
    echo 0 > "$folder/cgroup/$name/cgroup.procs" || skip "no process can be moved to a control group here"
    exec unshare --cgroup -- sh "$5" "$folder" "$3" "$name"
    ;;
tidy)
    name=$3
    # Where this cannot be mounted there was never a group either.
    mount -t cgroup2 cgroup2 "$folder/cgroup" 2> "$folder/tidy.log" || exit 0
    # Members take a moment to go after their first process was killed.
    for _try in 1 2 3 4 5 6 7 8 9 10; do
        [ -d "$folder/cgroup/$name" ] || exit 0
        find "$folder/cgroup/$name" -depth -type d -exec rmdir {} + 2> "$folder/tidy.log" || sleep 0.2
    done
    cat "$folder/tidy.log" >&2
    exit 1
    ;;
*) exit 2 ;;
esac
