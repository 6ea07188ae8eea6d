"""From YAML files to checked settings of every arm and baseline.

Enter at `load.load_study`, which returns a `load.Study`; its arms and baselines are
`load.Variant`s. `strict_yaml.read_yaml` reads a file, and `file.read_grid` makes a `file.Grid` of
it, whose `design.Factor`s are crossed into `design.Arm`s by `design.arms`. `idle.ignored_settings`
finds settings that change nothing, `choices.the_grid` a grid that was not named,
`search.read_search` reads what is to be tuned, and `sources.get` downloads data sets.
"""
