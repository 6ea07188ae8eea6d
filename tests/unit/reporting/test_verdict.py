"""The verdict says what a study shows, in one sentence and at most seven lines, and no more."""

import re
from dataclasses import replace

import pytest
from fabricate import FACTORS, better, study, with_hits
from scipy import stats

from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import NOT_SEPARABLE, judge
from ablation.analysis.factors import judged_intervals, level_effects
from ablation.analysis.results import load
from ablation.reporting.verdict import conclusion, verdict

ONE = {"lr_split": FACTORS["lr_split"]}
TWO = {"lr_split": FACTORS["lr_split"], "precision": {"f32": {}, "bf16": {"precision": "bf16"}}}
PAIR = {name: FACTORS[name] for name in ("lr_split", "gradient_decoupling")}
FEWER = {name: FACTORS[name] for name in ("lr_split", "warmup")}
INTERVAL = re.compile(r"([-+][\d.]+)(?: points)? \[([-\d.]+), ([-\d.]+)\]")


def lines_of(folder) -> list[str]:
    results = load(folder)
    effects = judge(results)
    return verdict(results, effects, judge_claims(results, effects)).lines


def headline_of(results):
    effects = judge(results)
    return effects[effects["metric"] == results.primary]


def broken_by_decoupling(levels):
    return 90.0 - 70 * (levels["gradient_decoupling"] == "on" and levels["lr_split"] == "off")


def both_together(levels):
    return 60.0 + 10 * (levels["gradient_decoupling"] == levels["lr_split"] == "on")


def as_in_the_digits(levels):
    split, warmup, decoupling = (level == "on" for level in levels.values())
    if split:
        return 85.0
    return 15.0 + 5 * warmup if decoupling else 75.0 + 5 * warmup


def each_needs_the_others(levels):
    a, b, c = (level == "on" for level in levels.values())
    return 60.0 + 10 * (a == b) + 20 * (b == c)


def test_a_factor_that_breaks_training_without_another_is_told_as_that(tmp_path):
    verdict, split, warmup, decoupling, *_ = lines_of(
        study(tmp_path, top1=broken_by_decoupling, seeds=range(4), noise=0.3)
    )
    said = (
        "None of the three factors is found to raise top-1 alone; `gradient_decoupling` lowers it "
        "without `lr_split` (no effect found with `lr_split`: NUMBERS); and six of eight arms are "
        "better than `ldmlr`."
    )
    assert INTERVAL.sub("NUMBERS", verdict) == said
    assert re.fullmatch(
        r"`gradient_decoupling`: -(69|70)\S* points \[\S+ \S+\] without `lr_split`, "
        r"[-+]0\.\d+ \[\S+ \S+\] with `lr_split`, corrected for two settings\.",
        decoupling,
    )
    assert re.match(r"`lr_split`: .* without `gradient_decoupling`, \+(69|70)", split)
    assert warmup.startswith("`warmup`: no effect found, ")


@pytest.mark.parametrize(
    "top1, factors, says",
    [
        (
            both_together,
            FACTORS,
            "`lr_split` raises top-1 with `gradient_decoupling` (no effect found without "
            "`gradient_decoupling`: NUMBERS); ",
        ),
        (
            each_needs_the_others,
            FACTORS,
            "`lr_split` lowers top-1 without `warmup` and raises it with `warmup`, `warmup` lowers it "
            "without `gradient_decoupling` and raises it with `gradient_decoupling`, "
            "`gradient_decoupling` lowers it without `warmup` and raises it with `warmup`, and ",
        ),
        (
            as_in_the_digits,
            FACTORS,
            "`lr_split` raises top-1, most with `gradient_decoupling`; `warmup` raises it without "
            "`lr_split` (no effect found with `lr_split`: NUMBERS); `gradient_decoupling` lowers it "
            "without `lr_split` (no effect found with `lr_split`: NUMBERS); and ",
        ),
        (
            lambda v: 60.0 + 5 * (v["lr_split"] == "on") * (1 if v["precision"] == "f32" else -1),
            TWO,
            "`lr_split` raises top-1 at `precision=f32` and lowers it at `precision=bf16`",
        ),
        (
            lambda v: 60.0 + 5 * (v["lr_split"] == "on") * (1 if v["precision"] == "f32" else 3),
            TWO,
            "`lr_split` raises top-1, most at `precision=bf16`",
        ),
    ],
)
def test_interactions_are_told_by_where_a_factor_acts(tmp_path, top1, factors, says):
    lines = lines_of(study(tmp_path, top1=top1, factors=factors, seeds=range(6), noise=0.3))
    assert INTERVAL.sub("NUMBERS", lines[0]).startswith(says)
    assert "with" in lines[1] or "at `precision" in lines[1]


def test_only_is_said_of_a_factor_that_changes_no_bit_elsewhere(tmp_path):
    folder = study(tmp_path, top1=both_together, factors=PAIR, seeds=range(5), noise=0.3)
    for seed in range(5):
        outcome, records = (
            read(f"reference--s{seed}") for read in (folder.outcome, folder.records)
        )
        folder.write_records(f"lr_split--s{seed}", records)
        key = folder.outcome(f"lr_split--s{seed}").key
        folder.write_outcome(f"lr_split--s{seed}", replace(outcome, key=key))
    assert lines_of(folder)[0].startswith(
        "`lr_split` raises top-1 only with `gradient_decoupling`, "
    )


def test_of_two_factors_that_both_lower_the_metric_neither_is_found_to_raise_it(tmp_path):
    lowering = {"lr_split": -8.0, "warmup": -6.0}
    folder = study(
        tmp_path,
        factors=FEWER,
        seeds=range(5),
        top1=lambda v: 60.0 + sum(lowering[name] * (level == "on") for name, level in v.items()),
    )
    assert lines_of(folder)[0].startswith(
        "Neither factor is found to raise top-1 alone, `lr_split` and `warmup` lower it"
    )


def test_differences_of_one_seed_are_told_with_two_digits(tmp_path):
    """Also those of a share from 0 to 1, which one decimal would make 0."""
    folder = study(tmp_path, factors=ONE, seeds=[0], metric={"name": "acc", "goal": "maximize"})
    values = {"reference": 0.712, "lr_split": 0.741, "ldmlr": 0.721}
    for spec in folder.manifest().trials:
        outcome = folder.outcome(spec.trial)
        metrics = {"acc": values.get(spec.arm, 0.7)}
        folder.write_outcome(spec.trial, replace(outcome, metrics=metrics))
    _, split, best, baseline, *_ = lines_of(folder)
    assert split == "`lr_split`: +0.029 in one seed."
    assert best.startswith("One seed can call no arm the best: `lr_split` (0.741) has")
    assert baseline == (
        "Against `ldmlr` (0.721) the two arms differ by -0.009 to +0.02; no interval can be given."
    )


def test_an_effect_without_an_interval_is_not_taken_for_none(tmp_path):
    """Seeds that agree exactly on +10 do not make +3 at the other level the only effect."""
    folder = study(tmp_path, factors=FEWER, seeds=range(5))
    values = {"reference": 10.0, "lr_split": 20.0, "warmup": 10.0, "lr_split+warmup": 13.0}
    for spec in folder.manifest().trials:
        if spec.kind == "arm":
            noise = spec.seed / 10 if spec.arm == "lr_split+warmup" else 0.0
            metrics = {"test/top1": values[spec.arm] + noise}
            outcome = folder.outcome(spec.trial)
            folder.write_outcome(spec.trial, replace(outcome, metrics=metrics))
    answer, split, *_ = lines_of(folder)
    assert answer.startswith("What `lr_split` does to top-1 depends on `warmup`")
    assert split.startswith("`lr_split`: +10.0 points without `warmup`, +3.20 [")


def test_a_level_is_told_to_depend_on_those_factors_alone_that_it_interacts_with(tmp_path):
    factors = {"rate": {"low": {}, "mid": {"rate": 1}, "high": {"rate": 2}}, **ONE}

    def mid_alone_needs_the_split(levels):
        return 60.0 + 10 * (levels["rate"] == "mid" and levels["lr_split"] == "on")

    folder = study(
        tmp_path, top1=mid_alone_needs_the_split, factors=factors, seeds=range(6), noise=0.3
    )
    answer, rate, split, *_ = lines_of(folder)
    assert answer.startswith("`rate=mid` raises top-1 with `lr_split` (no effect found without ")
    assert "no effect of `rate=high` on it was found" in answer
    assert "no effect found of `high`" in rate
    assert "at `rate=high`" in split


@pytest.mark.parametrize(
    "ahead, said", [(4.5, "ahead of the other by the same"), (0, "no arm can be")]
)
def test_an_arm_that_is_ahead_by_the_same_in_every_seed_is_not_called_inseparable(
    tmp_path, ahead, said
):
    folder = study(tmp_path, factors=ONE, seeds=range(3), baselines=[])
    for spec in folder.manifest().trials:
        top1 = 70 + spec.seed + ahead * (spec.arm == "lr_split")
        outcome = replace(folder.outcome(spec.trial), metrics={"test/top1": top1})
        folder.write_outcome(spec.trial, outcome)
    assert said in "\n".join(lines_of(folder)).replace("No arm", "no arm")


@pytest.mark.parametrize(
    "by_seed, in_history, warned",
    [
        (0, 0, ["`reference` and `lr_split` have"]),
        (1e-6, 1e-6, ["`reference` and `lr_split` have"]),
        (1, 0, []),
        (0, 1, []),
    ],
)
def test_arms_of_own_code_that_no_seed_changes_are_told(tmp_path, by_seed, in_history, warned):
    """Neither where the seed changes the last value alone, nor where only an epoch before it.

    The rounding of 32 bits is no change.
    """
    folder = study(tmp_path, factors=ONE, seeds=range(3), baselines=[])
    manifest = folder.manifest()
    specs = [replace(spec, epochs_planned=1) for spec in manifest.trials]
    folder.write_manifest(replace(manifest, trials=specs))
    for spec in specs:
        first = {"test/top1": 60.0 + in_history * spec.seed}
        last = {"test/top1": 70.0}
        records = [
            {"phase": "joint", "epoch": epoch, "seconds": 0.1, "metrics": metrics}
            for epoch, metrics in enumerate((first, last), 1)
        ]
        folder.write_records(spec.trial, records)
        metrics = {"test/top1": 70.0 + by_seed * spec.seed}
        folder.write_outcome(spec.trial, replace(folder.outcome(spec.trial), metrics=metrics))
    told = [line for line in lines_of(folder) if "Does their code use the seed?" in line]
    assert [line.removeprefix("Warning: ").partition(" the same")[0] for line in told] == warned


def test_what_no_level_of_another_factor_tells_is_said_to_depend_on_them(tmp_path):
    def unlike(levels):
        a, b, c = (level == "on" for level in levels.values())
        return 60.0 + b * (30 if not (a or c) else 5 if a and c else -5)

    verdict, _, warmup, *_ = lines_of(study(tmp_path, top1=unlike, seeds=range(6), noise=0.3))
    assert "what `warmup` does to it depends on `lr_split` and `gradient_decoupling`" in verdict
    assert warmup.count("[") == 4


def test_many_settings_are_told_as_ranges_where_one_other_factor_parts_them(tmp_path):
    folder = study(tmp_path, top1=as_in_the_digits, seeds=range(6), noise=0.3)
    _, split, warmup, decoupling, *_ = lines_of(folder)
    size = r"\+(\d+)\.?\d* to \+(\d+)\.?\d*"
    found = re.fullmatch(
        rf"`lr_split`: {size} points with `gradient_decoupling`, "
        rf"{size} without `gradient_decoupling`\.",
        split,
    )
    assert [int(text) for text in found.groups()] == pytest.approx([65, 70, 5, 10], abs=1)
    assert warmup.count("[") == decoupling.count("[") == 2


def test_a_run_ends_with_the_answer_the_best_arm_and_the_claims(tmp_path):
    claims = [
        {
            "id": arm,
            "says": "So it is.",
            "contrast": {"arm": arm, "minus": "ldmlr"},
            "expects": [{"metric": "test/top1", "direction": "up"}],
        }
        for arm in ("lr_split", "warmup", "reference")
    ]
    top1 = {"off": 66.0, "on": 75.0}
    folder = study(
        tmp_path, claims=claims, top1=lambda v: top1[v["lr_split"]], looks=[3, 5], noise=0.5
    )
    results = load(folder)
    effects = judge(results)
    found = verdict(results, effects, judge_claims(results, effects))
    lines = conclusion(results, effects, judge_claims(results, effects))
    assert lines[:2] == [found.answer, found.best] and "best mean" in found.best
    assert "the baseline with the best mean" in found.lines[5] and "baseline" not in lines[1]
    assert re.fullmatch(
        r"Of 3 claims: 1 supported \(`lr_split`\), 2 not decided\. To decide the rest: about \d+ "
        r"seeds for `warmup` and about \d+ seeds for `reference` \(3 so far\)\.",
        lines[2],
    )
    assert len(lines) == 3


def test_a_run_without_claims_ends_with_three_lines_too(tmp_path):
    results = load(study(tmp_path / "arms"))
    effects = judge(results)
    found = verdict(results, effects, judge_claims(results, effects))
    lines = conclusion(results, effects, judge_claims(results, effects))
    assert lines == [found.answer, found.best, found.factors[0]]


def test_a_factor_that_interacts_with_two_others_is_told_at_each_of_their_settings(tmp_path):
    results = load(study(tmp_path, top1=each_needs_the_others, seeds=range(6), noise=0.3))
    split, warmup, _ = level_effects(results, headline_of(results))
    assert [setting.of for setting in split.settings] == [{"warmup": "off"}, {"warmup": "on"}]
    assert [setting.of for setting in warmup.settings] == [
        {"lr_split": a, "gradient_decoupling": b} for a in ("off", "on") for b in ("off", "on")
    ]
    cells = results.cells("test/top1")
    pairs = [
        ("warmup", "reference"),
        ("warmup+gradient_decoupling", "gradient_decoupling"),
        ("lr_split+warmup", "lr_split"),
        ("lr_split+warmup+gradient_decoupling", "lr_split+gradient_decoupling"),
    ]
    differences = [cells[on] - cells[off] for on, off in pairs]
    expected = [one.mean() for one in differences]
    assert [setting.found.mean for setting in warmup.settings] == pytest.approx(expected)
    # all four are read, to say where there is an effect
    half = [stats.t.isf(0.025 / 4, 5) * one.std() / 6**0.5 for one in differences]
    found = [(setting.found.high - setting.found.low) / 2 for setting in warmup.settings]
    assert found == pytest.approx(half)


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("looks", [[], [3, 5, 8]])
def test_intervals_hold_0_exactly_where_the_verdict_says_so(tmp_path, noise, looks):
    results = load(study(tmp_path, noise=noise, seeds=range(5), looks=looks))
    rows = headline_of(results)
    found = judged_intervals(results, rows)
    family = found[found["p_holm"].notna()]
    holds_0 = (family["low"] <= 0) & (family["high"] >= 0)
    assert len(family) == 6 and list(holds_0) == list(family["verdict"] == NOT_SEPARABLE)
    others = found["p_holm"].isna()
    assert found[others].equals(rows[others])


def test_what_holm_does_not_reject_shares_one_level(tmp_path):
    results = load(study(tmp_path, seeds=range(5), noise=1.0))
    rows = headline_of(results)
    found = judged_intervals(results, rows)
    retained = found[found["verdict"].eq(NOT_SEPARABLE) & found["p_holm"].notna()]
    assert 1 < len(retained) < 6
    t = stats.t.isf(0.025 / len(retained), 4)
    half = t * retained["sd"] / 5**0.5
    assert retained["high"].to_numpy() == pytest.approx(retained["estimate"] + half)
    assert (retained["low"] < rows.loc[retained.index, "low"]).all()


def test_no_interval_that_excludes_0_stands_beside_no_effect_found(tmp_path):
    """Seeds at which an effect is found before Holm's correction and not after it."""
    uncorrected = 0
    for start in range(4):
        folder = study(tmp_path / str(start), seeds=range(10 * start, 10 * start + 3))
        rows = headline_of(load(folder))
        family = rows[rows["p_holm"].notna()]
        uncorrected += int(((family["p"] < 0.05) & (family["p_holm"] >= 0.05)).sum())
        for line in lines_of(folder)[1:4]:
            if "no effect found" in line:
                ((_, low, high),) = INTERVAL.findall(line)
                assert float(low) <= 0 <= float(high) and "corrected for six tests" in line
    assert uncorrected > 1


def test_a_factor_of_many_levels_has_one_line(tmp_path):
    lines = lines_of(
        study(
            tmp_path,
            factors={"rate": {f"r{n}": {"rate": n} for n in range(8)}},
            top1=lambda levels: 60.0 + 4 * (levels["rate"] == "r3"),
            seeds=range(4),
            noise=0.3,
        )
    )
    assert lines[0].startswith("`rate=r3` raises top-1, no effect of six levels of `rate` on it")
    assert re.match(
        r"`rate` from `r0`: `r3` \+[34]\.\S* points \[.*; no effect found of `r1`", lines[1]
    )
    assert not any(line.startswith("`r") for line in lines[2:])


def test_many_factors_are_merged_into_three_lines(tmp_path):
    for name, n_active in [("few", 1), ("many", 5)]:
        lines = lines_of(
            study(
                tmp_path / name,
                factors={name: {"off": {}, "on": {name: 1}} for name in "abcde"},
                top1=lambda v, n=n_active: 60.0 + sum(5 * (v[f] == "on") for f in "abcde"[:n]),
                seeds=range(3),
                noise=0.3,
            )
        )
        assert len(lines) <= 7
        for factor in "abcde":
            assert sum(f"`{factor}`" in line for line in lines[1:4]) == 1
        if n_active == 1:
            assert lines[0].startswith("`a` raises top-1; no effect of `b`, `c`, `d` and `e` on it")


@pytest.mark.parametrize(
    "what, says",
    [
        ({"state": lambda s: "WAITING"}, ["No trial has finished (36 waiting), so there is"]),
        ({"factors": {}}, ["`reference` is worse than `ldmlr`.", "Against `ldmlr` (66"]),
        ({"factors": {}, "baselines": []}, ["`reference` reaches 60."]),
        (
            {"state": lambda s: "COMPLETE" if s.kind == "baseline" else "WAITING"},
            [
                "From 12 of 36 trials: no effect of `lr_split`, `warmup` and",
                "Warning: 12 of 36 planned trials have ended: p-values and verdicts hold once ",
                "`lr_split`: no seed",
            ],
        ),
        (
            {
                "factors": {},
                "state": lambda s: "COMPLETE" if s.kind == "baseline" else "FAILED",
            },
            ["From 12 of 15 trials: no arm has a finished trial.", "12 of 15 trials finished ("],
        ),
        ({"baselines": []}, ["`lr_split` raises top-1"]),
        (
            {"seeds": [0]},
            [
                "One seed cannot tell an effect of `lr_split`, `warmup` and `gradient_decoupling` "
                "from chance.",
                "`lr_split`: +7.9 points in one seed.",
                "`warmup`: +",
                "`gradient_decoupling`: ",
                "One seed can call no arm the best: `lr_split+warmup` (",
                "Against `ldmlr` (65.8) the eight arms differ by -5.5 to +4.2 points; no interval",
                "One seed: no interval can be given",
            ],
        ),
    ],
)
def test_studies_that_lack_something_have_sentences_that_are_right(tmp_path, what, says):
    lines = lines_of(study(tmp_path, **what))
    assert len(lines) >= len(says)
    for line, start in zip(lines, says):
        assert line.startswith(start)
    for line in lines:
        assert line.endswith(".") and "nan" not in line and "  " not in line and ", ." not in line


def test_arms_that_differ_alike_from_the_baseline_have_one_number(tmp_path):
    """Not `-5.8 to -5.8 points`."""
    factors = {"rate": {f"r{n}": {"rate": n} for n in range(3)}}
    folder = study(tmp_path, factors=factors, top1=lambda v: 60.0, seeds=[0], noise=0.001)
    (line,) = (line for line in lines_of(folder) if "Against" in line)
    assert re.search(r"arms differ by about -\d\.\d points; no interval", line), line


def test_baselines_that_lack_seeds_are_not_called_arms(tmp_path):
    folder = study(
        tmp_path, noise=4.0, state=lambda spec: "FAILED" if spec.trial == "ce--s0" else "COMPLETE"
    )
    manifest = folder.manifest()
    baselines = [spec for spec in manifest.trials if spec.kind == "baseline"]
    folder.write_manifest(replace(manifest, trials=baselines, factors={}))
    assert "adjusted for the seeds that baselines lack" in lines_of(folder)[1]


def test_baselines_alone_are_ranked(tmp_path):
    folder = study(tmp_path)
    manifest = folder.manifest()
    baselines = [spec for spec in manifest.trials if spec.kind == "baseline"]
    folder.write_manifest(replace(manifest, trials=baselines, factors={}))
    lines = lines_of(folder)
    assert lines[0] == "No baseline can be called the best of four."
    assert "`ce` 64" in lines[1] and "`balanced-head` 66" in lines[1]


def test_of_a_metric_to_be_minimised_lower_is_better(tmp_path):
    metric = {"name": "test/top1", "goal": "minimize"}
    lines = lines_of(study(tmp_path, metric=metric, seeds=range(4), noise=0.3))
    assert lines[0].startswith(
        "None of the three factors is found to lower top-1 alone, `lr_split` and `warmup` raise it"
    )
    assert lines[1].startswith("`lr_split`: +8")
    assert "of eight arms four better, four worse" in lines[5]
    assert "`ce` (64" in lines[4]  # the lowest of the baselines


def test_one_training_run_is_said_to_be_one(tmp_path):
    folder = with_hits(study(tmp_path, factors=ONE, seeds=[0]), better)
    lines = lines_of(folder)
    assert lines[0] == (
        "On this one training run, `lr_split` raises top-1, and one of two arms is better than "
        "`ldmlr`."
    )
    assert (
        lines[2].endswith("not corrected for their being picked by their means.")
        and "over test images" in lines[-1]
    )


def test_failed_trials_are_told_before_anything_else(tmp_path):
    states = {"warmup--s1": "FAILED", "ce--s2": "RUNNING"}
    lines = lines_of(study(tmp_path, state=lambda spec: states.get(spec.trial, "COMPLETE")))
    assert lines[0].startswith(
        "From 34 of 36 trials: where trials did not fail (`warmup` in 2 of 3 seeds), `lr_split` "
        "raises top-1, "
    )
    assert lines[-1].startswith("34 of 36 trials finished (34 complete, 1 failed, 1 ")


def test_an_answer_of_the_seeds_that_an_arm_survived_is_conditional_on_that(tmp_path):
    folder = study(
        tmp_path,
        factors=ONE,
        seeds=range(10),
        baselines=[],
        state=lambda s: "FAILED" if s.arm == "lr_split" and s.seed > 3 else "COMPLETE",
    )
    answer, *lines = lines_of(folder)
    assert answer == (
        "From 14 of 20 trials: where trials did not fail (`lr_split` in 4 of 10 seeds), `lr_split` "
        "raises top-1."
    )
    (best,) = [line for line in lines if "best arm" in line]
    assert best.startswith("The best arm where its trials did not fail is `lr_split` (")
    assert ", 4 of 10 seeds), separable from all others" in best


def test_many_arms_that_lack_seeds_are_counted(tmp_path):
    lines = lines_of(study(tmp_path, state=lambda s: "FAILED" if s.seed == 2 else "COMPLETE"))
    assert ": where trials did not fail (twelve arms not in all seeds), " in lines[0]


def test_claims_are_counted_and_those_on_average_said_to_be(tmp_path):
    sides = {"factor": "gradient_decoupling", "from": "off", "to": "on"}
    claims = [
        {
            "id": direction,
            "says": "So it is.",
            "contrast": sides,
            "expects": [{"metric": "test/top1", "direction": direction}],
        }
        for direction in ("down", "up")
    ]
    claims.append({**claims[0], "id": "none", "expects": [{"metric": "x", "direction": "up"}]})
    folder = study(tmp_path, top1=broken_by_decoupling, seeds=range(4), noise=0.3, claims=claims)
    assert lines_of(folder)[1] == (
        "Of 3 claims: 1 supported (`down` on average), 1 refuted (`up` on average), 1 not decided."
    )


def test_arms_are_compared_with_the_baseline_after_correction_in_the_sentence(tmp_path):
    """Three seeds whose differences are found one by one, and not after Holm's correction."""
    found = []
    for start in range(3):
        lines = lines_of(
            study(
                tmp_path / str(start),
                seeds=range(10 * start, 10 * start + 3),
                noise=0.5,
                top1=lambda levels: 68.0,
            )
        )
        (counted,) = [line for line in lines if line.startswith("Against")]
        told = "better" in counted and "no arm is found to be better" in lines[0]
        assert ("; none by corrected ones" in counted) == told
        found.append(told)
    assert any(found)


@pytest.mark.parametrize(
    "ahead, says", [(2.9, "no arm is found to be"), (9.0, "two of four arms are")]
)
def test_arms_that_failed_keep_their_place_among_those_compared_with_the_baseline(
    tmp_path, ahead, says
):
    """p is 0.015 at 2.9 points: below 0.05 after correction for two arms, not for the four."""
    folder = study(
        tmp_path,
        factors=FEWER,
        seeds=range(5),
        baselines=["ldmlr"],
        state=lambda spec: "FAILED" if "warmup" in spec.arm else "COMPLETE",
    )
    for spec in folder.manifest().trials:
        outcome = folder.outcome(spec.trial)
        if outcome.state == "COMPLETE":
            top1 = 60.0 if spec.kind == "baseline" else 60.0 + ahead + spec.seed - 2
            folder.write_outcome(spec.trial, replace(outcome, metrics={"test/top1": top1}))
    answer, *lines = lines_of(folder)
    assert f"{says} better than `ldmlr`" in answer
    (counted,) = [line for line in lines if line.startswith("Against")]
    assert "of four arms two better, two not known" in counted


def test_an_arm_that_failed_makes_no_other_the_best(tmp_path):
    """p is below 0.05 divided by two others, and not by three."""
    factors = {"rate": {name: {"rate": n} for n, name in enumerate("abcd")}}
    folder = study(
        tmp_path,
        factors=factors,
        seeds=range(5),
        baselines=[],
        state=lambda spec: "FAILED" if spec.arm == "rate=d" else "COMPLETE",
    )
    for spec in folder.manifest().trials:
        if spec.arm != "rate=d":
            top1 = 60.0 + (2.7 + spec.seed - 2) * (spec.arm == "rate=a")
            outcome = replace(folder.outcome(spec.trial), metrics={"test/top1": top1})
            folder.write_outcome(spec.trial, outcome)
    assert 0.05 / 3 < stats.ttest_1samp([0.7, 1.7, 2.7, 3.7, 4.7], 0).pvalue < 0.05 / 2
    assert "No arm can be called the best" in "".join(lines_of(folder))


def test_a_claim_and_an_effect_of_other_verdicts_are_said_to_be_corrected_apart(tmp_path):
    sides = {"factor": "lr_split", "from": "off", "to": "on"}
    up = {"metric": "test/top1", "direction": "up"}
    claims = [{"id": "helps", "says": "It helps.", "contrast": sides, "expects": [up]}]
    told = []
    for start in range(0, 60, 3):
        folder = study(
            tmp_path / str(start),
            seeds=range(start, start + 3),
            noise=1.0,
            top1=lambda levels: 68.0 + (levels["lr_split"] == "on"),
            claims=claims,
        )
        results = load(folder)
        (effect,) = headline_of(results).query("effect == 'lr_split: off -> on'").itertuples()
        (claim,) = judge_claims(results, judge(results)).itertuples()
        text = "\n".join(lines_of(folder))
        told.append("Claims and effects are corrected apart: `lr_split: off -> on` " in text)
        assert told[-1] == ((effect.p_holm < 0.05) != (claim.p_holm < 0.05))
    assert {*told} == {True, False}


@pytest.mark.parametrize("spread, n_told", [(0.0, 0), (3.0, 1)])
def test_effects_of_unlike_spread_have_unlike_limits(tmp_path, spread, n_told):
    """One unstable arm says little of what could have been seen of the others."""
    factors = {"a": {"off": {}, "on": {"a": 1}}, "b": {"off": {}, "on": {"b": 1}}}
    folder = study(tmp_path, factors=factors, seeds=range(8), noise=0.5, baselines=[])
    for spec in folder.manifest().trials:
        # cancels in the effect of `b`
        wave = spread * (-1) ** spec.seed * (spec.levels["a"] == "on")
        outcome = folder.outcome(spec.trial)
        metrics = {"test/top1": outcome.metrics["test/top1"] + wave}
        folder.write_outcome(spec.trial, replace(outcome, metrics=metrics))
    found = re.findall(
        r"an effect below ([\d.]+) points \(([\d.]+) to ([\d.]+) by each one's own spread\) may",
        "\n".join(lines_of(folder)),
    )
    assert len(found) == n_told
    for told, least, most in found:
        assert 2 * float(least) < float(told) < float(most)


def test_names_with_braces_stay_names(tmp_path):
    factors = {"{a}": {"off": {}, "on": {"a": 1}}}
    lines = lines_of(study(tmp_path, factors=factors, top1=lambda v: 60 + 8 * (v["{a}"] == "on")))
    assert lines[0].startswith("`{a}` raises top-1")


def test_a_study_with_looks_tells_dependent_effects_by_its_repeated_intervals(tmp_path):
    what = {"top1": broken_by_decoupling, "seeds": range(5), "noise": 0.3}
    plain = lines_of(study(tmp_path / "plain", **what))
    looked = lines_of(study(tmp_path / "looks", **what, looks=[3, 5, 8]))
    without = [INTERVAL.sub("", lines[0]).partition("; and ")[0] for lines in (looked, plain)]
    assert without[0] == without[1]
    widths = [
        [float(high) - float(low) for _, low, high in INTERVAL.findall(lines[3])]
        for lines in (plain, looked)
    ]
    assert len(widths[0]) == 2 and all(a < b for a, b in zip(*widths))


def test_what_two_seeds_cannot_tell_is_said_to_be_undecided(tmp_path):
    """A crash has taken a whole arm, and intervals are far wider than all that was seen."""
    factors = {name: FACTORS[name] for name in ("lr_split", "warmup")}

    def state(spec):
        return "FAILED" if spec.arm == "lr_split+warmup" else "COMPLETE"

    folder = study(tmp_path, factors, ["ldmlr"], seeds=[0, 1], noise=9.0, state=state)
    lines = lines_of(folder)
    assert lines[0].startswith(
        "From 8 of 10 trials, none of `lr_split+warmup`: there are too few seeds to tell an effect "
        "of `lr_split` (over 1 of 2 pairs of arms: without `lr_split+warmup` (0 of 2 seeds)) and "
    )
    assert lines[1].startswith("`lr_split` (over 1 of 2 pairs of arms: without `lr_split+warmup` ")
    assert "): undecided, " in lines[1]
    text = " ".join(lines)
    assert "o effect" not in text and not re.search(r"\de[+-]\d", text)


def test_an_interval_within_what_was_seen_finds_no_effect(tmp_path):
    factors = {name: FACTORS[name] for name in ("lr_split", "gradient_decoupling")}
    folder = study(tmp_path, factors, ["ldmlr"], seeds=range(5), noise=0.3)
    text = " ".join(lines_of(folder))
    assert "`gradient_decoupling`: no effect found, " in text and "undecided" not in text


def test_many_undecided_factors_are_merged_into_three_lines(tmp_path):
    factors = {name: {"off": {}, "on": {name: 1}} for name in [*FACTORS, "cut", "jitter"]}
    lines = lines_of(
        study(tmp_path, factors, ["ldmlr"], seeds=[0, 1], noise=6.0, top1=lambda _: 60)
    )
    assert "too few seeds to tell an effect of five levels of five factors on top-1" in lines[0]
    assert [line.count(": undecided, ") for line in lines[1:4]] == [1, 1, 3]


@pytest.mark.parametrize(
    "of_mean, of_few, of_many, says",
    [
        (0, 10, -4, r"few \+10\.\d+ points \[\S+ \S+\] and many -[34]\.\d+ \[\S+ \S+\]"),
        (0, 10, 0, r"few \+10\.\d+ points \[\S+ \S+\]"),
        (9, 20, -4, r"few \+20\.\d+ points \[\S+ \S+\] and many -[34]\.\d+ \[\S+ \S+\]"),
        (9, 20, 2, None),  # as the mean, more or less of it
        (0, 0, 0, None),
    ],
)
def test_effects_on_some_classes_that_the_mean_hides_are_told(
    tmp_path, of_mean, of_few, of_many, says
):
    top1 = lambda levels: 60.0 + of_mean * (levels["lr_split"] == "on")  # noqa: E731
    results = load(study(tmp_path, factors=ONE, top1=top1, seeds=range(5), noise=0.2))
    trials, is_on = results.trials.copy(), results.trials["lr_split"] == "on"
    # the fabricated groups move with the mean
    trials.loc[is_on, "test/few"] += of_few - of_mean
    trials.loc[is_on, "test/many"] += of_many - of_mean
    changed = replace(results, trials=trials)
    effects = judge(changed)
    hidden = verdict(changed, effects, judge_claims(changed, effects)).hidden
    if says is None:
        assert hidden == ""
    else:
        assert re.fullmatch(
            f"The mean hides effects on classes with few, medium or many images: `lr_split` {says} "
            r"\(found after correction for two tests\)\.",
            hidden,
        ), hidden
    goal = replace(results.manifest, metric={"name": "test/top1", "goal": "minimize"})
    errors = replace(changed, manifest=goal)  # whose groups may be accuracies
    assert verdict(errors, effects, judge_claims(errors, effects)).hidden == ""


def test_an_effect_that_no_seed_has_measured_keeps_its_place_among_hidden_ones(tmp_path):
    folder = study(
        tmp_path,
        factors=FEWER,
        seeds=range(5),
        top1=lambda levels: 60.0,
        noise=0.2,
        state=lambda spec: "FAILED" if "warmup" in spec.arm else "COMPLETE",
    )
    results = load(folder)
    trials = results.trials.copy()
    trials.loc[trials["lr_split"] == "on", "test/few"] += 10.0
    changed = replace(results, trials=trials)
    effects = judge(changed)
    hidden = verdict(changed, effects, judge_claims(changed, effects)).hidden
    assert "(found after correction for four tests)" in hidden


def test_an_effect_on_some_classes_that_may_be_the_mean_s_is_not_hidden(tmp_path):
    """As where seeds disagree on the mean."""
    results = load(study(tmp_path, factors=ONE, seeds=range(4), noise=9))
    effects = judge(results)
    primary, few = (
        effects[effects["metric"] == name].iloc[0] for name in ("test/top1", "test/few")
    )
    assert primary["verdict"] == NOT_SEPARABLE
    at = effects.index[(effects["metric"] == "test/few") & (effects["kind"] == "main")]
    effects.loc[at, ["low", "high", "p"]] = [few["estimate"] - 0.1, few["estimate"] + 0.1, 1e-6]
    assert verdict(results, effects, judge_claims(results, effects)).hidden == ""
