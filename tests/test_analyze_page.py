"""The page of `tools.analyze`: what is on it, and that a browser shows it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from eval import evaluate
from evaluation.journal import read_videos
from evaluation.report import EntryScore
from media.mask_png import write_binary_png
from tests.tiny_a2d import write_tiny_a2d
from tests.tiny_davis import write_tiny_davis
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root
from tools.analyze.__main__ import main
from tools.analyze.pictures import PREDICTIONS, TRUTH, WIDTH, draw, draw_example
from tools.analyze.runs import read_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCRIPT_IN_A_SENTENCE = "</script><img src=x onerror=alert(1)> & \"a 'square'"
PARTS = ("scores", "groups", "frames", "choice", "calibration", "examples", "all")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Two evaluations of the same weights, by different layers; a sentence of both holds HTML."""
    folder = tmp_path_factory.mktemp("runs")
    config = with_busy_weights(tiny_config(root, folder / "last"))
    evaluate(config)
    model = config.model.model_copy(update={"output_layer": "first"})
    evaluate(config.model_copy(update={"model": model, "output_dir": folder / "first"}))
    for name in ("last", "first"):
        path = folder / name / "videos.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["scores"][1]["sentence"] = SCRIPT_IN_A_SENTENCE
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def analyze(*arguments):
    return main([str(argument) for argument in arguments])


class Page(HTMLParser):
    """Tags of a page, and what they refer to."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.references, self.pictures = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.references += [attributes[name] for name in ("src", "href", "data", "srcset") if name in attributes]
        self.pictures += [attributes["src"]] if tag == "img" else []


def test_a_page_needs_nothing_but_itself(runs, tmp_path, capsys):
    output = tmp_path / "deep" / "page.html"
    assert analyze(runs / "last", runs / "first", "--output", output, "--examples", 2) == 0
    assert capsys.readouterr().out == f"{output}\n"
    html = output.read_text(encoding="utf-8")
    page = Page(html)
    assert {f"set0-{part}" for part in (*PARTS, "compared")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.references
    assert all(reference.startswith(("data:image/jpeg;base64,", "#")) for reference in page.references)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html.split("<body>")[0])
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")
    assert "link" not in page.tags
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)


def test_sentences_are_text_and_never_html(runs, tmp_path):
    analyze(runs / "last", "--output", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "<img src=x" not in html
    assert page.tags.count("script") == 2  # the data of the table and its code
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; &amp; &quot;a &#x27;square&#x27;" in html
    (content,) = re.findall(r'<script type="application/json" id="set0-samples">(.*?)</script>', html)
    table = json.loads(content)
    headings = [name for name, _ in table["columns"]]
    assert table["rows"][1][headings.index("sentence")] == SCRIPT_IN_A_SENTENCE


def test_the_table_holds_the_scores_of_the_run(runs, tmp_path):
    analyze(runs / "last", "--output", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    table = json.loads(re.findall(r'id="set0-samples">(.*?)</script>', html)[0])
    headings = [name for name, _ in table["columns"]]
    results = json.loads((runs / "last" / "results.json").read_text())
    entries = results["sets"]["ref_youtube_vos/valid"]["entries"]
    shown = [row[headings.index("J&F")] for row in table["rows"]]
    assert shown == pytest.approx([100 * entry["J&F"] for entry in entries], abs=0.051)
    assert f"<b>{100 * results['main_score']:.1f} <span" in html
    # the squares have 36 of 24 * 40 pixels, and move by a sixth of their size
    assert {row[headings.index("size %")] for row in table["rows"]} == {3.8}
    assert {row[headings.index("speed")] for row in table["rows"]} == {0.167}


def write_scores(folder, scores, *, backwards):
    """Gives every sentence of a run other scores: J and F in all frames, and J of the chosen query and the next one."""
    lines = [json.loads(line) for line in (folder / "videos.jsonl").read_text().splitlines()]
    for line in lines:
        for entry in line["scores"]:
            region, boundary, *ranked = scores.get((entry["video"], entry["expression"]), scores[None])
            entry["frames"] = [[region, boundary, *frame[2:]] for frame in entry["frames"]]
            entry["ranking"] = [[0.9 - 0.4 * place, own] for place, own in enumerate(ranked)]
    text = [json.dumps(line) + "\n" for line in lines]
    (folder / "videos.jsonl").write_text("".join(text[::-1] if backwards else text))


def test_scores_and_differences_computed_by_hand(runs, tmp_path):
    for name in ("last", "first"):
        shutil.copytree(runs / name, tmp_path / name)
    write_scores(tmp_path / "last", {None: (0.4, 0.6, 0.4, 0.45)}, backwards=False)
    second = {None: (0.5, 0.9, 0.5, 0.8), ("v_b", "1"): (0.2, 0.4, 0.2, 0.1)}
    write_scores(tmp_path / "first", second, backwards=True)
    page = tmp_path / "page.html"
    assert analyze(tmp_path / "last", tmp_path / "first", "--output", page) == 0
    html = page.read_text(encoding="utf-8")
    tiles = re.findall(r'<div class="tile[^>]*"><b>([^ <]*).*?</b><span>(.*?)</span>', html)
    assert tiles[:6] == [
        ("50.0", "last: mean J&amp;F"),
        ("40.0", "last: mean J"),
        ("60.0", "last: mean F"),
        ("60.0", "first: mean J&amp;F"),
        ("42.5", "first: mean J"),
        ("77.5", "first: mean F"),
    ]
    # three sentences gain 0.2, one loses as much; of the draws of two videos one has v_b twice, one v_a
    assert tiles[6] == ("+10.0", "J&amp;F: first minus last")
    assert '+10.0 <span class="ci">[0.0, +20.0]</span>' in html
    assert [number for number, _ in tiles[7:]] == ["3", "1", "0"]
    (choice,) = re.findall(r'<section id="set0-choice">.*?</section>', html, flags=re.DOTALL)
    rows = re.findall(r"<tr><th>all</th>(.*?)</tr>", choice)
    numbers = [re.findall(r"<td>([\d.]+) <span", row) for row in rows]
    assert numbers == [["40.0", "45.0", "5.0", "55.0", "0", "4"], ["42.5", "65.0", "22.5", "35.0", "3", "1"]]
    table = json.loads(re.findall(r'id="set0-samples">(.*?)</script>', html)[0])
    change = [name for name, _ in table["columns"]].index("change")
    changes = {(row[0], row[1]): row[change] for row in table["rows"]}
    assert changes == {("v_a", "0"): 20.0, ("v_a", "1"): 20.0, ("v_b", "0"): 20.0, ("v_b", "1"): -20.0}
    first_gallery = html[html.index("<h4>Most improved</h4>") :]
    assert first_gallery.index("video v_a") < first_gallery.index("<h4>Most worsened</h4>")
    worsened = first_gallery[first_gallery.index("<h4>Most worsened</h4>") : first_gallery.index("<h4>Worst</h4>")]
    assert "video v_b · expression 1" in worsened
    assert "video v_a" not in worsened


def decode(uri):
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))).astype(int)


def test_pictures_show_the_mask_where_it_is():
    frame = np.full((20, 40, 3), 200, dtype=np.uint8)
    mask = np.zeros((20, 40), dtype=bool)
    mask[5:15, 20:] = True
    picture = decode(draw(frame, [(mask, TRUTH)]))
    assert picture.shape == (WIDTH // 2, WIDTH, 3)
    middle_of_mask, outside = picture[52, 160], picture[52, 40]
    np.testing.assert_allclose(middle_of_mask, (200 + np.array(TRUTH)) / 2, atol=12)
    np.testing.assert_allclose(outside, 100, atol=6)
    with pytest.raises(ValueError, match="mask of 20x40 pixels, but frame of 40x20"):
        draw(frame, [(mask.T, TRUTH)])


def test_an_example_shows_truth_and_predictions_of_its_sentence(runs, tmp_path):
    shutil.copytree(runs / "last", tmp_path / "last")
    predicted = np.zeros((24, 40), dtype=bool)
    predicted[12:, 20:] = True
    write_binary_png(tmp_path / "last" / "Annotations" / "v_a" / "0" / "00000.png", predicted)
    both = read_runs([tmp_path / "last", runs / "first"], None)
    one = both[0].sets["ref_youtube_vos/valid"]
    index = [(s.video, s.expression) for s in one.samples].index(("v_a", "0"))
    example = draw_example(both, one.name, index)
    assert example.missing == ""
    assert [layer.name for layer in example.layers] == ["truth", "last", "first"]
    truth, last, _ = example.layers
    assert [caption for _, caption in truth.pictures] == ["frame 00000", "frame 00010", "frame 00020"]
    regions = [one.samples[index].frame_regions[position] for position in (0, 2, 4)]
    assert [caption for _, caption in last.pictures] == [f"J {100 * region:.1f}" for region in regions]
    # object 1 lies at (1, 2) to (7, 8) of 24 x 40 pixels in the first frame and moves right by one a frame
    first, third = (decode(uri) for uri, _ in (truth.pictures[0], truth.pictures[2]))
    scale = WIDTH / 40
    for picture, left in ((first, 2), (third, 6)):
        row, column = round(4 * scale), round((left + 3) * scale)
        np.testing.assert_allclose(picture[row, column], (np.array([60, 10 * (left - 2), 128]) + TRUTH) / 2, atol=15)
        assert picture[row, round((left + 9) * scale)].max() < 90  # dimmed
    picture = decode(last.pictures[0][0])
    row, column = round(18 * scale), round(30 * scale)
    np.testing.assert_allclose(picture[row, column], (np.array([0, 0, 128]) + PREDICTIONS[0]) / 2, atol=12)
    np.testing.assert_allclose(picture[row, round(10 * scale)], (0, 0, 64), atol=8)


def test_without_data_the_page_says_why_there_are_no_pictures(runs, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert analyze(runs / "last", "--output", output, "--data-root", tmp_path / "moved") == 0
    assert "no pictures" in capsys.readouterr().err
    html = output.read_text(encoding="utf-8")
    assert "Without pictures: the data cannot be read (data.root=" in html
    assert Page(html).pictures == []
    assert '"size %"' in html  # from the masks of the run


def test_data_that_has_moved_is_found(runs, root, tmp_path):
    copy = tmp_path / "moved"
    shutil.copytree(root, copy)
    analyze(runs / "last", "--output", tmp_path / "page.html", "--data-root", copy, "--examples", 1)
    assert len(Page((tmp_path / "page.html").read_text()).pictures) == 2 * 2 * 3  # worst and best, two layers each


def test_masks_that_were_not_written_are_named(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "last", run)
    shutil.rmtree(run / "Annotations")
    analyze(run, "--output", tmp_path / "page.html", "--examples", 1)
    html = (tmp_path / "page.html").read_text()
    assert "no such mask file" in html
    assert len(Page(html).pictures) == 2 * 3


def test_merged_objects_and_single_frames_have_pages_too(root, tmp_path):
    davis = write_tiny_davis(tmp_path / "davis", text_encoder=root / "text_encoder")
    settings = {"dataset": "ref_davis17", "sequences": ("one", "two"), "eval_num_frames": 3}
    evaluate(with_busy_weights(tiny_config(davis, tmp_path / "davis_out", data=settings)))
    a2d = write_tiny_a2d(tmp_path / "a2d")
    settings = {"dataset": "a2d_sentences", "eval_split": "test", "num_frames": 8, "cache": tmp_path / "cache"}
    model = {"text_encoder": {"path": str(root / "text_encoder"), "frozen": False}}
    evaluate(with_busy_weights(tiny_config(a2d, tmp_path / "a2d_out", data=settings, model=model)))

    assert analyze(tmp_path / "davis_out", "--output", tmp_path / "davis.html", "--examples", 1) == 0
    html = (tmp_path / "davis.html").read_text()
    assert len(Page(html).pictures) == 2 * 2 * 3
    assert "anno_3" in html
    assert "No runners-up were recorded" in html
    assert re.search(r'<p class="sentence">a square \d</p>', html)  # of the annotator, about this object

    assert analyze(tmp_path / "a2d_out", "--output", tmp_path / "a2d.html", "--examples", 1) == 0
    html = (tmp_path / "a2d.html").read_text()
    assert len(Page(html).pictures) == 2 * 2 * 1
    assert "mean IoU" in html
    assert "reported by the evaluation" in html
    assert "lost by choice" in html


def assert_refused(capsys, message, *arguments):
    assert analyze(*arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error


def test_mistakes_are_named_in_one_line(runs, tmp_path, capsys):
    output = ("--output", tmp_path / "page.html")
    assert_refused(capsys, "no such file; RUN is the output folder", tmp_path / "none", *output)
    assert_refused(capsys, "3 runs are named", *[runs / "last"] * 3, *output)
    assert_refused(capsys, "--examples -1", runs / "last", *output, "--examples", -1)
    run = tmp_path / "run"
    shutil.copytree(runs / "last", run)
    lines = (run / "videos.jsonl").read_text().splitlines()
    (run / "videos.jsonl").write_text(lines[0] + "\n")
    assert_refused(capsys, "2 of 4 are in the first run only", runs / "last", run, *output)
    assert_refused(capsys, "2 of 4 are in the second run only", run, runs / "last", *output)
    (run / "videos.jsonl").write_text(lines[0] + "\n" + lines[1][:50] + "\n")
    assert_refused(capsys, "videos.jsonl:2: not the scores of a video", run, *output)
    (run / "videos.jsonl").unlink()
    assert_refused(capsys, "videos.jsonl: no such file", run, *output)
    assert not (tmp_path / "page.html").exists()


def test_finished_scores_are_read_as_they_were_written(root, tmp_path):
    report = evaluate(with_busy_weights(tiny_config(root, tmp_path / "out"))).only
    videos = read_videos(tmp_path / "out", EntryScore)
    assert list(videos) == ["v_a", "v_b"]
    assert [entry for entries in videos.values() for entry in entries] == list(report.entries)


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    return path


def dump(browser, page, profile):
    """The page after its scripts have run, and what they have said."""
    profile.mkdir()
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    more = "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --dump-dom"
    command = [browser, *flags.split(), *more.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_the_page_without_an_error(runs, tmp_path, browser):
    page = tmp_path / "page.html"
    analyze(runs / "last", runs / "first", "--output", page)
    html, console = dump(browser, page, tmp_path / "profile")
    assert console == []
    shown = Page(html)
    assert {f"set0-{part}" for part in (*PARTS, "compared")} <= set(shown.ids)
    table = html[html.index('<div class="all-samples"') :]
    assert "4 of 4" in table  # written by the script
    assert table.count("<tr>") == 5
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; &amp;" in table
    assert "<img src=x" not in html


def test_an_error_of_the_script_would_be_seen(tmp_path, browser):
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>undefinedFunction()</script>")
    _, console = dump(browser, page, tmp_path / "profile")
    assert len(console) == 1
    assert "undefinedFunction is not defined" in console[0]


def test_the_table_can_be_sorted_and_filtered(runs, tmp_path, browser):
    page = tmp_path / "page.html"
    analyze(runs / "last", "--output", page)
    html = page.read_text(encoding="utf-8")
    actions = """<script>
      const field = document.querySelector(".all-samples input");
      [...document.querySelectorAll(".all-samples th")].find((cell) => cell.textContent === "video").click();
      field.value = "MOTION v_";
      field.dispatchEvent(new Event("input"));
    </script>"""
    page.write_text(html.replace("</body>", f"{actions}</body>"), encoding="utf-8")
    shown, console = dump(browser, page, tmp_path / "profile")
    assert console == []
    table = shown[shown.index('<div class="all-samples"') :]
    assert "2 of 4" in table
    assert re.findall(r'<td class="words">(v_\w)</td>', table) == ["v_a", "v_b"]


def test_without_a_name_the_page_lies_in_the_last_run(runs, capsys):
    page = runs / "first" / "analysis.html"
    assert analyze(runs / "last", runs / "first", "--examples", 1) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!")
    page.unlink()
