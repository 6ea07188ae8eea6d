"""Studies from grid, experiment and command line: what is merged, and what is refused, all at once."""

import functools
from pathlib import Path

import pytest
import yaml
from broken_grids import BROKEN, EXPERIMENT, FACTORS, GRID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablation.errors import InputError, Problem, nearest
from ablation.grid.file import GRID_KEYS, published, read_grid
from ablation.grid.load import load_study
from ablation.subject.loading import FunctionSubject, load_subject
from ablation.subject.protocol import Fault

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
KEYS = ("epochs", "optim.lr", "optim.momentum", "mixup", "warmup.epochs", "routing")


class FakeSubject:
    """Knows KEYS, wants whole epochs, a warm-up no longer than 100 epochs, and refuses one combination."""

    def check(self, settings):
        faults = [
            Fault(key, f"unknown setting '{key}'; {nearest(key, KEYS)}")
            for key in settings
            if key not in KEYS
        ]
        if not isinstance(settings.get("epochs"), int):
            faults.append(Fault("epochs", f"{settings.get('epochs')!r} is not a whole number"))
        if settings.get("warmup.epochs", 0) > 100:
            faults.append(Fault("warmup", "is longer than 100 epochs"))
        if (settings.get("mixup"), settings.get("routing"), settings.get("optim.lr")) == (
            True,
            "pcgrad",
            0.01,
        ):
            faults.append(Fault("mixup", "does not go with routing pcgrad"))
        return faults

    def baselines(self):
        return {"ce": {"routing": "summed"}, "ldmlr": {"routing": "staged", "epochs": 9}}


class OpenSubject(FakeSubject):
    """Takes any value, and more kinds of warm-up."""

    def check(self, settings):
        return [
            Fault(key, "unknown")
            for key in settings
            if key not in (*KEYS, "warmup.fraction", "warmup.plateau.window")
        ]


class KnowingSubject(OpenSubject):
    """Knows beforehand which metrics its trials report, and that a warm-up is of one kind."""

    def metrics(self, settings):
        if settings.get("routing") == "pcgrad":
            return None  # who knows
        return {"test/top1", "test/few"} | (
            {"grad/norm", "diag/drift"} if settings.get("routing") is None else set()
        )

    def alternatives(self):
        return [("warmup.epochs", "warmup.fraction", "warmup.plateau")]


@pytest.fixture
def load(tmp_path):
    def load(
        grid=GRID,
        tiny=EXPERIMENT,
        experiment=None,
        overrides=(),
        seeds=None,
        subject_loader=lambda name: FakeSubject(),
    ):
        (tmp_path / "grid.yaml").write_text(grid)
        (tmp_path / "tiny.yaml").write_text(tiny)
        return load_study(tmp_path / "grid.yaml", experiment, overrides, seeds, subject_loader)

    return load


END = "but got '<stream end>'"
SEEDS = "a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}"


def refused(load, **arguments):
    with pytest.raises(InputError) as error:
        load(**arguments)
    return [str(problem) for problem in error.value.problems]


def claim(contrast, *metrics, direction="up", id="a"):
    expects = ", ".join(f"{{metric: {metric}, direction: {direction}}}" for metric in metrics)
    return f"{{id: {id}, says: A., contrast: {contrast}, expects: [{expects}]}}"


def claims(*arguments, **more):
    return f"claims: [{claim(*arguments, **more)}]\n"


def variants(study):
    return {variant.name: variant for variant in study.variants}


def test_a_study_holds_arms_then_baselines_with_merged_settings(load):
    study = load()
    assert [v.name for v in study.variants] == ["reference", "lr", "mix", "lr+mix", "ce", "ldmlr"]
    assert [v.kind for v in study.variants] == ["arm"] * 4 + ["baseline"] * 2
    assert variants(study)["lr+mix"].settings == {"epochs": 3, "optim.lr": 0.01, "mixup": True}
    assert variants(study)["lr+mix"].levels == {"lr": "on", "mix": "on"}
    assert variants(study)["ldmlr"].settings == {"routing": "staged", "epochs": 9}
    assert study.grid.seeds == (0, 1)
    assert study.grid.metric == {"name": "test/top1", "goal": "maximize"}
    experiment = study.experiment
    assert (experiment.name, experiment.title, experiment.dataset) == ("tiny", "Tiny", "tiny")


def test_a_key_that_is_null_takes_its_default(tmp_path):
    search = (
        "{space: {a: {low: 1, high: 3}}, metric: v/top1, trials: 3, sampler: null, pruner: null}"
    )
    null = f"question: null\ndesign: null\nmetric: {{name: null, goal: null}}\nsearch: {search}\n"
    (tmp_path / "grid.yaml").write_text(GRID + null)
    grid = read_grid(tmp_path / "grid.yaml", problems := [])
    assert problems == []
    assert (grid.design, grid.search.sampler, grid.search.pruner) == (("factorial",), "tpe", "none")
    assert grid.metric == {"name": "test/top1", "goal": "maximize"}


def test_text_is_the_name_of_the_metric(load):
    assert load(GRID + "metric: acc\n").grid.metric == {"name": "acc", "goal": "maximize"}


@pytest.mark.parametrize("more", ["", "metric: {goal: minimize}\n"])
def test_own_code_has_no_metric_by_default(load, more):
    own = f"{EXPERIMENT}\nsubject: training:train\n"
    assert load(GRID + "metric: acc\n", own)
    assert refused(load, grid=GRID + more, tiny=own) == [
        "grid.yaml: metric: is missing; write metric: {name: acc, goal: maximize}, "
        "with a name that your code reports"
    ]


def test_later_layers_win_from_experiment_to_levels(load):
    tiny = "settings: {epochs: 1, warmup.epochs: 1, mixup: 1, optim: {lr: 1, momentum: 1}}"
    grid = GRID + "settings: {warmup: {epochs: 2}, mixup: 2}\n"
    study = load(grid, tiny, overrides=["mixup=3", "optim={momentum: 3}"])
    lr, mix = variants(study)["lr"].settings, variants(study)["mix"].settings
    # in the order they were last set
    last = {"epochs": 1, "warmup.epochs": 2, "mixup": 3, "optim.momentum": 3, "optim.lr": 0.01}
    assert list(lr.items()) == list(last.items())
    assert mix["mixup"] is True


def test_level_names_may_look_like_numbers_and_booleans(load):
    names = ["off", "0.1", "5", "1e-3", "yes"]
    rate = ", ".join(f"{name}: {{optim.lr: {i}}}" for i, name in enumerate(names))
    grid = GRID.replace(FACTORS, f"factors:\n  lr: {{{rate}}}\n") + "design: one-factor\n"
    contrasts = [f"{{factor: lr, from: off, to: {to}}}" for to in (*names[1:], "'5'")]
    claims = [claim(contrast, "m", id=f"c{i}") for i, contrast in enumerate(contrasts)]
    study = load(f"{grid}claims: [{', '.join(claims)}]\n")
    assert list(variants(study))[:5] == ["reference", "lr=0.1", "lr=5", "lr=1e-3", "lr=yes"]
    assert [claim["contrast"]["to"] for claim in study.grid.claims] == [*names[1:], "5"]


def test_a_list_is_the_values_of_the_setting_that_the_factor_is_named_after(load):
    grid = GRID.replace(
        FACTORS, "factors:\n  optim.lr: [0.1, 1.0e-3]\n  mixup: [false, plain, -1]\n"
    )
    rate = claim("{factor: optim.lr, from: 0.1, to: 1e-3}", "m")
    study = load(f"{grid}design: one-factor\nclaims: [{rate}]\n")
    assert [
        (v.name, v.settings.get("optim.lr"), v.settings.get("mixup")) for v in study.variants[:4]
    ] == [
        ("reference", 0.1, False),
        ("optim.lr=0.001", 0.001, False),
        ("mixup=plain", 0.1, "plain"),
        ("mixup=-1", 0.1, -1),
    ]
    assert study.grid.claims[0]["contrast"]["to"] == "0.001"


def test_an_extra_arm_has_its_own_overrides_on_the_common_settings(load):
    more = variants(load(GRID + "arms: {more: {routing: pcgrad}, plain: }\n"))
    assert more["more"].levels == {} and more["more"].settings == {"epochs": 3, "routing": "pcgrad"}
    assert more["plain"].settings == {"epochs": 3}


@pytest.mark.parametrize(
    ("rest", "names"),
    [
        ("baselines: [ce]", ["ce"]),
        ("baselines: [ce, ldmlr]\nfactors: {}", ["ce", "ldmlr"]),
        ("arms: {a: {optim.lr: 0.1}, b: {optim.lr: 0.2}}", ["a", "b"]),
    ],
)
def test_a_grid_of_baselines_or_of_arms_alone_needs_no_factors(load, rest, names):
    study = load(grid=f"study: s\nexperiment: tiny\nseeds: 2\n{rest}\n")
    assert [variant.name for variant in study.variants] == names


@pytest.mark.parametrize(
    ("baselines", "reference"),
    [
        ("[ce, ldmlr]", "ldmlr"),
        ("[ce]", "ce"),
        ("[]", None),
        ("", None),
        ("[ce, ldmlr]\nreference: ce", "ce"),
    ],
)
def test_the_reference_is_ldmlr_else_the_first_unless_named(load, baselines, reference):
    assert load(GRID.replace("[ce, ldmlr]", baselines)).grid.reference == reference


@pytest.mark.parametrize(
    ("seeds", "expected"), [("3", (0, 1, 2)), ("4,2", (4, 2)), ("[7]", (7,)), ("7,", (7,))]
)
def test_seeds_of_the_command_line_replace_those_of_the_file(load, seeds, expected):
    assert load(GRID.replace("seeds: 2\n", ""), seeds=seeds).grid.seeds == expected


def test_the_experiment_of_the_command_line_is_a_name_beside_the_grid_or_a_path(
    load, tmp_path, monkeypatch
):
    other = tmp_path / "elsewhere" / "other.yaml"
    other.parent.mkdir()
    other.write_text("settings: {epochs: 7}")
    without = GRID.replace("experiment: tiny\n", "")
    assert load(without, experiment="tiny").experiment.name == "tiny"
    assert load(experiment=str(other)).experiment.settings == {"epochs": 7}
    assert load(GRID.replace("tiny", "elsewhere/other.yaml")).experiment.name == "other"
    monkeypatch.chdir(other.parent)
    assert load(experiment="other.yaml").experiment.name == "other"


def test_two_factors_may_share_a_key_that_they_agree_on(load):
    load(
        GRID.replace(
            "{off: {}, on: {mixup: true}}", "{off: {mixup: true}, on: {mixup: true, epochs: 5}}"
        ).replace("on: {optim.lr: 0.01}", "on: {mixup: true}")
    )


@pytest.mark.parametrize(
    ("old", "new", "problems"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_a_broken_grid_is_refused_with_its_message(load, tmp_path, old, new, problems):
    assert old in GRID
    grid = GRID.replace(old, new) if old else GRID + new
    assert [
        problem.replace(str(tmp_path), "FOLDER") for problem in refused(load, grid=grid)
    ] == problems


@pytest.mark.parametrize(
    ("tiny", "problems"),
    [
        ("titel: A\nsettings: {epochs: 1}", ["tiny.yaml: titel: unknown key 'titel'; did you mean 'title'?"]),
        ("seeds: 3\nsettings: {epochs: 1}", ["tiny.yaml: seeds: unknown key 'seeds'; it belongs into the grid, which names this experiment"]),
        ("title: 5\nsettings: {epochs: 1}", ["tiny.yaml: title: 5 is not text"]),
        ("dataset: a/b\nsettings: {epochs: 1}", ["tiny.yaml: dataset: 'a/b' is not a name (letters, digits, '.', '_', '-'; at most 100)"]),
        ("subject: os.system\nsettings: {epochs: 1}", ["tiny.yaml: subject: 'os.system' is not 'core' or 'package.module:function'"]),
        ("settings: {epochs: 1.5}", ["tiny.yaml: settings.epochs: 1.5 is not a whole number"]),
        ("title: A", ["tiny.yaml: settings.epochs: None is not a whole number"]),
        ("settings: {epochs: 1, optim: {lrr: 1}}", ["tiny.yaml: settings.optim.lrr: unknown setting 'optim.lrr'; did you mean 'optim.lr'?"]),
        ("settings: {optim: 1, optim.lr: 2, epochs: 3}", [
            "tiny.yaml: settings.optim.lr: clashes with 'optim': one is a value where the other is a mapping",
            "tiny.yaml: settings.optim: unknown setting 'optim'; did you mean 'optim.lr'?",
        ]),
        (GRID, ["tiny.yaml: is a grid, not an experiment; name the experiment that the grid varies, e.g. --experiment digits-lt"]),
    ],
)  # fmt: skip
def test_a_broken_experiment_is_refused_with_its_message(load, tiny, problems):
    assert refused(load, tiny=tiny) == problems


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["epochs"], "epochs: is not key=value"),
        (["=3"], "'' is no dotted key: a part of it is empty"),
        (["epochs="], "epochs: has no value; write null if nothing is meant"),
        (["epochs=1", "epochs=2"], "epochs: is given twice"),
        (["warmup.epochs=1", "warmup={epochs: 2}"], "warmup.epochs: is set twice, to 1 and to 2"),
        (["mixpu=1"], "mixpu: unknown setting 'mixpu'; did you mean 'mixup'?"),
        (["mixup=[1"], f"mixup: line 1: while parsing a flow sequence, expected ',' or ']', {END}"),
        (
            ["optim.lr=1"],
            "optim.lr: would be undone in every arm: each level of factor 'lr' sets it",
        ),
    ],
)
def test_a_broken_override_is_refused_with_its_message(load, overrides, problem):
    assert refused(load, overrides=overrides) == [f"-S: {problem}"]


@pytest.mark.parametrize(
    ("seeds", "problem"),
    [
        ("0", f"0 is not {SEEDS}"),
        ("a", f"'a' is not {SEEDS}"),
        ("1,1", "[1]: 1 is there twice"),
        (
            "{",
            "line 1: while parsing a flow node, expected the node content, but found '<stream end>'",
        ),
    ],
)
def test_broken_seeds_are_refused_with_their_message(load, seeds, problem):
    assert refused(load, seeds=seeds) == [f"--seeds: {problem}"]


def train(config, seed, report):
    return {"test/top1": 0.0}


@functools.cache
def function():
    """As a subject, of which nothing is known; to look for its sources takes longer than all else."""
    return FunctionSubject(train)


OPEN_GRID = GRID.replace("baselines: [ce, ldmlr]\n", "")


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("mixup: true", "mixup: yes", ["grid.yaml: factors.mix.on.mixup"]),
        (
            "seeds: 2",
            "seeds: 2\nsettings: {a: {b: None}, c: [1, 1_000]}",
            ["grid.yaml: settings.a.b", "grid.yaml: settings.c[1]"],
        ),
        (
            "seeds: 2",
            "seeds: 2\narms: {wide: {width: 64, since: 2024-01-01}}",
            ["grid.yaml: arms.wide.since"],
        ),
        ("off: {}", "off: {mixup: 'no', a: 1.2.3}", []),
        ("study: s", "study: 2024-01-01\nquestion: yes", []),
        ("off: {}", "None: {}", []),
    ],
)
def test_doubtful_text_in_settings_of_a_function_is_refused_where_it_stands(load, old, new, places):
    assert old in OPEN_GRID
    doubtful = {
        "grid": OPEN_GRID.replace(old, new),
        "tiny": "title: Without settings\n",
        "subject_loader": lambda name: function(),
    }
    found = refused(load, **doubtful) if places else [] if load(**doubtful) else None
    assert [text.split(": line")[0] for text in found] == places and all(
        "in quotes if text is meant" in text for text in found
    )


@pytest.mark.parametrize("value", ["yes", "None", "1_000"])
def test_doubtful_text_for_a_function_is_refused_in_experiment_and_options_alike(load, value):
    subject = {"grid": OPEN_GRID, "subject_loader": lambda name: function()}
    known = "optim.lr: 1, mixup: false, b: 1"
    found = refused(
        load, **subject, tiny=f"settings: {{{known}, a: {value}}}", overrides=[f"b={value}"]
    )
    assert [text.split(" is read")[0] for text in found] == [
        f"tiny.yaml: settings.a: line 1: {value}",
        f"-S: b: line 1: {value}",
    ]
    assert all(f'write "{value}" in quotes' in text for text in found)
    assert "the shell takes quotes away" in found[1]
    tiny = f"settings: {{{known}, a: '{value}'}}"
    study = load(**subject, tiny=tiny, overrides=[f'b="{value}"'])
    assert (study.common["a"], study.common["b"]) == (value, value)


def test_keys_that_levels_arms_and_options_set_and_the_experiment_lacks_are_named_with_the_nearest(
    load,
):
    subject = {"subject_loader": lambda name: function()}
    grid = OPEN_GRID.replace("mixup: true", "mixpu: true") + "arms: {wide: {optim: {rl: 2}}}\n"
    tiny = "settings: {optim.lr: 1, mixup: false}"
    found = refused(load, **subject, grid=grid, tiny=tiny, overrides=["lrr=3"])
    assert [text.partition(" (")[0] for text in found] == [
        "-S: lrr: tiny.yaml has no setting 'lrr'; choose from mixup, optim.lr",
        "grid.yaml: arms.wide.optim.rl: tiny.yaml has no setting 'optim.rl'; did you mean 'optim.lr'?",
        "grid.yaml: factors.mix.on.mixpu: tiny.yaml has no setting 'mixpu'; did you mean 'mixup'?",
    ]
    assert load(**subject, grid=OPEN_GRID, tiny=tiny).variants
    assert load(**subject, grid=grid, tiny="title: Without settings\n").variants


def test_settings_that_a_search_looks_for_or_sets_are_checked_as_those_of_levels(load):
    subject = {"subject_loader": lambda name: function()}
    search = "search: {space: {SPACE}, trials: 2, metric: {name: m, goal: maximize}, settings: {SETTINGS}}\n"
    grid = OPEN_GRID + search
    tiny = "settings: {optim.lr: 1, mixup: false}"
    typos = grid.replace("SPACE", "optim: {rl: {low: 1, high: 2}}").replace("SETTINGS", "mixpu: 1")
    found = refused(load, **subject, grid=typos, tiny=tiny)
    assert [text.partition(" (")[0] for text in found] == [
        "grid.yaml: search.space.optim.rl: tiny.yaml has no setting 'optim.rl'; did you mean 'optim.lr'?",
        "grid.yaml: search.settings.mixpu: tiny.yaml has no setting 'mixpu'; did you mean 'mixup'?",
    ]
    tiny = "settings: {optim.lr: 1, mixup: false, a: 1, b: 1}"
    texts = grid.replace("SPACE", "b: {choices: [None, 1]}").replace("SETTINGS", "a: yes")
    found = refused(load, **subject, grid=texts, tiny=tiny)
    assert [text.partition(": line")[0] for text in found] == [
        "grid.yaml: search.space.b.choices[0]",
        "grid.yaml: search.settings.a",
    ]
    sound = grid.replace("SPACE", "b: {low: 1, high: 2}").replace("SETTINGS", "a: 'yes'")
    assert load(**subject, grid=sound, tiny=tiny).grid.search


def test_a_subject_that_checks_its_settings_is_left_to_tell_what_text_it_takes(load):
    study = load(
        tiny="settings: {epochs: 1, routing: yes}",
        overrides=["warmup.epochs=0x10", "optim.momentum=None"],
    )
    assert study.common == {
        "epochs": 1,
        "routing": "yes",
        "warmup.epochs": 16,
        "optim.momentum": "None",
    }


@pytest.mark.parametrize(("levels", "named", "level"), [
    ("{True: {a: 1}, x: {}}", "True", "True"), ("{null: {a: 1}, x: {}}", "Null", "null"), ("{x: {}, 0x10: {a: 1}}", "16", "0x10"),
    ("{True: {a: 1}, true: {}}", '"true"', "true"), ("{01: {}, 1: {a: 1}}", "'01'", "01"),
])  # fmt: skip
def test_a_claim_names_a_level_as_text_or_as_what_it_reads_as(load, levels, named, level):
    grid = OPEN_GRID.replace("{off: {}, on: {mixup: true}}", levels)
    grid += claims(f"{{factor: mix, from: {named}, to: NONE}}", "m")
    names = [
        name for name in ("x", "True", "true", "01", "1") if name != level and f"{name}:" in levels
    ]
    study = load(
        grid=grid.replace("NONE", f"'{names[0]}'"),
        tiny="title: Without settings\n",
        subject_loader=lambda name: function(),
    )
    assert study.grid.claims[0]["contrast"]["from"] == level


@pytest.mark.parametrize(
    ("levels", "named", "both"),
    [
        ("{True: {a: 1}, true: {}}", "true", "True, true"),
        ("{01: {}, 1: {a: 1}}", "1", "01, 1"),
        ("{null: {}, Null: {a: 1}}", "~", "null, Null"),
    ],
)
def test_a_claim_about_one_of_two_levels_that_read_alike_is_refused(load, levels, named, both):
    grid = OPEN_GRID.replace("{off: {}, on: {mixup: true}}", levels)
    grid += claims(f"{{factor: mix, from: {named}, to: z}}", "m")
    found = refused(load, grid=grid, subject_loader=lambda name: function())
    assert any(
        f"may be any of the levels {both}; quote the one that is meant" in text for text in found
    )


def test_everything_that_is_wrong_is_reported_at_once_and_only_once(load):
    grid = (
        GRID.replace("seeds: 2", "seeds: -1")
        .replace("on: {mixup", "on: {mixpu")
        .replace("ldmlr]", "ldmrl]")
        + "goal: 5\n"
    )
    assert refused(
        load, grid=grid, tiny="settings: {epochs: no, spede: 1}", overrides=["routng=a"]
    ) == [
        "grid.yaml: goal: unknown key 'goal'; choose from arms, baselines, claims, design, experiment, factors, metric, question, reference, search, seeds, settings, study",
        "grid.yaml: seeds: -1 is not a number of seeds between 1 and 1000, a list of 1 to 1000 seeds, or {start, max}",
        "grid.yaml: baselines[1]: unknown baseline 'ldmrl'; did you mean 'ldmlr'?",
        "tiny.yaml: settings.spede: unknown setting 'spede'; choose from epochs, mixup, optim.lr, optim.momentum, routing, warmup.epochs",
        "-S: routng: unknown setting 'routng'; did you mean 'routing'?",
        "tiny.yaml: settings.epochs: 'no' is not a whole number",
        "grid.yaml: factors.mix.on.mixpu: unknown setting 'mixpu'; did you mean 'mixup'?",
    ]


def test_a_level_that_no_arm_of_the_design_uses_is_checked_too(load):
    grid = (
        GRID.replace("on: {mixup: true}}", "on: {mixup: true}, most: {mixpu: 2}}")
        + "design: leave-one-out\n"
    )
    assert refused(load, grid=grid) == [
        "grid.yaml: factors.mix.most.mixpu: unknown setting 'mixpu'; did you mean 'mixup'?"
    ]


def knowing(name):
    return KnowingSubject()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("metric: {name: test/topp1}", "metric.name: 'test/topp1' is not reported by any trial at its end; did you mean 'test/top1'?"),
        ("metric: {name: diag/drift}", "metric.name: 'diag/drift' is not reported by 'ce' at its end; choose from test/few, test/top1"),
        (claims("{factor: lr, from: off, to: on}", "test/few", "diag/drfit"), "claims[0].expects[1].metric: 'diag/drfit' is not reported at the end of what is compared; did you mean 'diag/drift'?"),
        (claims("{arm: ldmlr}", "grad/norm", direction="below, value: 0"), "claims[0].expects[0].metric: 'grad/norm' is not reported at the end of what is compared; choose from best/test/top1, test/few, test/top1"),
        (claims("{factor: lr, level: on}", "diag/drfit", direction="above, value: 1"), "claims[0].expects[0].metric: 'diag/drfit' is not reported at the end of what is compared; did you mean 'diag/drift'?"),
        (claims("{arm: lr, minus: ldmlr}", "grad/norm"), "claims[0].expects[0].metric: 'grad/norm' is not reported at the end of what is compared; choose from best/test/top1, test/few, test/top1"),
    ],
)  # fmt: skip
def test_a_metric_that_no_trial_would_report_is_refused_before_any_trains(load, more, problem):
    assert refused(load, grid=GRID + more, subject_loader=knowing) == [f"grid.yaml: {problem}"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "",
            "metric: {name: test/few}\n"
            + claims("{factor: lr, from: off, to: on}", "grad/norm", "best/test/few"),
        ),
        ("[ce, ldmlr]", "[]\nmetric: {name: diag/drift}"),  # the arms have it
        ("", claims("{factor: lr, level: off}", "grad/norm", direction="below, value: -1.5e-3")),
        ("", claims("{arm: lr+mix}", "diag/drift", direction="above, value: 0")),
        (
            "",
            claims("{arm: odd, minus: ldmlr}", "anything") + "arms: {odd: {routing: pcgrad}}\n",
        ),  # not known: may be
    ],
)
def test_a_metric_that_what_is_compared_reports_is_taken(load, old, new):
    load(GRID.replace(old, new) if old else GRID + new, subject_loader=knowing)


def test_a_metric_is_doubted_only_where_the_settings_are_sound(load):
    grid = GRID.replace("on: {mixup: true}", "on: {mixpu: true}") + "metric: {name: test/topp1}\n"
    assert refused(load, grid=grid, subject_loader=knowing) == [
        "grid.yaml: factors.mix.on.mixpu: unknown",
        "grid.yaml: metric.name: 'test/topp1' is not reported by any trial at its end; did you mean 'test/top1'?",
    ]


WARMUP = GRID.replace(
    FACTORS, "factors:\n  warmup: {off: {warmup.epochs: 5}, on: {warmup.fraction: 0.25}}\n"
)


def test_an_option_that_every_level_replaces_by_an_alternative_is_refused(load):
    said = "would be undone in every arm: each level of factor 'warmup' sets it, or an alternative to it"
    for option in ("warmup.fraction=0.9", "warmup.epochs=3", "warmup.plateau.window=3"):
        assert refused(load, grid=WARMUP, overrides=[option], subject_loader=knowing) == [
            f"-S: {option.split('=')[0]}: {said}"
        ]
    load(
        WARMUP, overrides=["warmup.fraction=null"], subject_loader=knowing
    )  # unsets what the levels do not want, either
    load(
        WARMUP.replace("off: {warmup.epochs: 5}", "off: {}"),
        overrides=["warmup.plateau.window=3"],
        subject_loader=knowing,
    )
    load(
        WARMUP, overrides=["warmup.epochs=3"], subject_loader=lambda name: OpenSubject()
    )  # nothing is known of alternatives


def test_factors_that_set_alternatives_are_rivals(load):
    grid = WARMUP.replace(
        "baselines", "  end: {off: {}, on: {warmup.plateau.window: 3}}\nbaselines"
    )
    assert refused(load, grid=grid, subject_loader=knowing) == [
        "grid.yaml: factors.end: sets 'warmup.plateau.window', but factor 'warmup' sets its alternative 'warmup.epochs': one would undo the other",
        "grid.yaml: factors.end: sets 'warmup.plateau.window', but factor 'warmup' sets its alternative 'warmup.fraction': one would undo the other",
    ]
    load(grid, subject_loader=lambda name: OpenSubject())


def test_the_built_in_subject_refuses_what_the_fixes_grid_would_undo_or_never_report():
    with pytest.raises(InputError) as error:
        load_study(EXPERIMENTS / "fixes.yaml", None, ["warmup.fraction=0.9"], None, load_subject)
    assert [problem.key for problem in error.value.problems] == ["warmup.fraction"]


def test_a_subject_that_cannot_be_loaded_is_named_where_it_is_asked_for(load):
    def loader(name):
        raise InputError([Problem("", "", f"no module '{name}'")])

    own = {"grid": GRID + "metric: acc\n", "tiny": "subject: my.code:train"}
    assert refused(load, **own, subject_loader=loader) == [
        "tiny.yaml: subject: no module 'my.code:train'"
    ]


def test_the_fixes_grid_declares_the_factorial_of_the_plan():
    problems = []
    grid = read_grid(EXPERIMENTS / "fixes.yaml", problems)
    assert problems == [] and len(grid.claims) == 7
    assert [factor.name for factor in grid.factors] == ["lr_split", "warmup", "gradient_decoupling"]
    assert (
        (EXPERIMENTS / "fixes.yaml")
        .read_text()
        .startswith("# ablate run --grid experiments/fixes.yaml\n")
    )


def test_published_numbers_are_found_by_data_set():
    found = {
        row["method"]: row["top1"]
        for row in published(EXPERIMENTS / "published.yaml", "cifar10-lt-if100")
    }
    assert found["CE"] == 72.46 and found["CE + LDMLR"] == 76.26 and found["WCDAS + LDMLR"] == 86.29
    assert published(EXPERIMENTS / "published.yaml", "digits-lt") == []


def test_broken_published_numbers_are_refused(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text(
        "a: [{method: CE, top1: 101, protocol: last, sauce: x}]\nb: 5\nc: [{method: CE, top1: true, protocol: last, source: x}]\n"
    )
    with pytest.raises(InputError) as error:
        published(path, "c")
    assert [str(problem) for problem in error.value.problems] == [
        "published.yaml: a[0].sauce: unknown key 'sauce'; did you mean 'source'?",
        "published.yaml: a[0].top1: 101 is not an accuracy in percent",
        "published.yaml: a[0].source: is missing; it must be text",
        "published.yaml: b: 5 is not a list",
        "published.yaml: c[0].top1: true is not an accuracy in percent",
    ]


NAMES = st.sampled_from(["on", "lr", "ce", "factorial", "a b", "..", "tiny", ""])
SCALARS = st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-1, 1) | NAMES
WORDS = st.sampled_from(
    [*"off on lr optim.lr optim id contrast factor from arm minus metric name expects".split(), ""]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.sampled_from([*GRID_KEYS, "title"]), VALUES, max_size=5),
    st.text(max_size=8),
    st.text(max_size=8),
    st.sampled_from([FakeSubject, KnowingSubject, function]),
)
def test_any_grid_is_loaded_or_refused(load, changes, override, seeds, subject):
    grid = yaml.safe_dump({**yaml.safe_load(GRID), **changes})
    try:
        load(
            grid,
            overrides=[override, f"epochs={override}"],
            seeds=seeds or None,
            subject_loader=lambda name: subject(),
        )
    except InputError as error:
        assert error.problems
