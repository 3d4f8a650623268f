#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The start of a bare machine: the first process in its own mount, pid and host name namespaces. It furnishes a tmpfs, makes
# that the root, lets go of the host's, and becomes dropbear. When it ends, the kernel ends and unmounts the rest.
# usage: bare_init.sh TREE ROOT NAME DROPBEAR_PORT SSHD_PORT [QEMU]
set -eu
tree=$1 root=$2 name=$3 dropbear_port=$4 sshd_port=$5 qemu=${6-}
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

mount -t tmpfs -o mode=0755,size=256m bare "$root"
cp -a "$tree/." "$root"
cd "$root"

mount -t proc proc proc
if [ "$qemu" ]; then
    # aarch64 programs start by qemu; F opens it now, so that it need not be in the machine; P keeps argv[0]
    mount -t binfmt_misc binfmt_misc proc/sys/fs/binfmt_misc
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":aarch64:M::$magic:$mask:$qemu:FP" > proc/sys/fs/binfmt_misc/register
fi
mount -t tmpfs -o mode=0755,size=64k dev dev
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for applet in $(chroot . /bin/busybox --list); do
    [ -e "usr/bin/$applet" ] || ln -s busybox "usr/bin/$applet"
done

# The odd homes. Each keeps its authorized keys.
mount -t tmpfs -o size=1m,mode=0755 tiny home/tiny
cp -a "$tree/home/tiny/." home/tiny
mount --bind home/readonly home/readonly
mount -o remount,bind,ro home/readonly
mount --bind home/noexec home/noexec
mount -o remount,bind,noexec home/noexec

mkdir .host
pivot_root . .host
# shellcheck disable=SC2016  # the inner shell expands its own arguments
exec chroot . /bin/sh -c '
    cd /
    umount -l /.host && rmdir /.host
    hostname "$1"
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    /usr/sbin/sshd -D -e -p "$3" -o ListenAddress=127.0.0.1 &
    # by name: given a path, dropbear starts itself anew for each connection in a way that qemu cannot follow
    exec dropbear -F -E -R -s -p "127.0.0.1:$2"
' sh "$name" "$dropbear_port" "$sshd_port" </dev/null
