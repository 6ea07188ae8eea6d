"""The command line: commands parse, call and print.

Enter at `main.main`, the group `ablate` with its smaller commands. `run.run` and `run.plan` run and
plan a study; `data.data` and `data.cache` are groups of commands.
"""
