#!/bin/sh
# Makes the database at the first start, as the real image does, and runs the server without root.
set -eu
if [ "$1" != postgres ]; then exec "$@"; fi
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres "$PGDATA" /var/run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth-local trust \
        --auth-host scram-sha-256 --encoding UTF8 --locale C
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl --options '-c listen_addresses=' --wait start
    psql --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE $POSTGRES_DB"
    pg_ctl --mode fast --wait stop
fi
shift
exec postgres -c 'listen_addresses=*' "$@"
