#!/bin/sh
# Runs Redis without root, as the real image does.
set -eu
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    chown redis:redis .
    exec setpriv --reuid redis --regid redis --init-groups "$@"
fi
exec "$@"
