"""Benchmarks run, in small: numbers of tiny pictures mean nothing, but what is compared must be equal."""

import re

from benchmarks import bench_eval, bench_files


def test_frames_in_and_masks_out_are_those_of_the_published_way(tmp_path, capsys):
    options = ["--tiny", "--frames", "3", "--rounds", "1", "--output", str(tmp_path)]
    assert bench_files.main(options) == 0
    text = capsys.readouterr().out
    assert "Pixels of frames identical, of masks identical" in text
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == [text]


def test_an_evaluation_from_files_to_files_gives_the_masks_of_the_plain_way(tmp_path, capsys):
    options = ["--tiny", "--frames", "2", "--sentences", "3", "--threads", "1", "--output", str(tmp_path)]
    assert bench_eval.main(options) == 0
    text = capsys.readouterr().out
    assert re.search(r"12 masks; \d+ of 110592 pixels differ", text)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == [text]
