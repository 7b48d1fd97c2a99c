#!/bin/sh
# The old schedule_with_note.sh over orch-client: [minutes] [note] [session:window or session:role]
# Exit status: 0 scheduled, else 1.
client=$(command -v orch-client) || client=$(dirname -- "$0")/orch-client

minutes=${1:-3}
note=${2:-Standard check-in}
target=${3:-${TMO_DEFAULT_SESSION:-tmux-orc}:${TMO_DEFAULT_WINDOW:-0}}

if [ "$ORCH_SHIM_RECURRING" = 1 ]; then
    echo "$0: repeating notes (ORCH_SHIM_RECURRING=1) are not there yet; nothing was scheduled." >&2
    exit 1
fi
if [ "$note" = - ]; then
    echo "$0: the note is a mere dash; give it some text." >&2
    exit 1
fi
"$client" schedule --to "$target" -- "$minutes" "$note" </dev/null || exit 1
