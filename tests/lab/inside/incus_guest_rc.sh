#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What busybox's init does first in a container of the lab's Incus.
ifconfig lo 127.0.0.1 up
mkdir -p /var/log /run
# A service of the image's own, where a test has pushed one.
if [ -x /etc/service ]; then
    /etc/service &
fi
