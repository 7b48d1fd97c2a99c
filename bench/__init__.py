"""Performance of the product, as ratios to a bare baseline measured in the same run.

    python -m bench [--quick] [NAME...]

`__main__` runs one module a figure (heartbeat, create, cold, memory, scheduling, …); each starts
real processes (`processes`): the product, a bare counterpart (`baseline_server`, `group_commit`,
`bare_schedule`, `bare_stream`, `apscheduler_jobs`), and one load generator for both (`load`).
`report` prints the table.
"""
