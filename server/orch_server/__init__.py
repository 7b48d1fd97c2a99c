"""The server of tmux-orchestrator. Imports go one way:

app -> transport | loops -> services -> storage | tmux -> core
"""

__version__ = "0.1.0"
