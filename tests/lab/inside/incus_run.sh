#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The first process of the machine of the lab's Incus: starts incusd again whenever it has ended, but while /run/incus-lab/stay-down exists,
# and takes in all that lose their parent. Containers go on while the daemon is away.
set -eu
ip link set lo up
mkdir -p /run/incus-lab
while :; do
    if [ -e /run/incus-lab/stay-down ]; then
        sleep 0.1 &
    else
        sleep 0.1   # not in a hurry, should it end at once
        /usr/libexec/incus/incusd --group root --logfile /var/log/incus/incusd.log &
        echo $! > /run/incus-lab/incusd.pid
    fi
    wait $! || :
done
