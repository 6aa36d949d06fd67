"""What the server of the page gives out and refuses, asked over HTTP; skipped where Gradio is not installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from soc_rvos import Segmenter
from tests.tiny_labels import write_file, write_pngs
from tests.tiny_saved_model import write_tiny_saved_model
from tools.web.__main__ import MISSING
from tools.web.limits import MEGABYTE, Limits
from tools.web.sessions import Sessions

LIMITS = Limits(max_mb=0.2, max_seconds=2, queue=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("soc_web")


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    write_file(folder / "pets.mp4")
    write_pngs(folder / "labels")
    return folder


@pytest.fixture(scope="module")
def gradio():
    return pytest.importorskip("gradio", reason="the page needs Gradio (requirements-web.txt)")


@pytest.fixture(scope="module")
def page(gradio, root, sample_folder, tmp_path_factory):
    from tools.web.page import Page, Sample

    model = tmp_path_factory.mktemp("saved") / "m"
    write_tiny_saved_model(model)
    return Page(
        sessions=Sessions(root), limits=LIMITS, segmenter=Segmenter.from_pretrained(model, device="cpu"),
        model_name="m", samples=(Sample.copied(sample_folder / "pets.mp4", root / "samples" / "0"),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(page, root):
    from starlette.testclient import TestClient

    from tools.web.app import build_page
    from tools.web.server import build_server

    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(root / "uploads"))
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    server = build_server(build_page(page), page.sessions, LIMITS, host="127.0.0.1")
    with TestClient(server, base_url="http://127.0.0.1:7860") as client:
        yield client
    patch.undo()


def test_the_page_names_no_other_server_to_load_from(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.googleapis.com" not in answer.text
    assert "cdnjs" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "{uploads}/../../../../../../../etc/passwd",
        "{root}/samples/0/labels/sentences.json",
        "{root}/session/answer/overlay.mp4",
        "{cwd}/README.md",
        "README.md",
        "{uploads}",
    ],
)
def test_no_file_outside_of_the_uploads_is_given_out(client, root, path):
    (root / "session" / "answer").mkdir(parents=True, exist_ok=True)
    (root / "session" / "answer" / "overlay.mp4").write_bytes(b"secret of another visitor")
    path = path.format(root=root, uploads=root / "uploads", cwd=os.getcwd())  # noqa: PTH109
    for prefix in ("/gradio_api/file=", "/file=", "/"):
        answer = client.get(f"{prefix}{path}")
        assert answer.status_code in (400, 403, 404, 405), (prefix, path)
        assert b"root:" not in answer.content
        assert b"secret" not in answer.content
        assert b"# SOC" not in answer.content


def test_an_upload_can_be_read_by_whoever_knows_its_name_and_not_through_other_ways(client, root):
    answer = client.post("/gradio_api/upload", files={"files": ("../../../evil.mp4", b"hello")})
    assert answer.status_code == 200
    (path,) = answer.json()
    assert (root / "uploads") in Path(path).parents
    assert client.get(f"/gradio_api/file={path}").content == b"hello"
    assert not list(root.parent.glob("evil.mp4"))


def test_files_of_other_servers_are_not_fetched(client):
    for path in ("/gradio_api/file=http://127.0.0.1:1/x", "/gradio_api/file=https://example.org/x"):
        assert client.get(path).status_code == 403


def test_uploads_that_are_too_large_are_refused(client, root):
    before = sorted((root / "uploads").rglob("*"))
    for size in (LIMITS.max_bytes + 1000, LIMITS.max_bytes + 2 * MEGABYTE):
        answer = client.post("/gradio_api/upload", files={"files": ("a.mp4", b"\0" * size)})
        assert answer.status_code == 413, size
    assert [path for path in sorted((root / "uploads").rglob("*.mp4")) if path not in before] == []


def test_other_pages_and_other_names_of_the_server_are_refused(client):
    assert client.get("/", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Origin": "http://127.0.0.1:7860"}).status_code == 200


def test_only_files_that_were_uploaded_are_read(page, root, sample_folder):
    for path in (
        "/etc/passwd",
        str(sample_folder / "pets.mp4"),
        str(root / "uploads" / ".." / "samples" / "0" / "pets.mp4"),
    ):
        with pytest.raises(ValueError, match="the video is not there any more"):
            page.uploaded(path, what="video")
    link = root / "uploads" / "link.mp4"
    link.symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="the video is not there any more"):
        page.uploaded(str(link), what="video")
    with pytest.raises(ValueError, match="there is no video: upload one"):
        page.uploaded(None, what="video")
    upload = root / "uploads" / "clip.mp4"
    shutil.copyfile(sample_folder / "pets.mp4", upload)
    assert page.uploaded(str(upload), what="video") == upload.resolve()


def test_a_sample_is_copied_with_its_png_labels_and_gives_sentences(page, root):
    (sample,) = page.samples
    assert root in sample.video.parents
    assert {path.suffix for path in sample.labels.iterdir()} == {".png", ".json"}
    assert sample.sentences() == ["The brown dog", "the grey cat", "the white dog"]


def test_without_gradio_the_command_says_how_to_get_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nf = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'gradio' else f(n, *a)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tools.web"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: {MISSING}\n"
