import pytest

from tests.workflows.sweep.tools import ThreadWorker


@pytest.fixture
def threads(monkeypatch):
    """Trials run in this process, and nothing is drawn."""
    monkeypatch.setattr('composer_kd.workflows.sweep.search.Worker', ThreadWorker)
    monkeypatch.setattr('composer_kd.workflows.sweep.search.write_plots', lambda study, out: None)
