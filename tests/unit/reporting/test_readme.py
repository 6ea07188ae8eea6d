"""Tables in README.md, docs/results.md and any text are those of the reports."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_study_tables import CLAIMS, reported

from ablation.cli.main import main
from ablation.reporting.tables import refresh, refresh_file, study_tables

ROOT = Path(__file__).parents[3]
CLOSE = "<!-- /ablate table -->"


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_tables_of_a_page_are_those_of_the_reports(page):
    done = refresh((ROOT / page).read_bytes().decode(), page, [ROOT / "docs" / "results"])
    assert done.n_blocks
    assert done.stale == [], f"ablate table --into {page}"


def test_the_page_of_results_has_every_study():
    text = (ROOT / "docs" / "results.md").read_text()
    studies = [path.parent.name for path in (ROOT / "docs" / "results").glob("*/report.md")]
    assert len(studies) > 10
    assert not [study for study in studies if f"(results/{study}/report.md)" not in text]


def test_the_tests_that_are_named_for_faults_are_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "tests" / "README.md").read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 20 and named <= defined, named - defined


def test_every_fault_of_the_page_names_its_tests():
    faults, shown = (
        re.findall(r"^\| (.+?) \| .+ \|$", text, flags=re.MULTILINE)[1:]
        for text in (
            (ROOT / "docs" / "reliability.md").read_text(),
            (ROOT / "tests" / "README.md")
            .read_text()
            .partition("## Faults")[2]
            .partition("## ")[0],
        )
    )
    assert len(faults) > 20 and faults == shown


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("project")
    reported(path, factors={}, seeds=[0, 1])
    reported(path, "claimed", seeds=[0, 1], baselines=[], claims=CLAIMS)
    return path


@pytest.fixture
def file(root, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(root)
    return tmp_path / "page.md"


def ablate(*arguments):
    return CliRunner().invoke(main, ["table", *map(str, arguments)])


def test_blocks_are_renewed_and_the_rest_is_kept_byte_for_byte(root, file):
    before, between, after = (
        "\ufeff# Été\t \r\nText  \n\n",
        "  <!-- ablate table x -->\n\x0c\n",
        "\x85no newline at the end",
    )
    blocks = [
        f"<!-- ablate table {which} -->\n{CLOSE}\n"
        for which in ("fixes", "claimed arms", "claimed claims")
    ]
    blocks[0] = blocks[0].replace(CLOSE, f"stale\n{CLOSE} ")
    file.write_bytes("".join([before, blocks[0], between, *blocks[1:], after]).encode())
    done = ablate("--into", file)
    assert (done.exit_code, done.stdout) == (0, f"{file}: 3 of 3 blocks renewed\n")
    tables = [
        study_tables([root / "reports"], *which)
        for which in [("fixes",), ("claimed", ["arms"]), ("claimed", ["claims"])]
    ]
    renewed = [
        block.replace("stale\n", "").replace("-->\n", f"-->\n\n{table}\n\n", 1)
        for block, table in zip(blocks, tables)
    ]
    assert file.read_bytes().decode() == "".join([before, renewed[0], between, *renewed[1:], after])


def test_renewing_twice_changes_nothing(file):
    file.write_text(f"<!-- ablate table fixes -->\n{CLOSE}\n")
    ablate("--into", file)
    once = file.read_bytes()
    assert ablate("--into", file).stdout == f"{file}: 0 of 1 blocks renewed\n"
    assert file.read_bytes() == once
    assert ablate("--into", file, "--check").exit_code == 0


def test_line_endings_are_those_of_the_marker(root, file):
    file.write_bytes(f"<!-- ablate table fixes -->\r\n{CLOSE}\r\n".encode())
    refresh_file(file, [root / "reports"])
    content = file.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 4


def test_a_stale_block_is_told_and_left(file):
    ok = f"<!-- ablate table fixes -->\n{CLOSE}\n"
    file.write_text(ok + ok)
    ablate("--into", file)
    text = file.read_text()
    assert "2/2" in text
    stale = text[: len(text) // 2] + text[len(text) // 2 :].replace("2/2", "3/3", 1)
    file.write_text(stale)
    done = ablate("--into", file, "--check")
    assert (done.exit_code, done.stdout) == (1, f"{file}: 1 of 2 blocks not up to date\n")
    assert file.read_text() == stale
    assert refresh(stale, "", [Path("reports")]).stale == [text[: len(text) // 2].count("\n") + 1]


def test_a_file_without_blocks_is_up_to_date(file):
    file.write_text("nothing here\n")
    assert ablate("--into", file, "--check").exit_code == 0
    assert file.read_text() == "nothing here\n"


GOOD = f"<!-- ablate table fixes -->\n{CLOSE}\n"


@pytest.mark.parametrize(
    "text, says",
    [
        (
            "<!-- ablate table fixes -->\n",
            ["line 3: the block is not closed; end it with <!-- /ablate table -->"],
        ),
        (
            f"<!-- ablate table fixes -->\n{GOOD}",
            ["line 3: the block is not closed; end it with <!-- /ablate table -->"],
        ),
        (f"a\x85b\x0cc\n{CLOSE}\n", ["line 4: closes a block that was not opened"]),
        (f"{CLOSE}\n", ["line 3: closes a block that was not opened"]),
        (
            f"\n<!-- ablate table claimd -->\n{CLOSE}\n",
            ["line 4: claimd: no such report; did you mean 'claimed'?"],
        ),
        (f"<!-- ablate table -->\n{CLOSE}\n", ["line 3: name a study; choose from claimed, fixes"]),
        (
            f"<!-- ablate table fixes arm -->\n{CLOSE}\n",
            ["line 3: fixes: no part of a report is called 'arm'; did you mean 'arms'?"],
        ),
        (
            f"<!-- ablate table fixes claims -->\n{CLOSE}\n",
            ["line 3: fixes: the study has no claims"],
        ),
        (
            f"<!-- ablate table fixes x -->\n{CLOSE}\n{CLOSE}\n",
            ["line 3: fixes: no part", "line 5: closes a block"],
        ),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_wrong_blocks_are_named_and_nothing_is_written(file, text, says, flags):
    before = GOOD + text
    file.write_text(before)
    done = ablate("--into", file, *flags)
    assert done.exit_code == 2 and file.read_text() == before
    lines = done.stderr.splitlines()
    assert len(lines) == len(says)
    for line, start in zip(lines, says):
        assert line.startswith(f"{file}: {start}")


def test_wrong_use_of_the_command_is_told(file, tmp_path):
    (tmp_path / "latin.md").write_bytes(b"\xe9t\xe9")
    for arguments, says in [
        (["--check"], "--check: needs --into FILE"),
        (["fixes", "--into", file], f"--into: takes no STUDY: the blocks of {file} name theirs"),
        (["--into", file], f"{file}: cannot be read or written: No such file or directory"),
        (["--into", tmp_path], f"{tmp_path}: cannot be read or written: Is a directory"),
        (["--into", tmp_path / "latin.md"], f"{tmp_path}/latin.md: is not UTF-8 text (byte 0)"),
    ]:
        done = ablate(*arguments)
        assert (done.exit_code, done.stderr) == (2, says + "\n")


def test_a_link_stays_a_link(root, file, tmp_path):
    file.write_text(GOOD)
    link = tmp_path / "link.md"
    link.symlink_to(file)
    refresh_file(link, [root / "reports"])
    assert link.is_symlink() and "`reference`" in file.read_text()
