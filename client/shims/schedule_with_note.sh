#!/bin/sh
# The old schedule_with_note.sh over orch-client: [minutes] [note] [session:window or session:role]
# Once; with ORCH_SHIM_RECURRING (but not 0) again and again, as the scripts of some had it.
# Exit status: 0 scheduled, else 1.
client=$(command -v orch-client) || client=$(dirname -- "$0")/orch-client

minutes=${1:-3}
note=${2:-Standard check-in}
target=${3:-${TMO_DEFAULT_SESSION:-tmux-orc}:${TMO_DEFAULT_WINDOW:-0}}

case $minutes in
*[!0-9.]* | *.*.* | .)
    echo "$0: the first argument is no number of minutes; give one such as 15 or 0.5." >&2
    exit 1
    ;;
esac
if [ "$note" = - ]; then
    echo "$0: the note is a mere dash; give it some text." >&2
    exit 1
fi
if [ "${ORCH_SHIM_RECURRING:-0}" != 0 ]; then
    "$client" schedule --to "$target" --every="${minutes}m" -- "$note" </dev/null || exit 1
else
    "$client" schedule --to "$target" -- "$minutes" "$note" </dev/null || exit 1
fi
