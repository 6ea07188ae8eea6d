"""Pure functions of results: contrasts, effects, claims, power, comparisons.

Enter at `results.load`, which reads a study's run folder into `results.Results`. `effects.judge`
estimates every comparison of it (`contrasts.Contrast`) by `statistics.contrast`;
`claims.judge_claims` judges the claims. `power.power_lines` is about seeds still to be run,
`sequential.repeated_p` about looking after each of them. `compare.compare` compares two studies,
arms or published numbers, found by `compare_sources.find_sides`.
"""
