"""Reports of whole videos: which number is J and which is F, means over entries and groups."""

import numpy as np
import pytest

from evaluation.report import EntryScore, EvalReport, score_sentence
from metrics.region_boundary import FrameStatistics, region_and_boundary


def entry(group, j, f):
    return EntryScore("v", "0", "", group, FrameStatistics(j, 1.0, 0.1), FrameStatistics(f, 0.5, 0.2))


def test_a_sentence_has_j_for_its_region_and_f_for_its_boundary():
    annotation, prediction = np.zeros((2, 3, 40, 40), dtype=bool)
    annotation[:, 10:30, 10:30] = True
    prediction[:, 10:30, 10:20] = True
    region, boundary = score_sentence(annotation, prediction)
    assert region.mean == pytest.approx(0.5)
    assert boundary.mean == pytest.approx(region_and_boundary(annotation, prediction)[1].mean())
    assert boundary.mean != pytest.approx(region.mean, abs=0.05)
    assert (region.recall, boundary.recall) == (0, 1)


def test_a_report_averages_over_entries_and_within_groups():
    report = EvalReport(2, 3, (entry("motion", 0.2, 0.4), entry("motion", 0.4, 0.8), entry("place", 0.9, 0.3)))
    assert report.scores() == pytest.approx({"J": 0.5, "F": 0.5, "J&F": 0.5, "J&F/motion": 0.45, "J&F/place": 0.6})
    assert report.main_score == pytest.approx(0.5)
    written = report.as_dict()
    assert written["groups"]["motion"] == pytest.approx(
        {
            "entries": 2,
            "J&F": 0.45,
            "J-mean": 0.3,
            "J-recall": 1.0,
            "J-decay": 0.1,
            "F-mean": 0.6,
            "F-recall": 0.5,
            "F-decay": 0.2,
        }
    )
    assert [(e["J"], e["F"]) for e in written["entries"]] == [(0.2, 0.4), (0.4, 0.8), (0.9, 0.3)]
    table = report.as_table().splitlines()
    assert table[2] == "| all | 3 | 50.0 | 50.0 | 50.0 |"
    assert table[3] == "| motion | 2 | 45.0 | 30.0 | 60.0 |"
    assert table[4] == "| place | 1 | 60.0 | 90.0 | 30.0 |"


def test_guesses_stand_beside_the_scores_of_their_group():
    report = EvalReport(1, 1, (entry("motion", 0.2, 0.4),), {"motion": {"random": 0.31}})
    assert report.as_table().splitlines()[2:] == [
        "| all | 1 | 30.0 | 20.0 | 40.0 |  |",
        "| motion | 1 | 30.0 | 20.0 | 40.0 | 31.0 |",
    ]
