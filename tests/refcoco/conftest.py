"""Folders of RefCOCO in both layouts."""

import pytest

from tests.tiny_refcoco import write_instances_layout, write_refs_layout

LAYOUTS = {"refs": write_refs_layout, "instances": write_instances_layout}


@pytest.fixture(params=LAYOUTS)
def root(request, tmp_path):
    return LAYOUTS[request.param](tmp_path / "data")


@pytest.fixture
def refs_root(tmp_path):
    return write_refs_layout(tmp_path / "data")


@pytest.fixture
def instances_root(tmp_path):
    return write_instances_layout(tmp_path / "data")
