"""The team's database of --storage: which URLs are one, and how its driver is found."""

import sys

import pytest

from ablation.errors import InputError
from ablation.study.opening import provenance
from ablation.tracking.ledger import storage_url


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        storage_url(text)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    "text, message",
    [
        ("nonsense", "--storage: nonsense: is no database URL; write postgresql://user@host/database"),
        ("mysql://u:s3cret@h/d", "--storage: mysql://***@h/d: must be postgresql://user@host/database (or sqlite:///file, for processes of one machine)"),
        ("sqlite://", "--storage: sqlite://: must be postgresql://user@host/database (or sqlite:///file, for processes of one machine)"),
        ("postgresql://u:s3@cret@h/d", "--storage: postgresql://***@h/d: special characters in a password are written as %40 (@), %2F (/) and so on"),
    ],
)  # fmt: skip
def test_what_is_no_database_of_a_team_is_refused(text, message):
    assert refusal(text) == message


def test_the_driver_that_is_installed_is_chosen_and_a_missing_one_is_named_with_the_extra(
    monkeypatch,
):
    find_spec = "ablation.tracking.ledger.importlib.util.find_spec"
    monkeypatch.setattr(find_spec, lambda name: name == "psycopg2")
    assert storage_url("postgres://u:s3cret@h/d") == "postgresql+psycopg2://u:s3cret@h/d"
    assert storage_url("postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"
    assert storage_url("sqlite:///a/file.db") == "sqlite:///a/file.db"
    monkeypatch.setattr(find_spec, lambda name: None)
    assert (
        refusal("postgresql://u:s3cret@h/d")
        == "--storage: postgresql://***@h/d: needs a driver for PostgreSQL: pip install 'ablate-lt[postgres]'"
    )


def test_the_command_in_the_provenance_holds_no_password(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/usr/bin/ablate", "run", "--storage", "postgresql://me:s3cret@host/db"]
    )
    assert provenance()["command"] == "ablate run --storage postgresql://***@host/db"
