"""The commands of orch-client, one file for each noun."""
