"""The notebook runs from its first cell to its last on the smoke recipe, on real logos, and ends with figures."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from logo_edge.bundle.record import read_bundle

NOTEBOOK = Path(__file__).resolve().parents[3] / "docs" / "data_to_bundle.ipynb"


@pytest.mark.slow
def test_the_notebook_goes_from_data_to_a_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_NOTEBOOK", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    printed = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "03-gradient" in printed
    assert "accuracy, all" in printed
    assert read_bundle(tmp_path / "bundle").name == "smoke"


def test_the_notebook_is_committed_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook["cells"])
