"""The tiny folder of A2D-Sentences, shared or to be damaged."""

import pytest

from tests.tiny_a2d import write_tiny_a2d


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_a2d(tmp_path_factory.mktemp("a2d"))


@pytest.fixture
def own_root(tmp_path):
    return write_tiny_a2d(tmp_path / "a2d")
