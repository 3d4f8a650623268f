#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The start of a machine with systemd, and the tidying after its end. The first process has its own mount, pid, IPC and host name
# namespaces. It gets a control group, makes that the root of a cgroup namespace, puts the machine's root together, and becomes
# systemd. When it ends, the kernel ends and unmounts all but the control group. "SKIP: ..." says what this machine does not allow.
# usage: systemd_init.sh start|enter FOLDER TREE NAME
#        systemd_init.sh tidy FOLDER NAME          (in a mount namespace of its own)
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
    exec unshare --cgroup -- sh "$0" enter "$folder" "$3" "$name"
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
enter) ;;
*) exit 2 ;;
esac

tree=$3 name=$4 root=$folder/root
mount -t tmpfs -o mode=0755 machine "$root"
mkdir "$root/upper" "$root/work" "$root/all"
if mount -t overlay -o "lowerdir=$tree,upperdir=$root/upper,workdir=$root/work" machine "$root/all"; then
    :
else
    cp -a "$tree/." "$root/all"   # a host whose own root is an overlay may not stack another
    mount --bind "$root/all" "$root/all"
fi
cp -a "$folder/files/." "$root/all"
cd "$root/all"

mount -t proc proc proc || skip "no fresh /proc can be mounted here"
mount -t tmpfs -o mode=0755 dev dev
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
: > dev/console
mount --bind "$folder/console.log" dev/console
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
# The kernel's settings are the host's: systemd sees them, and cannot change them.
mount -t sysfs -o ro sysfs sys || mount --rbind -o ro /sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup || skip "no control groups can be mounted in a namespace here"
for path in proc/sys proc/sysrq-trigger proc/irq proc/bus; do
    [ -e "$path" ] || continue
    mount --bind "$path" "$path"
    mount -o remount,bind,ro "$path"
done

mkdir .host
pivot_root . .host
# shellcheck disable=SC2016  # the inner shell expands its own arguments
exec chroot . /bin/sh -c '
    cd /
    umount -l /.host && rmdir /.host
    hostname "$1"
    exec env -i container=reversible-lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --log-target=console --log-level=notice --show-status=no
' sh "$name" </dev/null
