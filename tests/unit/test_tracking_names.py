"""What MLflow would refuse is changed so that it fits, and distinct names stay distinct."""

import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    path_not_unique,
    validate_param_and_metric_name,
)

from ablation import damage
from ablation.tracking_names import MAX_NAME, MAX_PARAM, MAX_TAG, Names, fitted_text, fitted_texts

SQLITE, FILES, SERVER = "sqlite:///mlflow.db", "/some/mlruns", "http://localhost:5000"


@pytest.fixture(autouse=True)
def unsaid():
    damage.say.cache_clear()


def called(*names: str, uri: str = SQLITE) -> dict[str, str]:
    return dict(Names.fitted("metrics", names, uri).known)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("loss", "loss"), ("val/loss", "val/loss"), ("loss/", "loss"), ("val//loss", "val/loss"), ("/x", "x"), (".", "_"), ("..", "__"),
        ("a/./b", "a/_/b"), ("../a", "__/a"), ("..a", "__a"), ("...", "__."), (".a", ".a"), ("a/..b", "a/..b"), ("", "_"), ("///", "_"), ("acc@1 (%)", "acc_1 ___"), ("a\n", "a_"), ("a\\b", "a_b"), ("\ud800x", "_x"),
    ],
)  # fmt: skip
def test_a_name_keeps_all_that_mlflow_takes(name, plain):
    assert called(name) == {name: plain}


@pytest.mark.parametrize("length", [MAX_NAME + 1, 300, 5000])
def test_a_long_name_is_cut_and_ends_in_a_digest(length):
    (fitted,) = called("m" * length).values()
    assert len(fitted) == MAX_NAME and fitted.startswith("mmm") and fitted[-9] == "-"


CLASHES = [
    ("loss/", "loss"),
    ("val//loss", "val/loss", "/val/loss"),
    ("a@", "a#"),
    (".", "_"),
    ("m" * 300, "m" * 301),
    ("m" * 250, "m" * 251),
]


@pytest.mark.parametrize("names", CLASHES)
def test_names_that_would_be_called_the_same_stay_distinct_and_one_that_fits_stays_as_it_is(names):
    fitted = called(*names)
    assert len(set(fitted.values())) == len(names)
    assert all(
        fitted[name] == name for name in names if name in ("loss", "val/loss", "_", "m" * 250)
    )
    assert called(*reversed(names)) == fitted


@pytest.mark.parametrize("names", [("loss", "Loss"), ("ACC", "acc", "Acc"), ("É", "é")])
@pytest.mark.parametrize(
    "uri", [SQLITE, "postgresql://db/mlflow", SERVER, "mysql+pymysql://db/mlflow", FILES]
)
def test_names_that_differ_by_case_alone_stay_distinct_for_a_store_that_does_not_tell_them_apart(
    names, uri
):
    fitted = called(*names, uri=uri)
    if uri in (SQLITE, "postgresql://db/mlflow"):
        assert fitted == {name: name for name in names}
    else:
        assert len({name.casefold() for name in fitted.values()}) == len(names)


@pytest.mark.parametrize(
    "names", [("loss", "loss/train"), ("a", "a/b", "a/b/c"), ("x/y", "x/y/z", "x")]
)
def test_a_file_store_has_no_metric_where_it_has_a_folder(names):
    fitted = called(*names, uri=FILES)
    assert not any(
        other.startswith(f"{name}/") for name in fitted.values() for other in fitted.values()
    )
    assert called(*names) == {name: name for name in names}


NAMES = st.lists(
    st.text(alphabet="ab/._@A é\ud800", max_size=6) | st.text(max_size=400), max_size=8, unique=True
)


@given(NAMES, st.sampled_from([SQLITE, FILES, SERVER]))
@example(["m" * 249 + "/", "m" * 249 + "//"], SQLITE)
@example(["a" * 240 + "/" + "b" * 20, "a" * 240 + "//" + "b" * 20], SQLITE)
def test_mlflow_takes_every_fitted_name_and_no_two_are_the_same(names, uri):
    fitted = list(called(*names, uri=uri).values())
    assert len(set(fitted)) == len(fitted) == len(names)
    for name in fitted:
        assert (
            validate_param_and_metric_name(name)
            and not path_not_unique(name)
            and len(name) <= MAX_ENTITY_KEY_LENGTH
        )


def test_what_is_changed_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "ablation"):
        for _ in range(2):
            called("loss/", "a@", "x//y", "z//y", "good")
            fitted_texts("setting", {"long": "v" * 7000, "short": "v"}, MAX_PARAM)
    assert [record.getMessage() for record in caplog.records] == [
        "names of metrics that MLflow does not take are changed there: 'a@' is 'a_', 'loss/' is 'loss', 'x//y' is 'x/y', and 1 more",
        "setting 'long' has more than the 6000 characters that MLflow takes; it is shortened there, and whole in the study's files",
    ]


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
