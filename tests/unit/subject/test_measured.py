"""What counts as a metric in what a command prints and writes, and to which epoch it belongs."""

import json
import math
import re

import pytest

from ablation.subject.measured import (
    Measured,
    line_naming,
    numbers_in,
    read_csv,
    read_json_lines,
    read_mlflow,
)
from ablation.subject.own import Place
from ablation.subject.spawned import _Output

LINES = {
    "epoch=3 test/top1=71.2 loss=0.5": {"epoch": 3, "test/top1": 71.2, "loss": 0.5},
    "accuracy: 93.1": {"accuracy": 93.1},
    "acc = 0.9, f1 = 1e-3; auc=.5|mcc=-1.": {"acc": 0.9, "f1": 0.001, "auc": 0.5, "mcc": -1},
    "top1: 71.2% (best)": {"top1": 71.2},
    "Epoch 3/10: loss: 0.25": {"epoch": 3, "loss": 0.25},
    "Epoch: [7][ 20/100] loss=2": {"epoch": 7, "loss": 2},
    "test acc: 62.4%  train acc: 99.0%": {"test/acc": 62.4, "train/acc": 99},
    "Epoch 3: Train loss=0.5, val loss=0.6": {"epoch": 3, "train/loss": 0.5, "val/loss": 0.6},
    "acc: 62.4%  acc: 99.0%  lr=1 lr=1": {"acc.1": 62.4, "acc.2": 99, "lr": 1, "lr.1": 1, "lr.2": 1},
    "Best val acc: 80.0": {"best/val/acc": 80},
    "INFO train: loss=0.5 latest acc=2": {"loss": 0.5, "acc": 2},
    "Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.130": {"Epoch": 1, "Loss": 2.13},
    "2026-11-27 17:08:13,120 INFO train: epoch=2 loss=0.5": {"epoch": 2, "loss": 0.5},
    "{'eval_loss': 0.3, 'epoch': 1.0}": {"eval_loss": 0.3, "epoch": 1},
    '{"epoch": 2, "test": {"top1": 70, "ece": 0.1}, "name": "a", "ok": true}': {
        "epoch": 2, "test/top1": 70, "test/ece": 0.1, "ok": 1,
    },
    "loss=0.5,acc=0.7, f1=1,": {"loss": 0.5, "acc": 0.7, "f1": 1},
    "epoch=3 loss=0.5 best epoch=1": {"epoch": 3, "loss": 0.5, "best/epoch": 1},
    "Best epoch: 5, acc: 80": {"best/epoch": 5, "acc": 80},
    "best epoch 5, acc: 80": {"acc": 80},
    # a comma may stand for a point or between thousands
    "acc: 71,2 %": {},
    "test acc=0,953": {},
    "perplexity: 1,234.5": {},
    "n=1,234,567 acc=71.,2 f1: 3%,4 loss: 0.5": {"loss": 0.5},
    "epoch 1,234 loss: 0.5": {"loss": 0.5},
    # what is no number of its own
    "took 12.5s, eta: 3m, at 12:30, size=3x4": {},
    "Accuracy: 9846/10000 (98%)": {},
    "serving at http://localhost:8080/x=1": {},
    "version: 1.2.3": {},
    "weights: tensor([0.5])": {},
    "nothing at all": {},
    "": {},
    "[1, 2]": {},
}  # fmt: skip


MNIST = "Test set: Average loss: 0.0267, Accuracy: 9907/10000 (99%)"
PATTERNS = {
    r"Accuracy: \d+/\d+ \((?P<acc>[\d.]+)%\)": ([MNIST], {"acc": 99, "loss": 0.0267}, {}),
    r"\* Acc@1 (?P<acc>\S+)": (["Acc@1 3", " * Acc@1 71.234 Acc@5 90.1"], {"acc": 71.234}, {}),
    r"^Epoch (?P<epoch>\d+) Val Acc (?P<acc>\S+)": (
        ["Epoch 1 Val Acc 70", "Epoch 2 Val Acc 71.5"], {"acc": 71.5}, {1: {"acc": 70}, 2: {"acc": 71.5}},
    ),
    # its name is of no other lines; its epoch comes before that of the line
    r"(?P<epoch>\d+)\) test (?P<acc>\S+)": (
        ["test acc: 1", "Epoch: 7 (3) test 5", "acc=2 test acc: 3", "class 0 acc: 1", "class 1 acc: 1"],
        {"test/acc": 3, "acc": 5},
        {3: {"acc": 5}},
    ),
    r"(?P<acc>\S+) of (?P<all>\d+)?": (["12 of ", "none of 3"], {"acc": 12, "all": 3}, {}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "lines", "last", "history"), [(p, *of) for p, of in PATTERNS.items()]
)
def test_groups_of_a_pattern_are_metrics(pattern, lines, last, history):
    read, whole = Measured(patterns=[re.compile(pattern)]), Measured()
    for line in lines:
        read.add_line(line)
    whole.merge(read)
    assert (whole.last, whole.history) == (last, history)


def test_what_a_pattern_takes_beside_the_number_is_quoted():
    read = Measured(patterns=[re.compile("acc (?P<acc>.*)")])
    read.add_line("acc 71.2 %")
    assert read.unread == {
        "acc": "'71.2 %', of which the pattern's group takes more than the number"
    }


def test_the_last_line_that_names_a_metric_is_found():
    log = "INFO:root:ACC 70\n\x1b[1mVal Acc\x1b[0m 71.2\naccuracy 3\nacc is next\nvac 1\r acc_5 2\n"
    assert line_naming("val/acc", log) == "Val Acc 71.2"
    assert line_naming("Acc@1", " * Acc@1 71.234") == "* Acc@1 71.234"
    assert line_naming("f1", log) == ""
    assert line_naming("acc", "acc 1 " + "a" * 200) == "acc 1 " + "a" * 114


@pytest.mark.parametrize(("line", "found"), LINES.items())
def test_numbers_are_found_in_lines_of_many_styles(line, found):
    assert numbers_in(line).numbers == found


def test_numbers_that_are_not_finite_are_read_as_such():
    found = numbers_in("loss=nan top1=inf low=-inf loss=nan").numbers
    assert math.isnan(found["loss"]) and (found["top1"], found["low"]) == (math.inf, -math.inf)


def measured(*lines):
    found = Measured()
    for line in lines:
        found.add_line(line)
    whole = Measured()
    whole.merge(found)
    return whole


TEST, TRAIN = {"test/acc": 62.4}, {"train/acc": 99}


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        # with no other accuracy, there is no doubt
        (["test acc: 62.4%"], {**TEST, "acc": 62.4}),
        (["test acc: 50%", "test acc: 62.4%"], {**TEST, "acc": 62.4}),
        # `acc` would be a guess
        (["test acc: 62.4%  train acc: 99.0%"], {**TEST, **TRAIN}),
        (["test acc: 62.4%", "train acc: 99.0%"], {**TEST, **TRAIN}),
        # where both are the same in the last line, too
        (["acc: 62.4%  acc: 85.0%", "acc: 99.0% | acc: 99.0%"], {"acc.1": 99, "acc.2": 99}),
        # the best of all epochs is not the last one
        (
            ["val acc: 80%", "val acc: 60%", "Best val acc: 80%"],
            {"val/acc": 60, "acc": 60, "best/val/acc": 80},
        ),
        (["acc: 0 acc: 0", "acc: 62.4%  acc: 99.0%"], {"acc.1": 62.4, "acc.2": 99}),
        # it is printed as such
        (["acc: 3", "test acc: 62.4%", "train acc: 99"], {"acc": 3, **TEST, **TRAIN}),
        (["test acc: 62.4%", "acc: 3"], {**TEST, "acc": 3}),
    ],
)
def test_a_name_counts_without_its_data_only_while_it_has_one_meaning(lines, last):
    assert measured(*lines).last == last
    assert measured("epoch 1", *[f"epoch 1 {line}" for line in lines]).history == {1: last}


def test_colours_of_a_terminal_are_passed_over():
    lines = (
        "\x1b[1mepoch 1\x1b[0m",
        "\x1b[31mtrain_loss\x1b[0m=\x1b[33;1m1.5\x1b[0m \x1b[Kacc: \x1b[38;5;2m3\x1b[m%",
    )
    assert measured(*lines).history == {1: {"train_loss": 1.5, "acc": 3}}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["acc: 71,2 loss=0.5", "acc: 72,4"], {"acc": "'acc: 71,2': write a decimal point and no comma"}),
        (["test acc=1,234.5%"], dict.fromkeys(["test/acc", "acc"], "'test acc=1,234.5': write a decimal point and no comma")),
        (["class 0 acc: 1 loss=1", "class 1 acc: 2 loss=2"], {"acc": "'class 0 acc' and 'class 1 acc': give each a name of its own, without spaces"}),
        (["val acc: tensor(0.5, device='cuda:0')", "f1=np.float64(0.25)"], {
            **dict.fromkeys(["val/acc", "acc"], "'val acc: tensor(0.5, device='cuda:0')': write the number alone, as float(x) does"),
            "f1": "'f1=np.float64(0.25)': write the number alone, as float(x) does",
        }),
        # read from another line, or no metric with a comma in its number
        (["acc: 71,2", "acc: 71.2"], {}),
        (["loss=0.5,acc=0.7, f1=1,", "acc: 62.4%  acc: 99.0%"], {}),
    ],
)  # fmt: skip
def test_how_a_name_was_printed_is_known_where_it_is_no_metric_by_it(lines, found):
    measured, whole = Measured(), Measured()
    for line in lines:
        measured.add_line(line)
    whole.merge(measured)
    assert measured.unread == whole.unread == found


def test_lines_with_an_epoch_are_history_and_the_last_value_of_each_metric_counts():
    found = measured("seed=3", "epoch=1 loss=2 acc=5", "epoch=2 loss=1", "epoch=2 acc=6", "final=7")
    assert found.history == {1: {"loss": 2, "acc": 5}, 2: {"loss": 1, "acc": 6}}
    assert found.last == {"seed": 3, "loss": 1, "acc": 6, "final": 7}


def test_lines_after_an_epoch_alone_are_of_that_epoch_and_those_between_others_of_none():
    assert measured("Epoch 1", "loss: 2", "Epoch 2", "loss: 1").history == {
        1: {"loss": 2},
        2: {"loss": 1},
    }
    assert measured("epoch=1 loss=2", "loss=9", "epoch=2 loss=1").history == {
        1: {"loss": 2},
        2: {"loss": 1},
    }


@pytest.mark.parametrize("epoch", ["0.5", "-1", "nan", "inf", "1e300"])
def test_what_is_no_whole_epoch_has_a_last_value_alone(epoch):
    found = measured(f"epoch={epoch} loss=2")
    assert (found.history, found.last) == ({}, {"loss": 2})


def test_json_lines_are_read_and_a_line_that_is_none_is_named():
    lines = [{"epoch": 1, "loss": 2, "big": 10**400}, {"epoch": 2, "loss": None, "acc": 3}]
    found = Measured()
    read_json_lines("\n".join(map(json.dumps, lines)) + "\n\n", found)
    assert found.history == {1: {"loss": 2}, 2: {"acc": 3}}
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is no JSON object: 'loss=1'"):
        read_json_lines('{"loss": 2}\nloss=1\n', found)


def test_cells_of_a_csv_without_a_number_are_left_out():
    found = Measured()
    read_csv("epoch,loss,acc,note\n0,2.5,,a\n0,,0.5,b\n1,1.5,,\n", found)
    assert found.history == {0: {"loss": 2.5, "acc": 0.5}, 1: {"loss": 1.5}}


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_columns_of_a_csv_end_with_what_its_first_row_has_most_of(delimiter):
    found = Measured()
    read_csv('epoch,"loss,train",acc\n1,2.5,0.5\n'.replace(",", delimiter), found)
    assert found.history == {1: {f"loss{delimiter}train": 2.5, "acc": 0.5}}


@pytest.fixture
def looking(tmp_path, monkeypatch):
    """What reads a command's files while it runs, the epochs that it tells, and values read."""
    told, read, add = {}, [], Measured.add
    place = Place(
        "a", tmp_path, on_epoch=lambda epoch, _: told.update({epoch["epoch"]: epoch["metrics"]})
    )
    monkeypatch.setattr(
        Measured, "add", lambda self, values: (read.append(values), add(self, values))[1]
    )
    return _Output("", (), place), told, read


def test_a_file_that_grows_is_not_read_whole_again_at_each_epoch_that_is_printed(looking, tmp_path):
    (output, told, read), n = looking, 50
    with (tmp_path / "metrics.csv").open("w") as file:
        file.write("epoch,loss\n")
        for epoch in range(n):
            file.write(f"{epoch},{epoch / 2}\n")
            file.flush()
            output._take(1, f"epoch {epoch} acc: 0.5".encode())
    output._look()
    assert told == {epoch: {"loss": epoch / 2, "acc": 0.5} for epoch in range(n)}
    # a row and a line for each
    assert len(read) == 2 * n


def test_a_file_that_is_written_anew_with_more_columns_is_read_anew(looking, tmp_path):
    output, told, _ = looking
    (tmp_path / "metrics.csv").write_text("epoch,loss\n0,2.5\n")
    output._look()
    # with the mark that some programs put before a text
    text = "\ufeffepoch,loss,acc\n0,2.5,\n1,1.5,0.5\n"
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    output._look()
    assert output.measured().history == {0: {"loss": 2.5}, 1: {"loss": 1.5, "acc": 0.5}}
    assert told == {0: {"loss": 2.5}, 1: {"loss": 1.5, "acc": 0.5}}


def test_of_what_is_printed_and_written_the_file_counts_whichever_is_read_first(looking, tmp_path):
    output, told, _ = looking
    (tmp_path / "metrics.csv").write_text("epoch,acc\n0,71.34\n")
    output._look()
    output._take(1, b"epoch 0 acc: 71.3")
    output._take(1, b"epoch 1 acc: 72.1")
    assert told == {0: {"acc": 71.34}, 1: {"acc": 72.1}}


def test_what_follows_an_epoch_alone_is_of_it_also_when_it_is_written_later(looking, tmp_path):
    output, told, _ = looking
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for line in ('{"epoch": 3}\n', '{"loss": 2', "}\n"):
            file.write(line)
            file.flush()
            output._look()
    assert told == {3: {"loss": 2.0}}


def test_files_of_mlflow_are_read_with_steps_as_epochs(tmp_path):
    for run, moment in (("a", 1), ("b", 5)):
        folder = tmp_path / "0" / run / "metrics" / "test"
        folder.mkdir(parents=True)
        (folder / "acc").write_text(f"{moment} 0.5 1\n{moment + 1} 0.{moment} 2\n")
    assert read_mlflow(tmp_path).history == {1: {"test/acc": 0.5}, 2: {"test/acc": 0.5}}
    (folder / "acc").write_text("9 0.75 0\n")
    (tmp_path / "0" / "a" / "metrics" / "test" / "acc").unlink()
    assert read_mlflow(tmp_path).history == {}
    assert read_mlflow(tmp_path).last == {"test/acc": 0.75}


def test_a_short_name_that_turns_out_to_be_ambiguous_is_withdrawn():
    found = Measured()
    epoch = found.add_line("Epoch 1 train acc: 99")
    assert "acc" in found.with_short_names(found.history[epoch]) and not found.withdrawn
    found.add_line("Epoch 1 test acc: 60")
    assert "acc" not in found.with_short_names(found.history[epoch])
    assert found.withdrawn == {"acc"}


@pytest.mark.parametrize(
    "lines",
    [
        ["top-1 acc: 71.2", "top-5 acc: 93.0"],
        ["class 0 acc: 71.2", "class 9 acc: 3.0"],
        ["loss=1 class 0 acc: 71.2", "loss=1 class 9 acc: 3.0"],
        ["class 0 acc: 71.2", "class 9 acc: 3.0", "class 9 acc: 3.0", "acc: 5"],
        ["Train Epoch 1 acc: 99", "Test Epoch 1 acc: 60"],
        ["fold 1 step 10 acc=5", "fold 2 step 10 acc=6"],
        ["clean test acc: 90", "noisy test acc: 50"],
    ],
)
def test_a_name_after_different_words_is_no_metric(lines):
    first, *others = lines
    found = Measured()
    found.add_line("Epoch 1")
    found.add_line(first)
    assert "acc" in found.with_short_names(found.last) and not found.withdrawn
    for line in others:
        found.add_line(line)
    for values in (found.last, *found.history.values()):
        assert not {"acc", "test/acc"} & found.with_short_names(values).keys()
    assert "acc" in found.withdrawn


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Epoch 3: acc: 1", "Epoch 4: acc: 2"),
        ("Epoch 3 acc: 1", "Epoch 4 acc: 2"),
        ("Epoch 3/10 step 100 acc: 1", "Epoch 4/10 step 200 acc: 2"),
        ("Epoch #3 acc: 1", "Epoch #4 acc: 2"),
        ("100 acc: 1", "200 acc: 2"),
        ("Iter 100 top-1 acc: 1", "Iter 200 top-1 acc: 2"),
        ("class 0 acc: 1", "Class 0 acc: 2"),
        ("2026-11-27 17:08:13 INFO acc: 1", "2026-11-28 17:09:14 WARNING acc: 2"),
        ("Sat Nov 28 08:14:35 acc: 1", "Sun Nov 29 08:14:36 acc: 2"),
        ("[00:01] acc: 1", "[00:02] acc: 2"),
        ("took 12 s acc: 1", "took 13 s acc: 2"),
        ("lr 1 acc: 1", "lr 0.5 acc: 2"),
        ("Time 12 acc: 1", "Time 13 acc: 2"),
        ("lr 0.1 loss: 3 acc: 1", "lr 0.05 loss: 2 acc: 2"),
        ("2ms/step - loss: 3 - acc: 1", "3ms/step - loss: 2 - acc: 2"),
        ("epoch 1 acc: 1", "Final acc: 2"),
    ],
)
def test_words_that_say_when_and_how_far_are_no_part_of_a_name(first, second):
    assert measured(first, second).last["acc"] == 2
