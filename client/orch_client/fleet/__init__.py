"""`heartbeat --all`: one process, one channel and one connection to tmux for many panes.

all.py follows the panes of a tmux server, panes.py lists them, member.py serves one of them over a
stream of its own, screen.py captures what it shows, door.py asks the server who this process is.
"""
