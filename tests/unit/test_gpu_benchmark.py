"""What the benchmark of trials on a GPU prints, whichever of them fail; see `benchmarks/gpu.py`."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TRIAL = """
import sys

if "compile=true" in sys.argv or sys.argv[-1] == "4":
    sys.exit("planted")
print('{"warmup": 0.1, "joint": 0.2, "top1": 70.0}')
"""


@pytest.fixture
def rows(tmp_path, monkeypatch, capsys):
    """The words of each row after the heading; compiled trials fail, and the fifth of those at once."""
    spec = importlib.util.spec_from_file_location("gpu", FILE)
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    (tmp_path / "trial.py").write_text(TRIAL)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "trial.py"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
        gpu.main()
        return [line.split() for line in capsys.readouterr().out.splitlines()[1:]]

    return call


def test_a_lever_that_fails_costs_its_own_row_alone(rows):
    found = rows("--levers", "--epochs", "16")
    assert found[0] == "0 as shipped 0.200 1.00 70.00".split()
    assert "0 batches of 512 0.200 1.00 70.00".split() in found
    assert {row[1] for row in found if row[-1] == "failed"} == {"encoder", "encoder,"}
    assert len(found) == 9


def test_throughput_is_that_against_one_trial_alone_and_unknown_without_it(rows):
    packed = rows("--packed", "1", "5", "2", "--precision", "bfloat16")
    assert [row[-2] for row in packed] == ["1.00", "5", "2.00"] and packed[1][-1] == "failed"
    assert [row[-2] for row in rows("--packed", "2", "--precision", "bfloat16")] == ["nan"]
