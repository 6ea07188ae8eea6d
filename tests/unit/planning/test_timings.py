"""What epochs took is remembered for the settings under which it was measured."""

import json

import pytest

from ablation.planning.forecast import SEGMENT, START, Timings


@pytest.fixture
def measured(tmp_path):
    """Measures one epoch of joint training, and says what is then known under each settings."""

    def measure(settings: dict, seconds: float, phase: str = "joint") -> None:
        timings = Timings(tmp_path / "timings.json", "digits", settings)
        timings.recorded([], {"phase": phase, "seconds": seconds})
        timings.save()

    measure.known = lambda settings, experiment="digits": Timings(
        tmp_path / "timings.json", experiment, settings
    ).known()
    return measure


def test_a_phase_takes_the_mean_of_its_epochs(tmp_path):
    timings = Timings(tmp_path / "timings.json", "digits", {})
    for seconds in (1.0, 2.0, 6.0):
        timings.recorded([], {"phase": "joint", "seconds": seconds})
    for is_first, seconds in ((True, 4.0), (False, 0.5), (True, 5.0)):
        timings.ran(is_first, seconds)
    assert timings.known() == {"joint": 3.0, START: 4.5, SEGMENT: 0.5}


def test_nothing_is_known_before_the_first_pass(measured):
    assert measured.known({}) == {}


def test_a_pass_under_other_settings_does_not_replace_what_these_took(measured):
    measured({"encoder.name": "small-cnn"}, 1.0)
    measured({"encoder.name": "resnet32"}, 20.0)
    assert measured.known({"encoder.name": "small-cnn"}) == {"joint": 1.0}
    assert measured.known({"encoder.name": "resnet32"}) == {"joint": 20.0}


def test_settings_that_were_never_run_are_taken_to_be_like_the_last_ones(measured):
    measured({"batch_size": 32}, 1.0)
    measured({"batch_size": 64}, 2.0)
    assert measured.known({"batch_size": 128}) == {"joint": 2.0}
    assert measured.known({"batch_size": 128}, experiment="cifar") == {}


def test_phases_that_a_pass_did_not_run_are_remembered(measured):
    measured({}, 1.0, phase="pretrain")
    measured({}, 2.0, phase="joint")
    assert measured.known({}) == {"pretrain": 1.0, "joint": 2.0}


def test_a_pass_that_trained_nothing_leaves_no_file(tmp_path):
    Timings(tmp_path / "timings.json", "digits", {}).save()
    assert not (tmp_path / "timings.json").exists()


def test_the_file_is_for_people_too(measured, tmp_path):
    measured({}, 1.0)
    assert json.loads((tmp_path / "timings.json").read_text())["digits"] == {"joint": 1.0}
