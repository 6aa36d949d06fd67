"""Reports of whole videos: which number is J and which is F, means over entries and groups."""

import json

import numpy as np
import pytest

from evaluation.report import EntryScore, EvalReport, FrameScore, RankedQuery, score_frames
from metrics.region_boundary import region_and_boundary


def entry(group, j, f):
    """Four frames with these means: J falls by 0.1 from the first to the last, F by 0.2."""
    frames = [FrameScore(j + d, f + 2 * d) for d in (0.05, 0.0, 0.0, -0.05)]
    return EntryScore("v", "0", "", group, tuple(frames))


def test_a_sentence_has_j_for_its_region_and_f_for_its_boundary():
    annotation, prediction = np.zeros((2, 2, 40, 40), dtype=bool)
    annotation[:, 10:30, 10:30] = True
    prediction[:, 10:30, 10:20] = True
    annotation[1, 20:] = False
    frames = score_frames(annotation, prediction)
    regions, boundaries = region_and_boundary(annotation, prediction)
    assert [frame.region for frame in frames] == pytest.approx([0.5, 1 / 3])
    assert [frame.boundary for frame in frames] == pytest.approx(boundaries.tolist())
    assert [(frame.annotated_px, frame.predicted_px) for frame in frames] == [(400, 200), (200, 200)]
    assert [frame.centre_px for frame in frames] == [(19.5, 19.5), (19.5, 14.5)]
    assert score_frames(np.zeros_like(annotation), prediction)[0].centre_px is None
    score = EntryScore("v", "0", "a cat", "", tuple(frames), (RankedQuery(0.9, 0.4), RankedQuery(0.2, 0.8)))
    assert score.region.mean == pytest.approx(regions.mean())
    assert score.boundary.mean == pytest.approx(boundaries.mean())
    assert boundaries.mean() != pytest.approx(regions.mean(), abs=0.05)
    row = score.as_row()
    assert (row["J"], row["F"]) == (score.region.mean, score.boundary.mean)
    assert row["J&F"] == (row["J"] + row["F"]) / 2
    assert (row["score"], row["best J of runners-up"]) == (0.9, 0.8)


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
            "J-recall": 0.0,
            "J-decay": 0.05,
            "F-mean": 0.6,
            "F-recall": 0.5,
            "F-decay": 0.1,
        }
    )
    assert [e["J"] for e in written["entries"]] == pytest.approx([0.2, 0.4, 0.9])
    assert [e["F"] for e in written["entries"]] == pytest.approx([0.4, 0.8, 0.3])
    table = report.as_table().splitlines()
    assert table[2] == "| all | 3 | 50.0 | 50.0 | 50.0 |"
    assert table[3] == "| motion | 2 | 45.0 | 30.0 | 60.0 |"
    assert table[4] == "| place | 1 | 60.0 | 90.0 | 30.0 |"


def absent(group, predicted_px, presence_score, *, is_absent=True, drawn=0.0):
    """Two frames; the second one always without a pixel. `drawn` is J of the masks if they were not rejected."""
    frames = tuple(FrameScore(float(not px), float(not px), 0, px) for px in (predicted_px, 0))
    ranking = (RankedQuery(0.5, drawn),)
    return EntryScore("v", "0", "s", group, frames, ranking, is_absent=is_absent, presence_score=presence_score)


def test_sentences_without_a_target_count_for_rejection_alone():
    """Found is what has a pixel in some frame; AUC compares 0.9 and none with 0.2, 0.95 and none."""
    entries = (
        absent("motion", 5, 0.9, is_absent=False, drawn=0.5),
        absent("motion", 0, None, is_absent=False, drawn=0.9),
        absent("motion", 0, 0.2),
        absent("motion", 3, 0.95),
        absent("place", 0, None),
    )
    report = EvalReport(1, 5, entries, min_score=0.5)
    assert report.main_score == report.scores()["J&F"] == pytest.approx((0.5 + 1.0) / 2)
    expected = {"N-acc": 2 / 3, "T-acc": 1 / 2, "AUC": (1 + 0 + 1 + 0 + 0 + 0.5) / 6}
    assert {name: report.scores()[name] for name in expected} == pytest.approx(expected)
    by_group = {name: value for name, value in report.scores().items() if "/" in name}
    assert by_group == pytest.approx(
        {"J&F/motion": 0.75, "N-acc/motion": 0.5, "T-acc/motion": 0.5, "AUC/motion": 1 / 4, "N-acc/place": 1.0}
    )
    written = report.as_dict()
    counts = {"present": 2, "found": 1, "absent": 3, "rejected": 2, "J without rejection": 0.7}
    assert written["rejection"] == pytest.approx({**counts, **expected})
    head = "|  | entries | J&F | J | F | absent | N-acc | T-acc | AUC | J without rejection |"
    assert report.as_table().splitlines()[0] == head
    assert report.as_table().splitlines()[2:] == [
        "| all | 2 | 75.0 | 75.0 | 75.0 | 3 | 66.7 | 50.0 | 41.7 | 70.0 |",
        "| motion | 2 | 75.0 | 75.0 | 75.0 | 2 | 50.0 | 50.0 | 25.0 | 70.0 |",
        "| place | 0 |  |  |  | 1 | 100.0 |  |  |  |",
    ]
    assert [(row["absent"], row["found"], row["J"]) for row in report.rows()] == [
        (False, True, 0.5), (False, False, 1.0), (True, False, ""), (True, True, ""), (True, False, ""),
    ]  # fmt: skip


def test_where_all_are_absent_there_is_no_j_and_f():
    report = EvalReport(1, 1, (absent("motion", 0, None),))
    assert (report.overall, report.main_score) == (None, None)
    assert report.scores() == {"N-acc": 1.0, "N-acc/motion": 1.0}


def test_nothing_is_said_of_rejection_where_nothing_could_be_rejected():
    present = absent("", 5, 0.9, is_absent=False)
    assert EvalReport(1, 1, (present,)).rejection is None
    assert EvalReport(1, 1, (present,), min_score=0.1).rejection.as_dict() == {
        "present": 1, "found": 1, "absent": 0, "rejected": 0, "T-acc": 1.0, "J without rejection": 0.0,
    }  # fmt: skip
    assert EvalReport(1, 1, (entry("anno_0", 0.2, 0.4),), min_score=0.1).rejection is None, "sentences were merged"
    assert EvalReport(0, 0, (), min_score=0.1).rejection is None


def test_guesses_stand_beside_the_scores_of_their_group():
    report = EvalReport(1, 1, (entry("motion", 0.2, 0.4),), {"motion": {"random": 0.31}})
    assert report.as_table().splitlines()[2:] == [
        "| all | 1 | 30.0 | 20.0 | 40.0 |  |",
        "| motion | 1 | 30.0 | 20.0 | 40.0 | 31.0 |",
    ]


def test_what_is_no_number_is_null_in_json():
    """The decay of the published toolkit has no frames in its last bin for some lengths."""
    frames = tuple(FrameScore(0.5, 0.5) for _ in range(300))
    report = EvalReport(1, 1, (EntryScore("v", "0", "", "", frames),))
    assert np.isnan(report.overall.region.decay)
    text = json.dumps(report.as_dict(), allow_nan=False)
    assert json.loads(text)["overall"]["J-decay"] is None
    assert json.loads(text)["overall"]["J-mean"] == 0.5
