"""The thin client of tmux-orchestrator: what runs in the agents' panes."""

__version__ = "0.1.0"
