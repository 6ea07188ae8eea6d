"""What training functions return and report is kept, or refused by name; what their signature tells, before anything runs."""

import contextlib
import enum
import fractions
import math
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_trials import MemoryStore

from ablation import interruption
from ablation.errors import InputError
from ablation.storage.runs import TrialSpec, expanded, outcome_of
from ablation.subject.loading import FunctionSubject, load_subject, plain_metrics
from ablation.subject.own import Place


@pytest.fixture(autouse=True)
def unversioned(monkeypatch) -> None:
    """To read what this file imports takes a second each time."""
    for name in ("project_sources", "library_versions"):
        monkeypatch.setattr(f"ablation.subject.loading.{name}", lambda of: {})


def record_of(train):
    """The record of a trial of the function."""
    subject, store = FunctionSubject(train), MemoryStore()
    (link,) = subject.chain({}, 0, lambda key: None)
    subject.advance({}, 0, link.key, store, lambda key, record: None, Place("a", Path("work")))
    return store.record(link.key)


def points(record):
    """Epoch -> metrics, as they come to metrics.jsonl, history.csv and MLflow; each epoch once, in their order."""
    found = [(entry["epoch"], entry["metrics"]) for entry in expanded([record])]
    assert [epoch for epoch, _ in found] == sorted({epoch for epoch, _ in found})
    return dict(found)


def returning(value):
    return lambda config, seed, report: value


def reporting(*calls, returns=MappingProxyType({"acc": 1.0})):
    def train(config, seed, report):
        for epoch, metrics in calls:
            report(epoch, metrics)
        return returns

    return train


class Name(str, enum.Enum):  # noqa: UP042  str() of a StrEnum is its value, of this one it is not
    ACC = "acc"


NUMBERS = {
    "an int": (3, 3.0),
    "a bool": (True, 1.0),
    "NaN": (math.nan, math.nan),
    "infinity": (-math.inf, -math.inf),
    "of NumPy": (np.float32(0.5), 0.5),
    "a bool of NumPy": (np.bool_(True), 1.0),
    "an array of no dimension": (np.array(0.5), 0.5),
    "an array of one element": (np.array([[0.5]]), 0.5),
    "a tensor of no dimension": (torch.tensor(0.5), 0.5),
    "a tensor of one element": (torch.tensor([0.5], requires_grad=True), 0.5),
    "a tensor of a short type": (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    "a series of one element": (pd.Series([0.5]), 0.5),
    "a decimal": (Decimal("0.5"), 0.5),
    "a fraction": (fractions.Fraction(1, 2), 0.5),
}


@pytest.mark.parametrize(("given", "kept"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_all_kinds_are_kept_whether_returned_or_reported(given, kept):
    record = record_of(reporting((1, {"loss": given}), (2, {}), returns={"acc": given}))
    assert points(record) == {
        1: {"loss": pytest.approx(kept, nan_ok=True)},
        2: {"acc": pytest.approx(kept, nan_ok=True)},
    }


NO_NUMBERS = {
    "a list": ([1, 2], r"'acc' = \[1, 2\] \(list\)"),
    "a list of one": ([1], r"'acc' = \[1\] \(list\)"),
    "text": ("0.5", r"'acc' = '0.5' \(str\)"),
    "text of NumPy": (np.array("0.5"), r"'acc' = array\('0.5'.*\(ndarray\)"),
    "bytes": (b"1", r"'acc' = b'1' \(bytes\)"),
    "nothing": (None, r"'acc' = None \(NoneType\)"),
    "a dict": ({"top1": 1}, r"'acc' = \{'top1': 1\} \(dict\)"),
    "a tensor": (torch.zeros(3), r"'acc' = tensor\(\[0., 0., 0.\]\) \(Tensor\)"),
    "an empty array": (np.zeros(0), r"'acc' = array\(\[\].*\(ndarray\)"),
    "a complex number": (1j, r"'acc' = 1j \(complex\)"),
    "a number that no float can hold": (10**400, r"'acc' = 1000.*\(int\)"),
    "a function": (len, r"'acc' = <built-in function len> \(builtin_function_or_method\)"),
}


@pytest.mark.parametrize(("given", "said"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_is_refused_with_its_name_and_what_it_is(given, said):
    with pytest.raises(TypeError, match=rf"^train returned {said}; a metric is one number$"):
        record_of(reporting(returns={"loss": 1, "acc": given}))
    with pytest.raises(
        TypeError, match=rf"^for epoch 3, report got {said}; a metric is one number$"
    ):
        record_of(reporting((3, {"acc": given})))


async def coroutine():
    return {"acc": 1}


NO_METRICS = {
    "nothing": (None, "None"),
    "a number": (0.5, r"0.5 \(float\)"),
    "a tensor": (torch.tensor(1.0), r"tensor\(1.\) \(Tensor\)"),
    "pairs": ([("acc", 1)], r"\[\('acc', 1\)\] \(list\)"),
    "a tuple": ((0.5, 0.1), r"\(0.5, 0.1\) \(tuple\)"),
    "text": ("acc: 1", r"'acc: 1' \(str\)"),
    "a generator": (({"acc": n} for n in range(3)), r"<generator .*> \(generator\)"),
    "a table": (pd.Series({"acc": 1}), r"acc +1.*\(Series\)"),
}


@pytest.mark.parametrize(("given", "said"), NO_METRICS.values(), ids=NO_METRICS)
def test_what_is_no_dict_of_metrics_is_refused_with_what_it_is(given, said):
    with pytest.raises(
        TypeError, match=rf"(?s)^<lambda> returned {said}; metrics are a dict, name -> number$"
    ):
        record_of(returning(given))
    with pytest.raises(
        TypeError, match=rf"(?s)^for epoch 1, report got {said}; metrics are a dict"
    ):
        record_of(reporting((1, given)))


def test_a_function_that_has_reported_may_return_nothing():
    calls = (1, {"acc": 1, "loss": 3}), (2, {"acc": 2})
    record = record_of(reporting(*calls, returns=None))
    assert record["metrics"] == {"acc": 2}
    assert points(record) == points(record_of(reporting(*calls, returns={})))


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_refused_without_a_warning_that_it_was_never_awaited():
    with pytest.raises(
        TypeError, match=r"^<lambda> returned <coroutine .*> \(coroutine\); metrics are a dict"
    ):
        record_of(lambda config, seed, report: coroutine())


def test_a_value_of_several_lines_is_told_on_one():
    with pytest.raises(TypeError) as error:
        plain_metrics({"acc": np.zeros((3, 3))}, "train returned")
    assert "\n" not in str(error.value) and "(ndarray)" in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (1, r"1 \(int\)"),
        (None, r"None \(NoneType\)"),
        (("test", "acc"), r"\('test', 'acc'\) \(tuple\)"),
        (b"acc", r"b'acc' \(bytes\)"),
    ],
)
def test_names_of_metrics_that_are_no_text_are_refused(name, said):
    with pytest.raises(
        TypeError, match=rf"^train returned a metric called {said}; names are text$"
    ):
        record_of(reporting(returns={"acc": 1, name: 2}))
    with pytest.raises(TypeError, match=rf"^for epoch 0, report got a metric called {said}"):
        record_of(reporting((0, {name: 2})))


def test_names_that_are_text_of_a_kind_are_kept():
    assert record_of(returning({Name.ACC: 1, np.str_("loss"): 2}))["metrics"] == {
        "acc": 1.0,
        "loss": 2.0,
    }


@pytest.mark.parametrize(
    ("epoch", "kept"),
    [(0, 0), (3.0, 3), (np.int64(3), 3), (torch.tensor(3), 3), (np.array([3.0]), 3)],
)
def test_whole_epochs_of_all_kinds_are_kept(epoch, kept):
    assert points(record_of(reporting((epoch, {"acc": 2, "loss": 1})))) == {
        kept: {"acc": 1.0, "loss": 1.0}
    }


@pytest.mark.parametrize(
    "epoch",
    [
        0.25,
        1.5,
        -1,
        -0.5,
        np.float32(0.5),
        torch.tensor(-2),
        math.nan,
        math.inf,
        "1",
        None,
        True,
        [1],
        1e300,
    ],
)
def test_other_epochs_are_refused(epoch):
    with pytest.raises(
        ValueError,
        match=rf"^report got epoch .* \({type(epoch).__name__}\); epochs are whole numbers from 0$",
    ):
        record_of(reporting((epoch, {"acc": 1})))


LAST = {
    "fewer are returned": (
        [(1, {"acc": 1, "loss": 9}), (2, {"acc": 2, "loss": 8})],
        {"acc": 2},
        {1: {"acc": 1, "loss": 9}, 2: {"acc": 2, "loss": 8}},
    ),
    "others are returned": ([(2, {"loss": 8})], {"acc": 2}, {2: {"acc": 2, "loss": 8}}),
    "none is returned": ([(1, {"acc": 1}), (2, {"acc": 2})], {}, {1: {"acc": 1}, 2: {"acc": 2}}),
    "what is returned stands for what was reported": (
        [(1, {"acc": 1}), (2, {"acc": 2})],
        {"acc": 3},
        {1: {"acc": 1}, 2: {"acc": 3}},
    ),
    "an epoch in parts": (
        [(1, {"loss": 9}), (1, {"acc": 1}), (2, {"loss": 8}), (2, {"f1": 5})],
        {"acc": 2},
        {1: {"loss": 9, "acc": 1}, 2: {"loss": 8, "f1": 5, "acc": 2}},
    ),
    "an epoch again": (
        [(1, {"acc": 1}), (1, {"acc": 4}), (2, {"acc": 2})],
        {"acc": 2},
        {1: {"acc": 4}, 2: {"acc": 2}},
    ),
    "the last epoch again": (
        [(1, {"acc": 1}), (2, {"acc": 2, "loss": 8}), (2, {"loss": 7})],
        {},
        {1: {"acc": 1}, 2: {"acc": 2, "loss": 7}},
    ),
    "epochs in no order": (
        [(2, {"acc": 2, "loss": 8}), (1, {"acc": 1}), (0, {"acc": 0})],
        {"acc": 3},
        {0: {"acc": 0}, 1: {"acc": 1}, 2: {"acc": 3, "loss": 8}},
    ),
    "one epoch alone": ([(0, {"loss": 8})], {"acc": 2}, {0: {"acc": 2, "loss": 8}}),
}


@pytest.mark.parametrize(("calls", "returns", "kept"), LAST.values(), ids=LAST)
def test_of_each_epoch_all_that_was_reported_is_kept_once_and_the_last_value_counts(
    calls, returns, kept
):
    assert points(record_of(reporting(*calls, returns=returns))) == kept


def test_what_is_reported_is_kept_as_it_was_then():
    metrics, running = {"acc": 1.0}, np.array([5.0])

    def train(config, seed, report):
        report(1, {**metrics, "loss": running})
        running[:] = 0
        report(2, metrics)
        return metrics

    assert points(record_of(train))[1] == {"acc": 1.0, "loss": 5.0}


@pytest.mark.parametrize("returns", [{}, {"loss": 1}, {"loss": 1, "Acc": 2}])
def test_a_trial_without_the_primary_metric_at_its_end_fails_and_says_what_there_is(returns):
    spec = TrialSpec(
        trial="a--s0",
        arm="a",
        kind="arm",
        levels={},
        seed=0,
        settings={},
        epochs_planned=1,
        epochs_trained=1,
        epochs_shared=0,
        key="k",
    )
    outcome = outcome_of(
        spec,
        [record_of(reporting((1, {"acc": 1}), (2, {}), returns=returns))],
        {"name": "acc", "goal": "maximize"},
    )
    assert (outcome.state, outcome.error["type"]) == ("FAILED", "MissingMetric")
    assert (
        outcome.error["message"]
        == f"the last record does not hold the metric 'acc'; it holds {', '.join(sorted(returns)) or 'none'}"
        "; epoch 1 does: report it for the last epoch, too, or return it"
    )


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("goal", "best"), [("maximize", 3.0), ("minimize", 2.0)])
def test_the_best_epoch_is_one_with_a_finite_value_wherever_the_others_stand(odd, goal, best):
    spec = TrialSpec(
        trial="a--s0",
        arm="a",
        kind="arm",
        levels={},
        seed=0,
        settings={},
        epochs_planned=1,
        epochs_trained=1,
        epochs_shared=0,
        key="k",
    )
    for values in ((odd, 3, 2), (3, odd, 2), (2, odd, 3)):
        record = record_of(
            reporting(*((epoch, {"acc": value}) for epoch, value in enumerate(values)), returns={})
        )
        assert outcome_of(spec, [record], {"name": "acc", "goal": goal}).metrics["best/acc"] == best


def test_what_is_reported_once_the_function_has_returned_is_refused():
    kept = []
    record_of(lambda config, seed, report: kept.append(report) or {"acc": 1})
    with pytest.raises(RuntimeError, match="^report can be called while the function runs"):
        kept[0](1, {"acc": 1})


def test_a_function_that_goes_on_after_it_was_asked_to_stop_leaves_nothing(monkeypatch):
    def train(config, seed, report):
        with contextlib.suppress(BaseException):
            report(1, {"acc": 1})
        return {"acc": 1}

    monkeypatch.setattr(interruption, "requested", lambda: True)
    with pytest.raises(interruption.Interrupted):
        record_of(train)


# --- told by the signature

SIGNATURES = {
    "async def train(config, seed, report): ...": "is an async function, which returns no metrics when it is called; call asyncio.run in a plain one",
    "def train(config, seed, report): yield": "is a generator function: it yields, and returns no metrics when it is called; call report(epoch, metrics) instead",
    "async def train(config, seed, report): yield": "is a generator function: it yields, and returns no metrics when it is called; call report(epoch, metrics) instead",
    "def train(): ...": "is called with (config, seed, report), and takes ()",
    "def train(config, seed): ...": "is called with (config, seed, report), and takes (config, seed)",
    "def train(config: dict, seed: int, report, device) -> dict: ...": "is called with (config, seed, report), and takes (config, seed, report, device)",
    "def train(config, *, seed, report): ...": "is called with (config, seed, report), and takes (config, *, seed, report)",
    "def train(config, seed, report, *, device): ...": "is called with (config, seed, report), and takes (config, seed, report, *, device)",
    "def train(**config): ...": "is called with (config, seed, report), and takes (**config)",
    "train = lambda config: None": "is called with (config, seed, report), and takes (config)",
    "class train: ...": "is a class; name a function, or an instance that is a subject",
    "class train:\n    def __init__(self, config, seed, report): ...": "is a class; name a function, or an instance that is a subject",
    "class train:\n    check = chain = advance = print": "is a class; name a function, or an instance that is a subject",
    "import functools\ntrain = functools.partial(print, 1)": "is neither a function nor a subject",
    "train = 3": "is neither a function nor a subject",
}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that no other test has imported; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"signs_{tmp_path.name.replace('-', '_')}"
    return lambda text: (tmp_path / f"{name}.py").write_text(text) and name


@pytest.mark.parametrize(("text", "said"), SIGNATURES.items())
def test_what_could_not_be_called_is_told_before_anything_runs(module, text, said):
    name = module(text)
    with pytest.raises(InputError) as error:
        load_subject(f"{name}:train")
    assert [problem.message for problem in error.value.problems] == [f"'{name}:train' {said}"]


CALLABLE = [
    "def train(config, seed, report): ...",
    "def train(settings, number, tell, device='cpu', *, fast=True): ...",
    "def train(*args): ...",
    "def train(config, *rest, **more): ...",
    "train = lambda c, s, r: {}",
    "import functools\ndef given(f): return functools.wraps(f)(lambda *args: f(args[0]))\n@given\ndef train(config): ...",
]


@pytest.mark.parametrize("text", CALLABLE)
def test_what_can_be_called_is_taken(module, text):
    assert isinstance(load_subject(f"{module(text)}:train"), FunctionSubject)
