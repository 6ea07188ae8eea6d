"""Execute docs/first-study.ipynb and write it again with its outputs.

    python docs/notebook.py        # needs pip install -e '.[notebook]'

The cells run in an empty folder. `tests/end_to_end/test_examples.py` compares the text of their
outputs with the committed ones.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

PAGE = Path(__file__).parent / "first-study.ipynb"
# what differs each time: durations, and the lines that `ablate` prints where a trial takes long
DURATION = re.compile(r"\b\d+(\.\d+)? (?:s|min)\b")
WAITING = re.compile(r"^\d+/\d+ trials, .*\n", re.MULTILINE)


def executed(folder: Path) -> NotebookNode:
    """The notebook with the outputs of its cells, run in this folder, as they are committed."""
    notebook = nbformat.read(PAGE, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, resources=place, coalesce_streams=True).execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = DURATION.sub("… s", WAITING.sub("", output["text"]))
    return notebook


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(Path(folder)), PAGE)


if __name__ == "__main__":
    main()
