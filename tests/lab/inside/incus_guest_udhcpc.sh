#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What udhcpc calls in a container of the lab's Incus: $1 is what has happened, the lease is in its environment.
# shellcheck disable=SC2154  # given by udhcpc
case $1 in
deconfig) ifconfig "$interface" 0.0.0.0 up ;;
bound | renew)
    ifconfig "$interface" "$ip" netmask "$subnet" up
    echo "nameserver $dns" > /etc/resolv.conf
    if [ -n "${router:-}" ]; then
        route add default gw "$router" dev "$interface"
    fi
    ;;
esac
