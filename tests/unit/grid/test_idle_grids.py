"""Grids with settings or factors that change nothing are refused; settings that change something in one arm are not."""

import pytest

from ablation.errors import InputError
from ablation.grid.load import load_study
from ablation.subject.loading import load_subject
from ablation.subject.protocol import Fault

EXPERIMENT = """\
settings:
  epochs: 12
  data: {source: digits, channels: gray, n_max: 60, imbalance_factor: 10, augmentation: crop, padding: 1}
  encoder.name: small-cnn
  pretraining: {epochs: 2, milestones: [1]}
  optim.momentum: 0.8
  staged.head_epochs: 4
  denoiser: {width: 32, blocks: 1}
"""
RATES = "rate: {low: {optim.lr.encoder: 1.0e-5}, high: {optim.lr.encoder: 1.0e-3}}"
HEADS = "head: {linear: {head.name: linear}, cosine: {head.name: cosine, head.scale: 20}}"


@pytest.fixture
def load(tmp_path):
    def load(
        factors=f"{{{RATES}}}",
        settings="{}",
        baselines="[]",
        more="",
        overrides=(),
        tiny=EXPERIMENT,
        subject_loader=load_subject,
    ):
        text = f"study: s\nexperiment: tiny\nseeds: 2\nfactors: {factors}\nsettings: {settings}\nbaselines: {baselines}\n{more}\n"
        (tmp_path / "grid.yaml").write_text(text)
        (tmp_path / "tiny.yaml").write_text(tiny)
        return load_study(tmp_path / "grid.yaml", None, list(overrides), None, subject_loader)

    return load


def refused(load, **arguments):
    with pytest.raises(InputError) as error:
        load(**arguments)
    return [str(problem) for problem in error.value.problems]


NOTHING = "changes nothing in any arm or baseline that has it"


def rows(table):
    """The rows of a table, of which each is a line, and its cells are parted by ` | `."""
    lines = table.replace("RATES", RATES).strip("\n").splitlines()
    return [tuple(cell.strip() for cell in line.split(" |")) for line in lines]


def idle(setting, remedy):
    """The message about a setting; remedy: with what it would count, if that is known."""
    return f"{setting} {NOTHING}" + (f"; it would with {remedy}" if remedy else "")


@pytest.mark.parametrize(
    ("settings", "baselines", "setting", "remedy"),
    rows(
        """
{optim.momentum: 0.5} | [] | optim.momentum: 0.5 | optim.name: sgd
{optim: {name: adam, momentum: 0.5}} | [ce, ldmlr] | optim.momentum: 0.5 | optim.name: sgd
{staged.head_epochs: 9} | [ce, frozen-encoder] | staged.head_epochs: 9 | method: staged
{data.augmentation: none, data.padding: 2} | [ldmlr] | data.padding: 2 | data.augmentation: crop
{generation: {method: ddpm, steps: 5}} | [ldmlr] | generation.steps: 5 | generation.method: ddim
{losses: {radius: 0, radius_from: many}} | [ce] | losses.radius_from: 'many' | losses.radius: 0.1
{denoiser.name: unet1d, denoiser.width: 64} | [ldmlr] | denoiser.width: 64 | denoiser.name: mlp
{pretraining.milestones: [2]} | [] | pretraining.milestones: a list | pretraining.schedule: step
{data.download: true} | [] | data.download: true |
{routing: summed, head.name: linear, head.scale: 5} | [ce] | head.scale: 5 | head.name: cosine
"""
    ),
)
def test_a_setting_of_the_grid_that_changes_no_arm_is_refused(
    load, settings, baselines, setting, remedy
):
    said = f"grid.yaml: settings.{idle(setting, remedy)}"
    assert refused(load, settings=settings, baselines=baselines) == [said]


@pytest.mark.parametrize(("factors", "settings"), [
    (f"{{{RATES}}}", "{optim.lr.encoder: 0.1}"), (f"{{{HEADS}}}", "{head.name: wcdas, head.scale: 3}"), ("{a: {x: {warmup.epochs: 2}, y: {warmup.plateau: {}}}}", "{warmup.epochs: 1}"),
])  # fmt: skip
def test_a_default_that_every_level_replaces_is_taken(load, factors, settings):
    assert load(
        factors=factors,
        settings=settings,
        baselines="[ce, ldmlr]",
        tiny=EXPERIMENT.replace("epochs: 12", "epochs: 40"),
    )


@pytest.mark.parametrize(
    ("settings", "baselines"),
    [
        ("{optim.momentum: 0.5, optim.denoiser_name: sgd}", "[]"),
        ("{staged: {head_epochs: 9, diffusion_epochs: 5}}", "[ce, ldmlr]"),
        ("{staged.batching: balanced}", "[ldmlr-no-generation]"),
        ("{optim.lr.encoder: 0.1}", "[]"),
        ("{losses.radius: 0, losses.momentum: 0.5}", "[ce]"),
        ("{evaluate_every: 100, threads: 2, optim.ramp_epochs: 2}", "[ce]"),
        ("{warmup.plateau: {window: 1, tolerance: 0.5, min_epochs: 2, max_fraction: 0.9}}", "[ce]"),
    ],
)
def test_a_setting_of_the_grid_that_changes_one_of_them_is_taken(load, settings, baselines):
    assert load(factors=f"{{{HEADS}}}", settings=settings, baselines=baselines)


@pytest.mark.parametrize(
    ("overrides", "setting", "remedy"),
    rows(
        """
optim.momentum=0.5 | optim.momentum: 0.5 | optim.name: sgd
data.augmentation=none data.padding=3 | data.padding: 3 | data.augmentation: crop
staged.encoding.first_relu=false | staged.encoding.first_relu: false | method: staged
warmup.fraction=0.5 warmup.epochs=3 | warmup.fraction: 0.5 | warmup.epochs: null
encoder.channels=gray | encoder.channels: 'gray' |
data.path=data | data.path: 'data' | data.source: folder
"""
    ),
)
def test_an_override_that_changes_nothing_is_refused_by_its_name(load, overrides, setting, remedy):
    assert refused(load, overrides=overrides.split()) == [f"-S: {idle(setting, remedy)}"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["epochs=9"],
        ["staged.head_epochs=3"],
        ["losses.generated=0"],
        ["data.padding=2", "optim.name=sgd", "optim.momentum=0.1"],
        ["warmup.epochs=2"],
    ],
)
def test_an_override_that_changes_something_somewhere_is_taken(load, overrides):
    assert load(baselines="[ce, ldmlr]", overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.name=adam"],
        ["losses.radius=0"],
        ["epochs=4"],
        ["optim.momentum=0.1"],
        ["warmup.epochs=12", "warmup.fraction=0.5"],
        ["generation.method=ddpm", "optim.clip=1"],
    ],
)
def test_what_an_override_makes_idle_is_no_fault_of_the_grid(load, overrides):
    settings = "{optim: {name: sgd, momentum: 0.5}, losses.radius_from: views, generation.steps: 5, warmup.epochs: 3}"
    if overrides[0].startswith("warmup"):
        with pytest.raises(InputError, match="-S: warmup.epochs"):  # which the next one unsets
            load(settings=settings, overrides=overrides)
    else:
        assert load(settings=settings, overrides=overrides)
    assert load(settings=settings, overrides=overrides[-1:])


@pytest.mark.parametrize(
    ("factors", "setting", "remedy"),
    rows(
        """
{a: {off: {}, on: {routing: summed, optim.momentum: 0.5}}} | a.on.optim.momentum: 0.5 | optim.name: sgd
{a: {off: {head.name: linear, head.scale: 5}, on: {head.name: cosine}}} | a.off.head.scale: 5 | head.name: cosine
{a: {none: {end_to_end: false, optim.ramp_epochs: 2}, some: {}}} | a.none.optim.ramp_epochs: 2 | end_to_end: true
{a: {staged: {method: staged, losses.radius: 0}, joint: {}}} | a.staged.losses.radius: 0 | method: joint
{a: {ce: {method: ce, losses.logit_adjustment: 1}, joint: {}}} | a.ce.losses.logit_adjustment: 1 | method: joint
{RATES, b: {off: {}, on: {losses.generated: 0, generation.quota: ldmlr}}} | b.on.generation.quota: 'ldmlr' | losses.generated: 1.0
"""
    ),
)
def test_a_setting_of_a_level_that_changes_no_arm_with_it_is_refused(
    load, factors, setting, remedy
):
    said = f"grid.yaml: factors.{idle(setting, remedy)}"
    assert refused(load, factors=factors, baselines="[ce, ldmlr]") == [said]


def test_a_setting_of_an_extra_arm_that_changes_nothing_in_it_is_refused(load):
    found = refused(
        load,
        more="arms: {plain: {method: ce, losses.logit_adjustment: 1}, other: {losses.logit_adjustment: 1}}",
    )
    assert found == [f"grid.yaml: arms.plain.{idle('losses.logit_adjustment: 1', 'method: joint')}"]


def test_a_setting_that_counts_in_one_of_the_arms_with_its_level_is_taken(load):
    optimisers = "optimiser: {adam: {}, sgd: {optim.name: sgd}}"
    assert load(
        factors=f"{{{optimisers}, momentum: {{none: {{optim.momentum: 0}}, much: {{optim.momentum: 0.9}}}}}}"
    )
    assert load(factors=f"{{{RATES}, warmup: {{some: {{}}, all: {{warmup.epochs: 12}}}}}}")


@pytest.mark.parametrize(
    "baselines",
    [
        "[ldmlr-original]",
        "[ce, ldmlr-original, balanced-head-original-encoding]",
        "[frozen-encoder, ldmlr]",
    ],
)
def test_neither_a_baseline_of_ours_nor_an_experiment_is_asked_whether_its_settings_count(
    load, baselines
):
    assert load(baselines=baselines)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        (
            "{a: {low: {optim.momentum: 0.1}, high: {optim.momentum: 0.9}}}",
            ["a.high: as level 'low'"],
        ),
        (
            "{a: {off: {}, on: {optim.momentum: 0.8}}, b: {off: {}, on: {routing: summed}}}",
            ["a.on: as level 'off'"],
        ),  # as the experiment has it
        (
            "{a: {quarter: {warmup.fraction: 0.25}, three: {warmup.epochs: 3}, four: {warmup.epochs: 4}}}",
            ["a.three: as level 'quarter'"],
        ),
        ("{a: {off: {}, on: {optim.name: adamw}}}", ["a.on: as level 'off'"]),
        (
            "{a: {x: {generation.every: 12}, y: {generation.every: 20}, z: {generation.every: 2}}, b: {off: {}, on: {routing: summed}}}",
            ["a.y: as level 'x'"],
        ),
        ("{a: {off: {}, on: {end_to_end: true}}}\ndesign: leave-one-out", ["a.on: as level 'off'"]),
    ],
)
def test_two_levels_that_compute_the_same_in_every_arm_are_refused(load, factors, said):
    found = [text for text in refused(load, factors=factors) if NOTHING not in text]
    assert found == [
        f"grid.yaml: factors.{text}".replace(
            ": as ", ": is a dead toggle: in every arm it computes the same as "
        )
        for text in said
    ]


def test_an_override_that_makes_a_factor_dead_is_told_by_the_factor(load):
    assert refused(load, overrides=["end_to_end=false"]) == [
        "grid.yaml: factors.rate.high: is a dead toggle: in every arm it computes the same as level 'low'"
    ]


@pytest.mark.parametrize(
    "factors",
    [
        "{a: {off: {}, on: {end_to_end: false}}, b: {summed: {routing: summed}, stopgrad: {routing: stopgrad}}}",
        "{a: {off: {}, on: {losses.radius: 0}}, b: {images: {}, views: {losses.radius_from: views}}}",
        "{a: {off: {}, on: {method: staged}}, b: {off: {}, on: {staged.batching: balanced}}}",
    ],
)
def test_two_arms_may_be_alike_where_others_differ(load, factors):
    assert load(factors=factors)


class Plain:
    """A subject that tells nothing of its settings."""

    def check(self, settings):
        return [Fault(key, "unknown") for key in settings if key == "wrong"]

    def baselines(self):
        return {}


@pytest.mark.parametrize("tiny", ["settings: {a: 1, b: 2}", "settings: {a: 1}"])
def test_of_a_subject_that_tells_nothing_only_levels_of_the_same_settings_are_dead(load, tiny):
    plain = {
        "subject_loader": lambda name: Plain(),
        "tiny": f"subject: own:train\n{tiny}",
        "settings": "{c: 3}",
        "more": "metric: acc",
    }
    assert refused(load, factors="{f: {off: {}, on: {a: 1}}}", **plain) == [
        "grid.yaml: factors.f.on: is a dead toggle: in every arm it computes the same as level 'off'"
    ]
    assert load(factors="{f: {off: {}, on: {a: 1.0}}}", **plain)
    assert load(factors="{f: {off: {}, on: {b: 3}}}", overrides=["d=4"], **plain)


def test_a_layer_of_an_arm_with_another_fault_is_not_judged(load):
    found = refused(
        load, settings="{optim.momentum: 0.5}", factors="{a: {off: {}, on: {optim.nam: sgd}}}"
    )
    assert found == [
        "grid.yaml: factors.a.on.optim.nam: unknown setting 'nam' in 'optim'; did you mean 'optim.name'?"
    ]
