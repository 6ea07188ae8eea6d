"""What signals come to while a study runs."""

import os
import pty
import signal
import sys

import pytest

from ablation import interruption


@pytest.fixture(autouse=True)
def handlers():
    """As they were, afterwards."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in interruption.SIGNALS}
    yield
    interruption.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_interrupts(number):
    with pytest.raises(KeyboardInterrupt), interruption.stop_on_signals():
        signal.raise_signal(number)
        assert interruption.requested()
        signal.raise_signal(number)


def test_a_terminal_that_is_closed_asks_once_though_its_shell_and_the_system_say_so_and_a_signal_still_interrupts():
    with interruption.stop_on_signals():
        signal.raise_signal(signal.SIGHUP)
        assert interruption.requested()
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)  # while the end is delivered


def test_what_a_closed_terminal_would_refuse_goes_nowhere_and_a_file_goes_on(tmp_path, monkeypatch):
    kept, thrown = [
        os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in ("kept", "thrown")
    ]
    monkeypatch.setattr(interruption, "STREAMS", (kept, thrown))
    monkeypatch.setattr(interruption.os, "isatty", lambda stream: stream == thrown)
    with interruption.stop_on_signals():
        signal.raise_signal(signal.SIGHUP)
        for stream in (kept, thrown):
            os.write(stream, b"said")
            os.close(stream)
    assert (tmp_path / "kept").read_text() == "said" and (tmp_path / "thrown").read_text() == ""


def test_a_terminal_that_refuses_what_is_written_is_a_request_to_stop(monkeypatch):
    """It may be known before the signal is handled, and in another thread."""
    ours, theirs = pty.openpty()
    shown = open(theirs, "w", buffering=1)  # noqa: SIM115  closing it is what the test is about
    monkeypatch.setattr(interruption, "STREAMS", (theirs, -1))
    monkeypatch.setattr(os, "isatty", lambda stream: stream == theirs)
    monkeypatch.setattr(sys, "stdout", shown)
    with interruption.stop_on_signals():
        print("heard")
        assert not interruption.requested()
        os.close(ours)
        print("refused")
        assert interruption.requested()
        print("goes nowhere")
    assert sys.stdout is shown
    interruption.forget()
    shown.close()
