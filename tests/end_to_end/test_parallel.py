"""Several studies, and several workers, at once. `pytest -m parallel`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import Project

pytestmark = pytest.mark.parallel

STUDIES = ("chains", "second", "third", "fourth")


def test_four_studies_at_once_in_one_folder_lose_no_row_and_share_their_epochs(tmp_path):
    alone, project = Project(tmp_path / "alone"), Project(tmp_path / "project")
    alone.run()
    for study in STUDIES:
        project.grid(study)
    processes = {study: project.start(study=study) for study in STUDIES}
    said = {study: process.communicate()[0] for study, process in processes.items()}
    for study, process in processes.items():
        assert process.returncode == 0, said[study]
        assert "not available" not in said[study] and "locked" not in said[study], said[study]
        project.study = study
        assert project.tables() == alone.tables()
        assert project.states_elsewhere() == alone.states_elsewhere()
    assert project.n_records() == alone.n_records()


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_results_are_the_same_for_any_number_of_workers(tmp_path, jobs):
    two, project = Project(tmp_path / "two", seeds=1), Project(tmp_path / "project", seeds=1)
    two.run("--offline")
    project.run("--offline", "--jobs", str(jobs))
    assert project.tables() == two.tables()


def test_a_second_process_of_one_study_is_refused(tmp_path):
    project = Project(tmp_path, pause=0.5)
    first = project.start("--offline")
    project.wait_for(1, first)
    assert "another process is running this study" in project.run("--offline", expect=2)
    first.terminate()
    assert first.wait() == 130
