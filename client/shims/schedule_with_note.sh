#!/bin/sh
# The old schedule_with_note.sh over orch-client: [minutes] [note] [session:window or session:role]
# Once; with ORCH_SHIM_RECURRING=1 again and again, as the scripts of some had it.
# Exit status: 0 scheduled, else 1.
client=$(command -v orch-client) || client=$(dirname -- "$0")/orch-client

minutes=${1:-3}
note=${2:-Standard check-in}
target=${3:-${TMO_DEFAULT_SESSION:-tmux-orc}:${TMO_DEFAULT_WINDOW:-0}}

if [ "$note" = - ]; then
    echo "$0: the note is a mere dash; give it some text." >&2
    exit 1
fi
if [ "$ORCH_SHIM_RECURRING" = 1 ]; then
    "$client" schedule --to "$target" --every="${minutes}m" -- "$note" </dev/null || exit 1
else
    "$client" schedule --to "$target" -- "$minutes" "$note" </dev/null || exit 1
fi
