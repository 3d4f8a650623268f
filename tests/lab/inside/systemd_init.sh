#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The start of a machine with systemd. The first process has its own mount, pid, IPC and host name namespaces, and its own control group
# (own_cgroup.sh). It puts the machine's root together, and becomes systemd. "SKIP: ..." says what this machine does not allow.
# usage: systemd_init.sh FOLDER TREE NAME
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022
folder=$1

skip() {
    echo "SKIP: $*"
    exit 1
}

tree=$2 name=$3 root=$folder/root
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
