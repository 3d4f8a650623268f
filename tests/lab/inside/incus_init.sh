#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The start of the machine of the lab's Incus. The first process has its own mount, pid, IPC, host name and network namespaces, and its own
# control group (own_cgroup.sh). It puts the machine's root together, and becomes incus_run. "SKIP: ..." says what this machine does not allow.
# usage: incus_init.sh FOLDER TREE NAME
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
cp "${0%/*}/incus_run.sh" "$root/all/usr/local/bin/incus_run"
chmod 0755 "$root/all/usr/local/bin/incus_run"
cd "$root/all"

mount -t proc proc proc || skip "no fresh /proc can be mounted here"
mount -t tmpfs -o mode=0755 dev dev
for device in null zero full random urandom tty fuse; do
    [ -e "/dev/$device" ] || continue
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
# Containers' file systems: not on the overlay, which knows no maps of users.
mount -t tmpfs -o mode=0711 incus var/lib/incus
mount -t sysfs sysfs sys || skip "no fresh /sys can be mounted here"
mount -t cgroup2 cgroup2 sys/fs/cgroup || skip "no control groups can be mounted in a namespace here"
# A group with processes of its own could not hand its controllers down.
mkdir sys/fs/cgroup/machine
echo 0 > sys/fs/cgroup/machine/cgroup.procs

mkdir .host
pivot_root . .host
# shellcheck disable=SC2016  # the inner shell expands its own arguments
exec chroot . /bin/sh -c '
    cd /
    umount -l /.host && rmdir /.host
    hostname "$1"
    exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /usr/local/bin/incus_run
' sh "$name" </dev/null
