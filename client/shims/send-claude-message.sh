#!/bin/sh
# The old send-claude-message.sh over orch-client: <session:window> <message…>
# Exit status: 0 delivered, or the target is the caller itself (then nothing is sent); else 1.
client=$(command -v orch-client) || client=$(dirname -- "$0")/orch-client

if [ $# -lt 2 ]; then
    echo "Usage: $0 <session:window> <message>" >&2
    exit 1
fi
target=$1
shift
# A number after a message of several words was the project's id, which nothing needs any more.
if [ $# -eq 2 ]; then
    case $1 in
    *' '*) case $2 in '' | *[!0-9]*) ;; *) set -- "$1" ;; esac ;;
    esac
fi
IFS=' '
message=$*

if [ -n "$TMUX_PANE" ]; then
    me=$("$client" whoami 2>/dev/null </dev/null)
    name=$(tmux display-message -p -t "$TMUX_PANE" '#{session_name}:#{window_name}' 2>/dev/null)
    number=$(tmux display-message -p -t "$TMUX_PANE" '#{session_name}:#{window_index}' 2>/dev/null)
    case $target in
    "$TMUX_PANE" | "${me%% in pane *}" | "$name" | "$number")
        echo "Warning: $target is the sender itself; nothing was sent." >&2
        exit 0
        ;;
    esac
fi

# Like the old one it types at once; what was not taken in time is withdrawn, so that trying again
# doubles nothing.
"$client" send --plain --mode immediate --ttl 30s --wait 45s -- "$target" "$message" >/dev/null </dev/null || exit 1
printf 'Message sent to %s: %s\n' "$target" "$message"
