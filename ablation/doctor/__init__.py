"""Checks of a machine and a project, and their repair.

Enter at `examine.doctor`, which runs all checks and repairs what can be repaired. A check is a
`files.Check`. They come from `machine.machine_checks`, `files.trial_checks`, `files.cache_checks`
and `databases.database_checks`.
"""
