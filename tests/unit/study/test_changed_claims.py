"""Claims that are changed after results were seen are told and marked until they are as they were first."""

import json
import re
from dataclasses import replace

import pytest

from ablation.analysis.first_plan import (
    SOURCE,
    changed_claims,
    changed_effects,
    changed_seeds,
    partial_seeds,
    plan_warnings,
    post_hoc_claims,
)
from ablation.reporting import figures
from ablation.storage.runs import Damaged, failure
from ablation.study.closing import Closing, other_seeds
from ablation.study.opening import PlannedStudy

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

UP, DOWN = "{metric: top1, direction: up}", "{metric: top1, direction: down}"
FASTER = f"{{id: faster, says: Fast is better., contrast: {{arm: rate=fast, minus: reference}}, expects: [{UP}]}}"
SETTLED = f"{{id: settled, says: Settling helps., contrast: {{factor: warmup, from: two, to: settling}}, expects: [{UP}]}}"
HIGH = "{id: high, says: It is high., contrast: {arm: rate=fast}, expects: [{metric: top1, direction: above, value: 40}]}"
BOTH = f"{{id: both, says: It rises., contrast: {{arm: rate=fast, minus: reference}}, expects: [{UP}, {{metric: settled, direction: up}}]}}"
FIRST = [FASTER, SETTLED, HIGH, BOTH]


def claimed(toy, claims, stop_after=float("inf")):
    """Runs the study with these claims; returns what its manifest says of changed ones, and which are post hoc."""
    path = toy.root / "grid.yaml"
    lines = [
        line for line in path.read_text().splitlines() if not line.startswith(("claims", "  - "))
    ]
    path.write_text(
        "\n".join([*lines, *["claims:"][: len(claims)], *(f"  - {one}" for one in claims), ""])
    )
    toy.go(stop_after=stop_after)
    return told(toy)


def told(toy):
    manifest = toy.folder.manifest()
    return changed_claims(manifest), post_hoc_claims(manifest)


@pytest.fixture
def claims(toy):
    """A study whose results were first seen with the claims `FIRST`."""
    for path in toy.folder.path.glob("*/outcome.json"):
        path.unlink()
    toy.folder.path.joinpath("study.json").unlink()
    assert claimed(toy, FIRST) == ("", set())
    return toy


NEW = SETTLED.replace("id: settled", "id: new").replace("direction: up", "direction: down")
ALL = {"faster", "settled", "high", "both"}


@pytest.mark.parametrize(
    ("now", "said", "post_hoc"),
    [
        ([*FIRST, NEW], "(added `new`)", {"new"}),
        ([NEW, *FIRST[1:]], "(added `new`; removed `faster`)", {"new", *ALL} - {"faster"}),
        (FIRST[1:], "(removed `faster`)", ALL - {"faster"}),
        ([], "(removed `faster`, `settled`, `high` and `both`)", set()),
        ([FASTER.replace(UP, DOWN), *FIRST[1:]], "(changed `faster`)", ALL),
        ([FASTER.replace("top1", "settled"), *FIRST[1:]], "(changed `faster`)", ALL),
        ([FASTER.replace("rate=fast", "warmup=settling"), *FIRST[1:]], "(changed `faster`)", ALL),
        ([*FIRST[:2], HIGH.replace("40", "39"), BOTH], "(changed `high`)", ALL),
        ([*FIRST[:3], BOTH.replace(f"{UP}, ", "")], "(changed `both`)", ALL),
    ],
)  # fmt: skip
def test_claims_changed_after_results_were_seen_are_told_until_they_are_as_first(
    claims, now, said, post_hoc
):
    warning, found = claimed(claims, now)
    assert said in warning and found == post_hoc
    assert claimed(claims, now) == (warning, found), "it is forgotten by the next run"
    assert claimed(claims, FIRST) == ("", set())
    assert claims.folder.manifest().first_plan is None


@pytest.mark.parametrize(
    "now",
    [
        [one.replace("says: ", "says: Perhaps ") for one in FIRST],
        FIRST[::-1],
        [*FIRST[:3], re.sub(r"\[(.*), (\{.*)\]", r"[\2, \1]", BOTH)],
        [*FIRST[:2], HIGH.replace("40", "40.0"), BOTH],
        [FASTER.replace("id: faster", "id: quicker"), *FIRST[1:]],
    ],
    ids=["says", "order", "order of expectations", "a number's form", "id"],
)
def test_what_tests_the_same_is_no_change(claims, now):
    assert now != FIRST and claimed(claims, now) == ("", set())


def test_claims_that_are_first_made_after_results_were_seen_are_post_hoc(toy):
    warning, post_hoc = claimed(toy, [FASTER])
    assert "claims were changed after results were seen (added `faster`)" in warning
    assert post_hoc == {"faster"}


def test_claims_may_be_changed_before_two_seeds_have_results(toy):
    for path in toy.folder.path.glob("*--s1/outcome.json"):
        path.unlink()
    assert claimed(toy, FIRST) == ("", set())


@pytest.mark.parametrize("between", [FIRST, [NEW]])
def test_claims_may_be_changed_where_all_trials_have_changed(claims, between):
    claimed(claims, between)
    claims.edit("{rate: 1}", "{rate: 3}")
    claims.edit("{rate: 2}", "{rate: 4}")
    assert claimed(claims, [FASTER]) == ("", set())


def test_seeds_and_claims_are_of_one_plan_and_each_comes_back_alone(claims):
    claims.edit("[0, 1]", "[0, 1, 2]")
    warning, post_hoc = claimed(claims, [*FIRST, NEW])
    first = claims.folder.manifest().first_plan
    assert "added `new`" in warning and post_hoc == {"new"}
    assert "(first 2 seeds, now 3 seeds)" in changed_seeds(claims.folder.manifest())
    assert claimed(claims, FIRST) == ("", set())
    assert "(first 2 seeds, now 3 seeds)" in changed_seeds(claims.folder.manifest())
    assert claims.folder.manifest().first_plan == first
    claims.edit("[0, 1, 2]", "[0, 1]")
    assert "added `new`" in claimed(claims, [*FIRST, NEW])[0]
    assert changed_seeds(claims.folder.manifest()) == ""
    assert claimed(claims, FIRST) == ("", set())
    assert claims.folder.manifest().first_plan is None


def test_a_manifest_of_an_earlier_version_has_its_first_seeds_and_no_first_claims(claims):
    path = claims.folder.path / "study.json"
    raw = json.loads(path.read_text())
    del raw["first_plan"]
    path.write_text(json.dumps(raw))
    assert claims.folder.manifest().first_plan is None
    for none, given in [({}, ""), ({"looks": [], "seeds": [0]}, "(first 1 seed, now 2 seeds)")]:
        path.write_text(json.dumps({**raw, "first_seeds": none}))
        manifest = claims.folder.manifest()
        assert given in changed_seeds(manifest) and bool(given) == bool(changed_seeds(manifest))
        assert told(claims) == ("", set())
    claims.go()
    assert "first_seeds" not in json.loads(path.read_text())
    assert "(first 1 seed, now 2 seeds)" in changed_seeds(claims.folder.manifest())


@pytest.mark.parametrize(
    "damage",
    [
        {"first_plan": {"looks": [], "seeds": []}},
        {"first_plan": {"looks": [], "seeds": [], "claims": [3]}},
        {"first_plan": {"looks": [], "seeds": [], "claims": [], "arms": {"reference": 3}}},
        {"first_seeds": {"seeds": []}},
        {"first_seeds": [3]},
    ],
)
def test_a_first_plan_that_cannot_be_is_damage(toy, damage):
    path = toy.folder.path / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(Damaged, match="is damaged"):
        toy.folder.manifest()


def test_the_end_of_a_run_its_plan_and_its_report_tell_of_changed_claims(claims, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    warning, _ = claimed(claims, [*FIRST, NEW])
    said = Closing(claims.places, "toy").write()
    assert said[-1] == f"Warning: {warning}."
    report = claims.places.report("toy").joinpath("report.md").read_text()
    assert f"- Warning: {warning}." in report.partition("## ")[0]
    planned = PlannedStudy(claims.study(), "toy", claims.plan(), claims.places, claims.root / "no")
    assert planned.warnings == [warning]
    claimed(claims, FIRST)
    assert "Warning" not in " ".join(Closing(claims.places, "toy").write())


@pytest.mark.parametrize("fewer", ["1", "[7]"])
def test_a_run_of_other_seeds_in_between_makes_no_results_unseen(claims, fewer):
    claims.go(seeds=fewer)
    warning, _ = claimed(claims, [*FIRST, NEW])
    assert "(added `new`)" in warning


def rearmed(toy, before, after):
    """Runs the study with another grid; returns what its manifest says of effects and claims, and which are post hoc."""
    toy.edit(before, after)
    toy.go()
    manifest = toy.folder.manifest()
    return changed_effects(manifest), changed_claims(manifest), post_hoc_claims(manifest)


NONE = ("", "", set())


@pytest.mark.parametrize(
    ("before", "after", "effects", "of_claims"),
    [
        ("{rate: 2}", "{rate: 4}", "other arms for `warmup: two -> settling` and `rate: slow -> fast`", "`faster`, `settled`, `high` and `both`"),
        ("fast: {rate: 2}", "quick: {rate: 3}, fast: {rate: 2}", "other arms for `warmup: two -> settling`", "`settled`"),
        ("two: {warmup: 2}", "two: {warmup: 3}", "other arms for `warmup: two -> settling` and `rate: slow -> fast`", "`faster`, `settled`, `high` and `both`"),
        ("design: factorial", "design: one-factor", "other arms for `warmup: two -> settling` and `rate: slow -> fast`", "`settled`"),
        ("design: factorial", "design: factorial\narms: {mine: {warmup: 2, rate: 7}}", "", ""),
    ],
    ids=["settings", "another level of another factor", "settings of the reference", "design", "another arm"],
)  # fmt: skip
def test_arms_changed_after_results_were_seen_are_told_until_they_are_as_first(
    claims, before, after, effects, of_claims
):
    told = rearmed(claims, before, after)
    if not effects:
        assert told == NONE
        return
    assert f"effects were changed after results were seen ({effects})" in told[0]
    assert f"(other arms for {of_claims})" in told[1]
    # a test of the first plan is gone
    assert told[2] == ALL
    claims.go()
    manifest = claims.folder.manifest()
    assert (changed_effects(manifest), changed_claims(manifest)) == told[:2]
    assert rearmed(claims, after, before) == NONE
    assert manifest.first_plan is not None and claims.folder.manifest().first_plan is None


def test_an_arm_of_no_factor_that_is_changed_after_results_were_seen_is_told(toy):
    for path in [*toy.folder.path.glob("*/outcome.json"), toy.folder.path / "study.json"]:
        path.unlink()
    toy.edit("design: factorial", "design: factorial\narms: {mine: {warmup: 2, rate: 7}}")
    mine = FASTER.replace("rate=fast", "mine")
    assert claimed(toy, [mine, SETTLED]) == ("", set())
    effects, warning, post_hoc = rearmed(toy, "rate: 7}", "rate: 9}")
    assert (
        effects == ""
        and "(other arms for `faster`)" in warning
        and post_hoc == {"faster", "settled"}
    )
    assert rearmed(toy, "rate: 9}", "rate: 7}") == NONE


def test_effects_taken_away_or_of_another_reference_are_told(toy):
    """Of fewer effects, Holm's correction is weaker."""
    toy.edit("design: factorial", "design: one-factor")
    toy.edit("{rate: 2}", "{rate: 2}, faster: {rate: 4}")
    for path in [*toy.folder.path.glob("*/outcome.json"), toy.folder.path / "study.json"]:
        path.unlink()
    toy.go()
    told = rearmed(toy, ", faster: {rate: 4}", "")
    assert "(removed `rate: slow -> faster`)" in told[0] and told[1:] == ("", set())
    assert rearmed(toy, "{rate: 2}", "{rate: 2}, faster: {rate: 4}") == NONE
    levels = "slow: {rate: 1}, fast: {rate: 2}"
    told = rearmed(toy, levels, "fast: {rate: 2}, slow: {rate: 1}")
    assert "removed `rate: slow -> fast` and `rate: slow -> faster`" in told[0]
    assert "other arms for `warmup: two -> settling`" in told[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("fast: {rate: 2}", "quick: {rate: 2}"),
        ("{rate: 2}", "{rate: 2, note: default}"),
    ],
    ids=["its name alone", "what sets nothing new"],
)
def test_arms_that_train_the_same_are_no_change(toy, before, after, monkeypatch):
    monkeypatch.setattr(
        toy.subject, "resolve", lambda settings: {k: v for k, v in settings.items() if k != "note"}
    )
    assert rearmed(toy, before, after) == NONE


def test_a_level_and_its_claims_may_be_given_another_name(claims):
    claims.edit("fast: {rate: 2}", "quick: {rate: 2}")
    renamed = [claim.replace("rate=fast", "rate=quick") for claim in FIRST]
    assert claimed(claims, renamed) == ("", set())


@pytest.mark.parametrize("are_claims_changed", [False, True])
def test_an_arm_may_be_changed_before_it_has_results_of_two_seeds(claims, are_claims_changed):
    for path in claims.folder.path.glob("*rate=fast--s1/outcome.json"):
        path.unlink()
    claims.edit("{rate: 2}", "{rate: 4}")
    new = [NEW] if are_claims_changed else []
    warning, _ = claimed(claims, [*FIRST, *new])
    assert ("(added `new`)" in warning) == are_claims_changed and "other arms" not in warning
    assert changed_effects(claims.folder.manifest()) == ""
    # now it has them, with the settings that it was given then
    claims.edit("{rate: 4}", "{rate: 5}")
    claimed(claims, FIRST)
    assert "other arms for" in changed_effects(claims.folder.manifest())
    assert rearmed(claims, "{rate: 5}", "{rate: 4}") == NONE


def test_an_arm_that_has_results_only_after_claims_were_changed_is_told_too(claims):
    for path in claims.folder.path.glob("*rate=fast--s1/outcome.json"):
        path.unlink()
    claimed(claims, [*FIRST, NEW])
    claimed(claims, FIRST)
    assert "other arms for" in rearmed(claims, "{rate: 2}", "{rate: 4}")[0]


def test_a_first_plan_of_an_earlier_version_has_the_arms_of_now(claims):
    claimed(claims, [*FIRST, NEW])
    path = claims.folder.path / "study.json"
    raw = json.loads(path.read_text())
    del raw["first_plan"]["arms"], raw["first_plan"]["levels"]
    path.write_text(json.dumps(raw))
    manifest = claims.folder.manifest()
    assert "(added `new`)" in changed_claims(manifest) and changed_effects(manifest) == ""


def forgotten(toy, kept):
    """The study's manifest is removed; of its trials, the outcomes alone or their epochs in the cache stay."""
    toy.folder.path.joinpath("study.json").unlink()
    if kept == "outcomes":
        toy.store.clear()
    else:
        for path in toy.folder.path.glob("*/outcome.json"):
            path.unlink()


@pytest.mark.parametrize("kept", ["outcomes", "epochs"])
def test_claims_on_trials_that_were_complete_before_they_were_made_are_told_so(
    toy, kept, monkeypatch
):
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    forgotten(toy, kept)
    toy.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    claimed(toy, FIRST)
    claimed(toy, FIRST)
    assert toy.folder.manifest().known_trials == 8
    Closing(toy.places, "toy").write()
    report = toy.places.report("toy").joinpath("report.md").read_text()
    assert "8 of the trials were complete before this study was first planned" in report


def test_claims_on_trials_of_one_seed_were_made_before_results(toy):
    forgotten(toy, "epochs")
    toy.edit("seeds: [0, 1]", "seeds: [1, 2]")
    claimed(toy, FIRST)
    assert toy.folder.manifest().known_trials == 0


def of_seeds(toy, chosen):
    """Runs these seeds; returns what the manifest says of them, and which claims are post hoc."""
    toy.go(seeds=chosen)
    manifest = toy.folder.manifest()
    return partial_seeds(manifest), post_hoc_claims(manifest)


def test_verdicts_on_some_of_the_planned_seeds_are_told_and_post_hoc_where_others_are_known(claims):
    """Of five seeds, there are two that show whatever is liked."""
    claims.edit("[0, 1]", "5")
    assert of_seeds(claims, "1") == ("", set()), "of one seed, nothing is tested"
    warning, post_hoc = of_seeds(claims, "2")
    assert warning.startswith("2 of 5 planned seeds are counted: p-values") and post_hoc == set()
    assert "first 2 seeds, now 5 seeds" in changed_seeds(claims.folder.manifest())
    assert of_seeds(claims, None) == ("", set())
    warning, post_hoc = of_seeds(claims, "[1, 2]")
    assert "and results that are known are left out (seeds 0, 3 and 4)" in warning
    assert post_hoc == ALL and warning in plan_warnings(claims.folder.manifest())
    assert of_seeds(claims, None) == ("", set())


def test_a_seed_that_failed_is_not_left_out_without_a_word(claims, monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    claims.edit("[0, 1]", "3")
    claims.go()
    outcome = claims.folder.outcome("rate=fast--s2")
    failed = replace(outcome, state="FAILED", error=failure("Diverged", "loss is nan"))
    claims.folder.write_outcome("rate=fast--s2", failed)
    for path in claims.folder.path.glob("*--s2/outcome.json"):
        if path.parent.name != "rate=fast--s2":
            path.unlink()
    warning, post_hoc = of_seeds(claims, "2")
    assert "results that are known are left out (seed 2)" in warning and post_hoc == ALL
    Closing(claims.places, "toy").write()
    assert warning in claims.places.report("toy").joinpath("report.md").read_text()
    assert (
        other_seeds(claims.folder)
        == "1 more trial (seed 2; 1 failed) is there; --seeds 3 includes it"
    )


def test_seeds_of_code_that_has_changed_since_are_not_left_out(claims, monkeypatch):
    claims.edit("[0, 1]", "3")
    claims.go()
    chain = claims.subject.chain
    monkeypatch.setattr(
        claims.subject,
        "chain",
        lambda *asked: [link._replace(key=f"new {link.key}") for link in chain(*asked)],
    )
    warning, post_hoc = of_seeds(claims, "2")
    assert warning.startswith("2 of 3 planned seeds are counted: p-values") and post_hoc == set()


def test_some_of_the_planned_seeds_are_no_change_of_the_plan(toy):
    """Another two seeds would be, of a plan of two."""
    toy.folder.path.joinpath("study.json").unlink()
    toy.edit("[0, 1]", "5")
    for chosen in ("2", "2", "3"):
        toy.go(seeds=chosen)
        assert toy.folder.manifest().first_plan is None


def test_results_of_other_versions_of_the_code_are_told(claims, monkeypatch):
    """Code that is changed until a claim holds gives it by chance in the end."""
    chain = claims.subject.chain

    def of_code(code, settings, seed, records):
        links = chain(settings, seed, lambda key: records(f"{code} {key}"))
        return [link._replace(key=f"{code} {link.key}") for link in links]

    def runs_with(code, stop_after=float("inf")):
        monkeypatch.setattr(claims.subject, "describe", lambda settings: {SOURCE: code})
        # trials of other code are other trials
        monkeypatch.setattr(claims.subject, "chain", lambda *asked: of_code(code, *asked))
        claimed(claims, FIRST, stop_after)
        return claims.folder.manifest().earlier_code

    assert runs_with("a") == []
    assert runs_with("b") == ["a"]
    assert runs_with("b") == ["a"]
    # one that is mended before there are results of two seeds is none
    assert runs_with("c", stop_after=12) == ["a", "b"]
    assert {name[-1] for name in claims.folder.complete()} == {"0"}
    assert runs_with("d") == ["a", "b"]
    # as it was
    assert runs_with("a") == ["b", "d"]
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    Closing(claims.places, "toy").write()
    report = claims.places.report("toy").joinpath("report.md").read_text()
    assert "Results of 2 other versions of its code were seen before those of this one" in report
