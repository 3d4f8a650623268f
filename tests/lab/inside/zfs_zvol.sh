#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What udev's rules for OpenZFS do elsewhere: /dev/zvol/<dataset> leads to a volume's device. Called by busybox's `uevent`, once for
# each event of the kernel, with its variables in the environment.
[ "$SUBSYSTEM" = block ] || exit 0
case $DEVNAME in zd*) ;; *) exit 0 ;; esac
if [ "$ACTION" = remove ]; then
    find /dev/zvol -type l -exec sh -c '[ -e "$1" ] || rm -f "$1"' sh {} \;
else
    name=$(/usr/lib/udev/zvol_id "/dev/$DEVNAME") || exit 0
    mkdir -p "/dev/zvol/${name%/*}"
    ln -sfn "/dev/$DEVNAME" "/dev/zvol/$name"
fi
