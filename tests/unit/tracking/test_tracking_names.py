"""What MLflow would refuse is changed so that it fits, and distinct names stay distinct."""

import logging
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    path_not_unique,
    validate_param_and_metric_name,
)

from ablation.storage import files
from ablation.tracking.mlflow_content import (
    MAX_NAME,
    MAX_PARAM,
    MAX_TAG,
    fitted_labels,
    fitted_name,
    fitted_text,
)


@pytest.fixture(autouse=True)
def unsaid():
    files.warn_once.cache_clear()


@pytest.mark.parametrize(
    "name", ["loss", "val/loss", ".a", "a/..b", "acc 1.5_é-x", "a:b", "m" * MAX_NAME, "Loss"]
)
def test_a_name_that_mlflow_takes_stays_as_it_is(name):
    assert fitted_name(name) == name


CHANGED = {
    "loss/": "loss",
    "val//loss": "val/loss",
    "/x": "x",
    ".": "",
    "..": "",
    "": "",
    "///": "",
    "a/./b": "a/b",
    "../a": "a",
    "..a": "a",
    "acc@1 (%)": "acc_1 ___",
    "acc@0.5": "acc_0.5",
    "a\n": "a_",
    "a\\b": "a_b",
    "\ud800x": "_x",
}


@pytest.mark.parametrize(("name", "kept"), CHANGED.items())
def test_any_other_name_keeps_what_mlflow_takes_and_ends_in_a_digest(name, kept):
    fitted = fitted_name(name)
    assert fitted[:-8] == f"{kept}-" and int(fitted[-8:], 16) >= 0


@pytest.mark.parametrize("length", [MAX_NAME + 1, 300, 5000])
def test_a_long_name_is_cut_and_ends_in_a_digest(length):
    fitted = fitted_name("m" * length)
    assert len(fitted) == MAX_NAME and fitted.startswith("mmm") and fitted[-9] == "-"


NAMES = st.lists(
    st.text(alphabet="ab/._@A é\ud800", max_size=6) | st.text(max_size=400), max_size=8, unique=True
)


@given(NAMES)
@example(["loss/", "loss"])
@example(["val//loss", "val/loss", "/val/loss"])
@example(["a@", "a#", ".", "_"])
@example(["m" * 300, "m" * 301, "m" * 250, "m" * 251])
@example(["m" * 249 + "/", "m" * 249 + "//"])
@example(["a" * 240 + "/" + "b" * 20, "a" * 240 + "//" + "b" * 20])
def test_mlflow_takes_every_fitted_name_and_no_two_are_the_same(names):
    fitted = [fitted_name(name) for name in names]
    assert len(set(fitted)) == len(names)
    for name in fitted:
        assert (
            validate_param_and_metric_name(name)
            and not path_not_unique(name)
            and len(name) <= MAX_ENTITY_KEY_LENGTH
        )


def test_what_is_changed_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "ablation"):
        for _ in range(2):
            texts = {"loss/": "", "a@": "", "x//y": "", "z//y": "", "good": "v" * 7000}
            fitted_labels("setting", texts, MAX_PARAM)
    names, text = (record.getMessage() for record in caplog.records)
    pattern = (
        "names of settings that MLflow does not take are changed there: 'a@' is 'a_-[0-9a-f]{8}', "
        "'loss/' is 'loss-[0-9a-f]{8}', 'x//y' is 'x/y-[0-9a-f]{8}', and 1 more"
    )
    assert re.fullmatch(pattern, names)
    assert text == (
        "setting 'good' has more than the 6000 characters that MLflow takes; "
        "it is shortened there, and whole in the study's files"
    )


@pytest.mark.parametrize("limit", [MAX_NAME, MAX_PARAM, MAX_TAG])
def test_texts_are_shortened_to_the_limit_and_stay_distinct(limit):
    texts = ["v" * limit, "v" * (limit + 1), "v" * (limit + 2), "v" * (limit + 1) + "w"]
    fitted = [fitted_text(text, limit, "it") for text in texts]
    assert (
        fitted[0] == texts[0]
        and len(set(fitted)) == 4
        and {len(text) for text in fitted} == {limit}
    )
    assert [fitted_text(text, limit, "it") for text in fitted] == fitted


@pytest.mark.parametrize(
    ("text", "fitted"),
    [("a\ud800b", "a\\ud800b"), ("\udcff", "\\udcff"), ("a\0b", "a\\0b"), ("é ✓", "é ✓")],
)
def test_texts_hold_what_every_database_can_hold(text, fitted):
    assert fitted_text(text, 100, "it") == fitted
