"""Small files of jets."""

import pytest
from support.hep_jets import CLASSES, JETCLASS, columns, write
from support.hep_vertices import write_vertices


@pytest.fixture(scope="session")
def jets(tmp_path_factory):
    """Three files, one per class."""
    folder = tmp_path_factory.mktemp("jets")
    return [write(folder / f"{label}.root", columns(label, jets=47)) for label in CLASSES]


@pytest.fixture(scope="session")
def jetclass(tmp_path_factory):
    """Three files, of the first three of JetClass's ten classes."""
    folder = tmp_path_factory.mktemp("jetclass")
    names = JETCLASS[:3]
    return [write(folder / f"{name}.root", columns(name, jets=47, classes=JETCLASS)) for name in names]


@pytest.fixture(scope="session")
def vertex_files(jetclass, tmp_path_factory):
    """The same files with secondary vertices."""
    return write_vertices(jetclass, tmp_path_factory.mktemp("vertices"))


@pytest.fixture(scope="session")
def tables():
    """The columns of a small file, to be spoilt, and the function that writes them."""
    return columns, write
