#!/bin/sh
# The old report-completion.sh over orch-client: <role> <message>
# Tells the orchestrator of the caller's own session, or whoever is in its window 0.
# The caller is who its pane says; the first argument cannot change that.
# Exit status: 0 sent, else 1.
client=$(command -v orch-client) || client=$(dirname -- "$0")/orch-client

if [ $# -ne 2 ] || [ -z "$2" ]; then
    echo "Usage: $0 <role> <message>" >&2
    exit 1
fi
me=$("$client" whoami 2>/dev/null </dev/null)
me=${me%% in pane *}
[ "${me##*:}" = "$1" ] || echo "Warning: reporting as ${me:-nobody known}, not as '$1'." >&2

answer=$("$client" send --plain -- orchestrator "$2" 2>&1 </dev/null)
status=$?
if [ $status -eq 4 ] && [ -n "$TMUX_PANE" ]; then # there is no orchestrator
    session=$(tmux display-message -p -t "$TMUX_PANE" '#{session_name}') || exit 1
    answer=$("$client" send --plain -- "$session:0" "$2" 2>&1 </dev/null)
    status=$?
fi
if [ $status -ne 0 ]; then
    printf '%s\n' "$answer" >&2
    exit 1
fi
printf 'Completion reported: %s\n' "$2"
