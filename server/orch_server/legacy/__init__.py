"""The old system: its registry and queue, read, imported and exported."""
