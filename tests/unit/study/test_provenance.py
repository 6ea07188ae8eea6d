"""Whose commit a study names: the project's, with the tool's beside it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import fabricate

from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import judge
from ablation.analysis.results import load
from ablation.reporting.report import render
from ablation.storage.runs import TOOL
from ablation.study import opening
from ablation.study.opening import provenance
from ablation.tracking.mlflow_content import study_tags


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def committed(folder: Path) -> str:
    """The commit of a new repository with the folder's files."""
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


def test_a_folder_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = provenance()
    assert known["commit"] is None and known["dirty"] is None


def test_the_project_s_commit_is_named_and_the_tool_s_under_its_name(tmp_path, monkeypatch):
    project, tool = tmp_path / "project", tmp_path / "tool"
    for folder in (project, tool):
        folder.mkdir()
        (folder / "code.py").touch()
    commits = {folder: committed(folder) for folder in (project, tool)}
    (project / "code.py").write_text("changed")
    monkeypatch.chdir(project)
    monkeypatch.setattr(opening, "__file__", str(tool / "code.py"))
    known = provenance()
    assert (known["commit"], known["dirty"]) == (commits[project], True)
    assert (known[TOOL]["commit"], known[TOOL]["dirty"]) == (commits[tool], False)


def test_a_tool_installed_in_the_project_s_folder_has_no_commit_of_its_own(tmp_path, monkeypatch):
    (tmp_path / ".gitignore").write_text(".venv/\n")
    commit = committed(tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "code.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opening, "__file__", str(tmp_path / ".venv" / "code.py"))
    known = provenance()
    assert known["commit"] == commit and "commit" not in known[TOOL]


def told(folder: fabricate.RunFolder, **known: object) -> tuple[str, dict[str, str]]:
    """The report and MLflow's tags of a study with such a provenance."""
    manifest = replace(folder.manifest(), provenance=known)
    folder.write_manifest(manifest)
    results = load(folder)
    effects = judge(results)
    text = render(results, effects, judge_claims(results, effects), [])
    return text, study_tags(manifest, [])


def test_report_and_mlflow_say_so(tmp_path):
    factors = {"warmup": fabricate.FACTORS["warmup"]}
    folder = fabricate.study(tmp_path / "fixes", factors, [], seeds=[0])
    of_tool = {TOOL: {"version": "1.2", "commit": "f00d", "dirty": True}}
    text, tags = told(folder, commit=None, dirty=None, **of_tool)
    assert "- commit: not under git\n" in text and "- dirty" not in text
    assert f"- {TOOL}.version: 1.2\n- {TOOL}.commit: f00d\n- {TOOL}.dirty: True\n" in text
    assert tags["commit"] == "none (not under git)"
    assert tags["ablate.commit"] == "f00d (with uncommitted changes)"
    # of an earlier version
    text, tags = told(folder, commit="0123abc", dirty=False)
    assert "- commit: 0123abc\n- dirty: False\n" in text
    assert tags["commit"] == "0123abc" and "ablate.commit" not in tags
