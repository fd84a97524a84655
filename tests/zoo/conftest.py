"""A zoo of one network in a folder of its own, to be damaged."""

import shutil

import pytest

from jaxrobust import zoo
from jaxrobust.zoo import card_files

NAME = "digits_ssp_pgd"


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """Returns the folder, which `zoo` takes for the package's."""
    folder = tmp_path / "zoo"
    for path in (card_files.path, zoo.weights_path):
        target = path(folder, NAME)
        target.parent.mkdir(parents=True)
        shutil.copy(path(zoo.folder(), NAME), target)
    monkeypatch.setattr(zoo, "folder", lambda: folder)
    return folder
