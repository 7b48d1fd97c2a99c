#!/bin/sh
# The old request-authorization.sh over orch-client: <role> <message> <target role>
# The caller is who its pane says; the first argument cannot change that.
# Exit status: 0 asked (see the decision with: orch-client authorization ID), else 1.
client=$(command -v orch-client) || client=$(dirname -- "$0")/orch-client

if [ $# -ne 3 ] || [ -z "$2" ] || [ "$2" = - ]; then
    echo "Usage: $0 <role> <message> <target role>" >&2
    exit 1
fi
me=$("$client" whoami 2>/dev/null </dev/null)
me=${me%% in pane *}
[ "${me##*:}" = "$1" ] || echo "Warning: asking as ${me:-nobody known}, not as '$1'." >&2

answer=$("$client" authorize --to "$3" -- "$2" </dev/null) || exit 1
id=$(printf '%s\n' "$answer" | sed -n '1s/^id  *//p')
printf 'Request ID: %s\n' "$id"
