"""Grid files that must be refused: name, what is replaced in GRID (nothing: added at its end), by what, the problems."""

GRID = """\
study: s
experiment: tiny
seeds: 2
factors:
  lr: {off: {optim.lr: 0.1}, on: {optim.lr: 0.01}}
  mix: {off: {}, on: {mixup: true}}
baselines: [ce, ldmlr]
"""

EXPERIMENT = """\
title: Tiny
settings: {epochs: 3}
"""

FACTORS = GRID[GRID.index("factors:") : GRID.index("baselines:")]
CLAIM = (
    "{id: a, says: A., contrast: {arm: lr, minus: ldmlr}, expects: [{metric: m, direction: up}]}"
)

# fmt: off
BROKEN = [
    ("unknown key", "", "factrs: {}\n", [
        "grid.yaml: factrs: unknown key 'factrs'; did you mean 'factors'?",
    ]),
    ("unknown key far from any", "", "xyzzy: 1\n", [
        "grid.yaml: xyzzy: unknown key 'xyzzy'; choose from arms, baselines, claims, design, experiment, factors, metric, question, reference, search, seeds, settings, study",
    ]),
    ("key of an experiment", "", "subject: core\n", [
        "grid.yaml: subject: unknown key 'subject'; it belongs into the experiment's file, which `experiment` names",
    ]),
    ("duplicate key", "", "seeds: 3\n", [
        "grid.yaml: seeds: line 8: the key 'seeds' is there twice, first in line 3",
    ]),
    ("duplicate level", "on: {mixup: true}", "off: {mixup: true}", [
        "grid.yaml: factors.mix.off: line 6: the key 'off' is there twice, first in line 6",
    ]),
    ("missing study", "study: s\n", "", [
        "grid.yaml: study: is missing; it must be a name (letters, digits, '.', '_', '-'; at most 100)",
    ]),
    ("study with a path", "study: s", "study: ../s", [
        "grid.yaml: study: '../s' is not a name (letters, digits, '.', '_', '-'; at most 100)",
    ]),
    ("hidden study", "study: s", "study: .s", [
        "grid.yaml: study: '.s' is not a name (letters, digits, '.', '_', '-'; at most 100)",
    ]),
    ("study as number", "study: s", "study: 5", [
        "grid.yaml: study: 5 is not a name (letters, digits, '.', '_', '-'; at most 100)",
    ]),
    ("missing experiment", "experiment: tiny\n", "", [
        "grid.yaml: experiment: is missing; it must be an experiment's name or path",
    ]),
    ("experiment not there", "experiment: tiny", "experiment: tny", [
        "tny.yaml: no such file in 'FOLDER'; did you mean 'tiny.yaml'?",
    ]),
    ("experiment in a folder not there", "experiment: tiny", "experiment: nowhere/tiny.yaml", [
        "tiny.yaml: no such file: the folder 'FOLDER/nowhere' does not exist",
    ]),
    ("metric as text", "", "metric: top 1\n", [
        "grid.yaml: metric.name: 'top 1' is not a metric's name, such as test/top1 (letters, digits, '_', '.', '/', '@', '-')",
    ]),
    ("metric as a list", "", "metric: [test/top1]\n", [
        "grid.yaml: metric: a list is not a mapping",
    ]),
    ("a goal that is not guessed", "", "metric: val_loss\n", [
        "grid.yaml: metric.goal: is missing; choose from maximize, minimize",
    ]),
    ("metric goal", "", "metric: {goal: maximise}\n", [
        "grid.yaml: metric.goal: 'maximise' is not allowed; did you mean 'maximize'?",
    ]),
    ("metric key", "", "metric: {gaol: minimize}\n", [
        "grid.yaml: metric.gaol: unknown key 'gaol'; did you mean 'goal'?",
    ]),
    ("metric name", "", "metric: {name: top 1}\n", [
        "grid.yaml: metric.name: 'top 1' is not a metric's name, such as test/top1 (letters, digits, '_', '.', '/', '@', '-')",
    ]),
    ("design", "", "design: factoriel\n", [
        "grid.yaml: design: 'factoriel' is not allowed; did you mean 'factorial'?",
    ]),
    ("design list", "", "design: [factorial, grid, factorial]\n", [
        "grid.yaml: design[1]: 'grid' is not allowed; choose from add-one-in, factorial, leave-one-out, one-factor",
        "grid.yaml: design[2]: 'factorial' is there twice",
    ]),
    ("design empty", "", "design: []\n", [
        "grid.yaml: design: is an empty list; choose from add-one-in, factorial, leave-one-out, one-factor",
    ]),
    ("missing seeds", "seeds: 2\n", "", [
        "grid.yaml: seeds: is missing; it must be a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
    ]),
    ("no seeds", "seeds: 2", "seeds: 0", [
        "grid.yaml: seeds: 0 is not a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
    ]),
    ("empty seeds", "seeds: 2", "seeds: []", [
        "grid.yaml: seeds: an empty list is not a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
    ]),
    ("too many seeds", "seeds: 2", "seeds: 1000000000", [
        "grid.yaml: seeds: 1000000000 is not a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
    ]),
    ("boolean seeds", "seeds: 2", "seeds: true", [
        "grid.yaml: seeds: true is not a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
    ]),
    ("text seeds", "seeds: 2", "seeds: 0-4", [
        "grid.yaml: seeds: '0-4' is not a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
    ]),
    ("bad seeds in list", "seeds: 2", "seeds: [0, -1, 0, 1.5]", [
        "grid.yaml: seeds[1]: -1 is not a seed: an integer from 0 to 4294967295",
        "grid.yaml: seeds[2]: 0 is there twice",
        "grid.yaml: seeds[3]: 1.5 is not a seed: an integer from 0 to 4294967295",
    ]),
    ("max below start", "seeds: 2", "seeds: {start: 5, max: 3, effects: true}", [
        "grid.yaml: seeds.max: 3 is below start, 5; it must be at least 5",
    ]),
    ("start below two", "seeds: 2", "seeds: {start: 1, effects: true}", [
        "grid.yaml: seeds.start: 1 is not a number of seeds between 2 and 1000; the nearest is 2",
    ]),
    ("max beyond all", "seeds: 2", "seeds: {max: 5000, effects: true}", [
        "grid.yaml: seeds.max: 5000 is not a number of seeds between 2 and 1000; the nearest is 1000",
    ]),
    ("start in words", "seeds: 2", "seeds: {start: three, max: true, effects: true}", [
        "grid.yaml: seeds.start: 'three' is not a number of seeds between 2 and 1000",
        "grid.yaml: seeds.max: true is not a number of seeds between 2 and 1000",
    ]),
    ("unknown key of seeds", "seeds: 2", "seeds: {strat: 3, effects: true}", [
        "grid.yaml: seeds.strat: unknown key 'strat'; did you mean 'start'?",
    ]),
    ("looks that do not increase", "seeds: 2", "seeds: {looks: [3, 8, 8, 5], effects: true}", [
        "grid.yaml: seeds.looks: [3, 8, 8, 5] must increase; did you mean [3, 5, 8]?",
    ]),
    ("looks that do not begin with start", "seeds: 2", "seeds: {start: 3, max: 12, looks: [4, 8], effects: true}", [
        "grid.yaml: seeds.looks: [4, 8] must begin with start, 3, and end with max, 12; did you mean [3, 4, 8, 12]?",
    ]),
    ("looks that are none", "seeds: 2", "seeds: {looks: [3, 5.5], effects: true}", [
        "grid.yaml: seeds.looks[1]: 5.5 is not a number of seeds between 2 and 1000",
    ]),
    ("no looks", "seeds: 2", "seeds: {looks: [], effects: true}", [
        "grid.yaml: seeds.looks: is an empty list; the default is [3, 5, 8, 12, 20]",
    ]),
    ("looks as a number", "seeds: 2", "seeds: {looks: 5, effects: true}", [
        "grid.yaml: seeds.looks: 5 is not a list",
    ]),
    ("effects in words", "seeds: 2", "seeds: {start: 3, effects: all}", [
        "grid.yaml: seeds.effects: 'all' is not true or false",
    ]),
    ("nothing to decide", "seeds: 2", "seeds: {start: 3, max: 20}", [
        "grid.yaml: seeds: there is nothing to decide: the grid has no claims; add claims, or seeds.effects: true to decide main effects",
    ]),
    ("factors missing", GRID[GRID.index("factors:") :], "", [
        "grid.yaml: factors: is missing; it must map each factor to its levels, the reference first (only a grid of baselines or of arms needs none)",
    ]),
    ("factors as list", FACTORS, "factors: [lr, mix]\n", [
        "grid.yaml: factors: a list is not a mapping",
    ]),
    ("one level", "{off: {}, on: {mixup: true}}", "{on: {mixup: true}}", [
        "grid.yaml: factors.mix: has 1 of the two or more levels that a factor needs",
    ]),
    ("one level, and a claim about it", "mix: {off: {}, on: {mixup: true}}\nbaselines", "mix: {on: {mixup: true}}\nclaims: [" + CLAIM.replace("lr,", "mix,") + "]\nbaselines", [
        "grid.yaml: factors.mix: has 1 of the two or more levels that a factor needs",
    ]),
    ("factor as value", "{off: {}, on: {mixup: true}}", "true", [
        "grid.yaml: factors.mix: true is not a mapping",
    ]),
    ("level as value", "on: {mixup: true}", "on: true", [
        "grid.yaml: factors.mix.on: true is not a mapping",
    ]),
    ("factor name", "mix:", "mix up:", [
        "grid.yaml: factors.mix up: 'mix up' is not a name (letters, digits, '_', '-', single dots)",
    ]),
    *((f"factor with {what}", "mix: {off: {}, on: {mixup: true}}", f"mix: {levels}", [
        "grid.yaml: factors.mix: is a list, and its values must be numbers or plain names, each once; "
        "else name the levels: mix: {a: {SETTING: VALUE}, b: {...}}",
    ]) for what, levels in {
        "a list of lists": "[[0.9, 0.99], [0.9, 0.999]]",
        "a list of mappings": "[{mixup: true}, {mixup: false}]",
        "a value twice": "[1, 2, 1]",
        "values that are no names": "[a b, c/d]",
    }.items()),
    ("factor with a list of one value", "mix: {off: {}, on: {mixup: true}}", "mix: [1]", [
        "grid.yaml: factors.mix: has 1 of the two or more levels that a factor needs",
    ]),
    ("factor with a list and no such setting", "mix: {off: {}, on: {mixup: true}}", "momentm: [0, 1]", [
        "grid.yaml: factors.momentm.0.momentm: unknown setting 'momentm'; did you mean 'optim.momentum'?",
        "grid.yaml: factors.momentm.1.momentm: unknown setting 'momentm'; did you mean 'optim.momentum'?",
    ]),
    ("factor named as column", "mix:", "seed:", [
        "grid.yaml: factors.seed: 'seed' is a column of results.csv; give the factor another name",
    ]),
    *((f"factor named as column {name}", "mix:", f"{name}:", [
        f"grid.yaml: factors.{name}: '{name}' is a column of results.csv; give the factor another name",
    ]) for name in ("kind", "arm", "state", "trial", "error", "wall_seconds", "epochs_trained", "epochs_shared")),
    *((f"factor named as the metric {name}", FACTORS, f"metric: {{name: {name}, goal: minimize}}\n{FACTORS}".replace("mix:", f"{name}:"), [
        f"grid.yaml: factors.{name}: '{name}' is the metric of the study, and so a column of results.csv; give the factor another name",
    ]) for name in ("acc", "loss", "Error")),
    ("level name slash", "on: {mixup", "a/b: {mixup", [
        "grid.yaml: factors.mix.a/b: 'a/b' is not a level's name (letters, digits, '_', '-', single dots)",
    ]),
    ("level name dots", "on: {mixup", "..: {mixup", [
        "grid.yaml: factors.mix...: '..' is not a level's name (letters, digits, '_', '-', single dots)",
    ]),
    ("level name space", "on: {mixup", "full on: {mixup", [
        "grid.yaml: factors.mix.full on: 'full on' is not a level's name (letters, digits, '_', '-', single dots)",
    ]),
    ("dead toggle", "off: {}", "off: {mixup: true}", [
        "grid.yaml: factors.mix.on: is a dead toggle: it sets the same as level 'off'",
    ]),
    ("rival factors", "on: {mixup: true}", "on: {optim.lr: 1}", [
        "grid.yaml: factors.mix: sets 'optim.lr', but factor 'lr' sets 'optim.lr': one would undo the other",
    ]),
    ("rival by prefix", "on: {mixup: true}", "on: {optim: null}", [
        "grid.yaml: factors.mix: sets 'optim', but factor 'lr' sets 'optim.lr': one would undo the other",
        "grid.yaml: factors.mix.on.optim: unknown setting 'optim'; did you mean 'optim.lr'?",
    ]),
    ("clash nested and dotted", "on: {mixup: true}", "on: {optim: {momentum: 1}, optim.momentum: 2}", [
        "grid.yaml: factors.mix.on.optim.momentum: is set twice, to 1 and to 2",
    ]),
    ("value and mapping", "on: {mixup: true}", "on: {mixup: 1, mixup.alpha: 2}", [
        "grid.yaml: factors.mix.on.mixup.alpha: clashes with 'mixup': one is a value where the other is a mapping",
    ]),
    ("empty part", "on: {mixup: true}", "on: {mixup..alpha: 2}", [
        "grid.yaml: factors.mix.on.mixup..alpha: 'mixup..alpha' is no dotted key: a part of it is empty",
    ]),
    ("unknown setting in level", "on: {mixup: true}", "on: {mixpu: true}", [
        "grid.yaml: factors.mix.on.mixpu: unknown setting 'mixpu'; did you mean 'mixup'?",
    ]),
    ("fault of a section", "on: {mixup: true}", "on: {warmup: {epochs: 500}}", [
        "grid.yaml: factors.mix.on.warmup: is longer than 100 epochs",
    ]),
    ("unknown setting of grid", "", "settings: {optim: {lr_: 1}}\n", [
        "grid.yaml: settings.optim.lr_: unknown setting 'optim.lr_'; did you mean 'optim.lr'?",
    ]),
    ("unknown setting in arm", "", "arms: {more: {epoch: 4}}\n", [
        "grid.yaml: arms.more.epoch: unknown setting 'epoch'; did you mean 'epochs'?",
    ]),
    ("arm in conflict", "on: {mixup: true}", "on: {mixup: true, routing: pcgrad}", [
        "grid.yaml: factors.mix.on.mixup: does not go with routing pcgrad",
    ]),
    ("arm name", "", "arms: {a+b: {}}\n", [
        "grid.yaml: arms.a+b: 'a+b' is not a name (letters, digits, '_', '-')",
    ]),
    ("arm like baseline", "", "arms: {CE: {}}\n", [
        "grid.yaml: arms.CE: the arm 'CE' has the name of baseline 'ce'",
    ]),
    ("arm like designed arm", "", "arms: {reference: {}}\n", [
        "grid.yaml: arms.reference: the arm 'reference' has the name of arm 'reference'",
    ]),
    ("arm as value", "", "arms: {more: 5}\n", [
        "grid.yaml: arms.more: 5 is not a mapping",
    ]),
    ("baseline unknown", "[ce, ldmlr]", "[ce, ldmrl]", [
        "grid.yaml: baselines[1]: unknown baseline 'ldmrl'; did you mean 'ldmlr'?",
    ]),
    ("baseline twice", "[ce, ldmlr]", "[ce, ldmlr, ce]", [
        "grid.yaml: baselines[2]: 'ce' is there twice",
    ]),
    ("baselines as text", "[ce, ldmlr]", "ce", [
        "grid.yaml: baselines: 'ce' is not a list",
    ]),
    ("baseline number", "[ce, ldmlr]", "[ce, 5]", [
        "grid.yaml: baselines[1]: 5 is not a baseline's name",
    ]),
    ("reference", "", "reference: ldmrl\n", [
        "grid.yaml: reference: 'ldmrl' is not allowed; did you mean 'ldmlr'?",
    ]),
    ("claims as mapping", "", "claims: {id: a}\n", [
        "grid.yaml: claims: a mapping is not a list",
    ]),
    ("claim empty", "", "claims: [{}]\n", [
        "grid.yaml: claims[0].id: is missing; it must be a name (letters, digits, '_', '-')",
        "grid.yaml: claims[0].says: is missing; it must be a sentence",
        "grid.yaml: claims[0].contrast: is missing; write {factor, from, to} or {arm, minus}, or of one side {factor, level} or {arm}",
        "grid.yaml: claims[0].expects: is missing; it must list {metric, direction} once or more",
    ]),
    ("claim twice", "", f"claims: [{CLAIM}, {CLAIM}]\n", [
        "grid.yaml: claims[1].id: 'a' is there twice",
    ]),
    ("claims without ids", "", f"claims: [{CLAIM}, {CLAIM}]\n".replace("id: a, ", ""), [
        "grid.yaml: claims[0].id: is missing; it must be a name (letters, digits, '_', '-')",
        "grid.yaml: claims[1].id: is missing; it must be a name (letters, digits, '_', '-')",
    ]),
    ("claim factor", "", "claims: [{id: a, says: A., contrast: {factor: lrr, from: off, to: on}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast.factor: 'lrr' is not allowed; did you mean 'lr'?",
    ]),
    ("claim level", "", "claims: [{id: a, says: A., contrast: {factor: lr, from: off, to: onn}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast.to: 'onn' is not a level of the factor; did you mean 'on'?",
    ]),
    ("claim with itself", "", "claims: [{id: a, says: A., contrast: {factor: lr, from: on, to: on}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast: compares a thing with itself",
    ]),
    ("claim arm", "", "claims: [{id: a, says: A., contrast: {arm: lr+mux, minus: ldmlr}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast.arm: 'lr+mux' is neither an arm nor a baseline; did you mean 'lr+mix'?",
    ]),
    ("claim key", "", "claims: [{id: a, say: A., contrast: {arm: lr, minus: ldmlr}, expects: [{metric: m, direction: higher}]}]\n", [
        "grid.yaml: claims[0].say: unknown key 'say'; did you mean 'says'?",
        "grid.yaml: claims[0].says: is missing; it must be a sentence",
        "grid.yaml: claims[0].expects[0].direction: 'higher' is not allowed; choose from down, none, up",
    ]),
    ("claim margin", "", "claims: [{id: a, says: A., contrast: {arm: lr, minus: ldmlr}, expects: [{metric: m, direction: up, within: 1}, {metric: m, direction: none, within: 0}]}]\n", [
        "grid.yaml: claims[0].expects[0].within: goes with direction: none alone",
        "grid.yaml: claims[0].expects[1].within: 0 is not a number above 0",
    ]),
    ("claim mixture", "", "claims: [{id: a, says: A., contrast: {arm: lr, from: on}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast.from: unknown key 'from'; choose from arm, minus",
        "grid.yaml: claims[0].expects[0].direction: 'up' goes with a contrast of two sides, {factor, from, to} or {arm, minus}; choose from above, below",
    ]),
    ("claim about a level of none", "", "claims: [{id: a, says: A., contrast: {factor: lr, level: onn}, expects: [{metric: m, direction: below, value: 0}]}]\n", [
        "grid.yaml: claims[0].contrast.level: 'onn' is not a level of the factor; did you mean 'on'?",
    ]),
    ("claim about an arm of none", "", "claims: [{id: a, says: A., contrast: {arm: ldmrl}, expects: [{metric: m, direction: below, value: 0}]}]\n", [
        "grid.yaml: claims[0].contrast.arm: 'ldmrl' is neither an arm nor a baseline; did you mean 'ldmlr'?",
    ]),
    ("claim about a level and two", "", "claims: [{id: a, says: A., contrast: {factor: lr, level: on, from: off, to: on}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast.level: does not go with from and to; write {factor, from, to} or {arm, minus}, or of one side {factor, level} or {arm}",
    ]),
    ("claim about a levle", "", "claims: [{id: a, says: A., contrast: {factor: lr, levle: on}, expects: [{metric: m, direction: below, value: 0}]}]\n", [
        "grid.yaml: claims[0].contrast.levle: unknown key 'levle'; did you mean 'level'?",
        "grid.yaml: claims[0].contrast.from: is missing; choose from off, on",
        "grid.yaml: claims[0].contrast.to: is missing; choose from off, on",
        "grid.yaml: claims[0].expects[0].direction: 'below' goes with a contrast of one side, {factor, level} or {arm}; choose from down, none, up",
    ]),
    ("claim of one side without a number", "", "claims: [{id: a, says: A., contrast: {arm: lr}, expects: [{metric: m, direction: below}, {metric: m, direction: abvoe, value: 1}, {metric: m, direction: none}]}]\n", [
        "grid.yaml: claims[0].expects[0].value: is missing; it must be a number",
        "grid.yaml: claims[0].expects[1].direction: 'abvoe' is not allowed; did you mean 'above'?",
        "grid.yaml: claims[0].expects[2].direction: 'none' goes with a contrast of two sides, {factor, from, to} or {arm, minus}; choose from above, below",
    ]),
    ("claim of one side with no number", "", "claims: [{id: a, says: A., contrast: {factor: lr, level: on}, expects: [{metric: m, direction: below, value: low}, {metric: m, direction: above, value: true}, {metric: m, direction: above, value: 1, within: 2}]}]\n", [
        "grid.yaml: claims[0].expects[0].value: 'low' is not a finite number",
        "grid.yaml: claims[0].expects[1].value: true is not a finite number",
        "grid.yaml: claims[0].expects[2].within: goes with direction: none alone",
    ]),
    ("claim of two sides with a number", "", "claims: [{id: a, says: A., contrast: {arm: lr, minus: ldmlr}, expects: [{metric: m, direction: up, value: 1}, {metric: m, direction: below, value: 0}]}]\n", [
        "grid.yaml: claims[0].expects[0].value: goes with direction: above or below alone",
        "grid.yaml: claims[0].expects[1].direction: 'below' goes with a contrast of one side, {factor, level} or {arm}; choose from down, none, up",
    ]),
    ("settings as list", "", "settings: [epochs]\n", [
        "grid.yaml: settings: a list is not a mapping",
    ]),
    ("experiment given as grid", GRID, EXPERIMENT, [
        "grid.yaml: is an experiment, not a grid; name a grid file and give this one as --experiment grid",
    ]),
    ("list on top", GRID, "- a\n", [
        "grid.yaml: must hold a mapping (`key: value` lines) at the top",
    ]),
    ("empty", GRID, "# nothing\n", [
        "grid.yaml: the file is empty",
    ]),
    ("tab", "  lr:", "\tlr:", [
        "grid.yaml: line 5: a tab; indent with spaces",
    ]),
    ("unclosed", "[ce, ldmlr]", "[ce, ldmlr", [
        "grid.yaml: line 8: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
    ]),
    ("tag", "study: s", "study: !!python/name:os.system s", [
        "grid.yaml: line 1: the tag 'tag:yaml.org,2002:python/name:os.system' is not allowed; only plain YAML is",
    ]),
    ("anchor", "study: s", "study: &a s", [
        "grid.yaml: line 1: anchors (&) and aliases (*) are not allowed",
    ]),
    ("two documents", "baselines:", "---\nbaselines:", [
        "grid.yaml: line 7: expected a single document in the stream, but found another document",
    ]),
    ("not finite", "optim.lr: 0.01", "optim.lr: .inf", [
        "grid.yaml: factors.lr.on.optim.lr: line 5: .inf is no number to compute with: finite, and 18 digits if whole",
    ]),
    ("long name", "mix:", "m" * 210 + ":", [
        "grid.yaml: factors: the arm 'mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm...' has a name of 210 characters, and 200 are allowed",
        "grid.yaml: factors: the arm 'lr+mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm...' has a name of 213 characters, and 200 are allowed",
    ]),
    ("claim about a level without arm", "baselines: [ce, ldmlr]\n", "  third: {off: {}, low: {epochs: 1}, high: {epochs: 2}}\ndesign: add-one-in\nclaims: [{id: a, says: A., contrast: {factor: third, from: off, to: high}, expects: [{metric: m, direction: up}]}]\n", [
        "grid.yaml: claims[0].contrast.to: no arm of the design has third at 'high'",
    ]),
    ("too many arms", FACTORS, "factors:\n" + "".join(f"  f{i}: {{off: {{}}, on: {{mixup: true}}}}\n" for i in range(10)), [
        "grid.yaml: design: makes 1024 arms, and 1000 are allowed; try leave-one-out or add-one-in",
    ]),
]
# fmt: on
