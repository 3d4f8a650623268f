#!/bin/sh
# Copyright: the reversible.deploy authors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PostgreSQL in a container of the lab: a new database cluster where there is none, then the server, small enough for many at once.
set -eu
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s\n' "${POSTGRES_PASSWORD:?says the password of postgres}" >/tmp/password
    initdb --no-sync --locale=C --encoding=UTF8 --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password "$PGDATA"
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' -c shared_buffers=16MB -c max_connections=20 -c jit=off
