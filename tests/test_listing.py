"""What lies in folders: missing and surplus files, in order."""

from datasets.listing import FolderListing
from datasets.problems import Problem

NAMES = [f"{name}.png" for name in "hgfedcba"]


def test_missing_and_surplus_files_are_named_in_order(tmp_path):
    for name in NAMES[::2]:
        (tmp_path / name).touch()
    wanted = [tmp_path / name for name in NAMES]
    missing = list(FolderListing().missing(wanted))
    assert missing == [Problem("missing", str(tmp_path / f"{name}.png")) for name in "aceg"]
    surplus = list(FolderListing().surplus([tmp_path / "h.png"]))
    assert surplus == [Problem("surplus", str(tmp_path / f"{name}.png")) for name in "bdf"]
    entries = list(FolderListing().surplus_entries(tmp_path, {"h.png"}, "why"))
    assert entries == [Problem("surplus", str(tmp_path / f"{name}.png"), "why") for name in "bdf"]


def test_a_missing_folder_is_named_once_with_the_number_of_its_files(tmp_path):
    (problem,) = FolderListing().missing([tmp_path / "gone" / name for name in NAMES])
    assert problem == Problem("missing", f"{tmp_path / 'gone'}/", "no such folder; 8 files expected in it")
