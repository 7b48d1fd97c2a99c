"""The courier: the only code in the product that types into panes.

deliver.py is what callers use. tmux.py speaks to tmux, guard.py holds the tests that tmux makes
before it acts, programs.py tells what runs in a pane. The server imports this package and nothing
else of the client; it imports neither grpc nor generated code.
"""
