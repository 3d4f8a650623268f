#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The first process of the ZFS machine. Its address is the one that QEMU's network gives to a guest; there is no way out of it.
# The kernel's command line says who may log in: login=<the key, without its type>.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/zvol
mount -t devpts -o gid=5,mode=0620 devpts /dev/pts
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=0755,size=80% pools /mnt
# A root of one's own, as machines have: containers of the tests are namespaces with another one.
mount --make-rshared / 2>/dev/null
# A library for which there is a stand-in is only loaded by that.
mkdir /usr/lib/whole
for library in /usr/lib/lean/*; do
    mv "/usr/lib/x86_64-linux-gnu/${library##*/}" /usr/lib/whole/
    mv "$library" /usr/lib/x86_64-linux-gnu/
done
hostname zfs
for module in virtio_pci virtio_rng virtio_net; do modprobe "$module"; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
read -r words < /proc/cmdline
for word in $words; do
    case $word in login=*) echo "ssh-ed25519 ${word#login=}" > /root/.ssh/authorized_keys ;; esac
done
chmod 0700 /root /root/.ssh
modprobe zfs || echo "zfs_init: no zfs"
uevent /usr/sbin/zvol-link >/dev/null 2>&1 &
dropbearkey -t ed25519 -f /etc/dropbear/dropbear_ed25519_host_key >/dev/null 2>&1
echo "zfs_init: up after $(cut -d ' ' -f 1 /proc/uptime) s"
# The first process must not end; it also takes the children that others leave behind.
while :; do
    dropbear -F -E -s -p 22
    sleep 1
done
