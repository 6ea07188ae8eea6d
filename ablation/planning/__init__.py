"""From the chains of trials to unique epochs, a schedule and a forecast.

Enter at `plan.build_plan`, which returns a `plan.Plan`. `plan.Schedule` hands out its segments
(`plan.Segment`) in the order in which they are to run, and `forecast.forecast` tells how long that
takes. What listens to a running study is a `forecast.Listener`.
"""
