"""A study: opened from its files, run, and its progress shown.

Enter at `running.run`. It takes an `opening.PlannedStudy`, which `opening.open_study` makes of a
grid file. `placement.placement` chooses where the workers run, and `live.Progress` is the live
table. `views.describe_plan` and `views.describe_status` print plan and progress;
`repair.TrialFiles` mends damaged files of trials.
"""
