"""Saved models on a hub: the calls of huggingface_hub run against a server on this machine, no real hub was asked."""

import numpy as np
import pytest
from huggingface_hub import constants

from soc_rvos import Segmenter
from tests.fake_hub import FakeHub
from tests.tiny_saved_model import write_tiny_saved_model

PARTS = {"README.md", "config.yaml", "model.safetensors"}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    write_tiny_saved_model(folder, min_score=0.001)
    return Segmenter.from_pretrained(folder, device="cpu")


def answer_at(monkeypatch, address):
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub()
    with fake.serve() as address:
        answer_at(monkeypatch, address)
        yield fake


def pull(name, tmp_path, **options):
    return Segmenter.from_pretrained(name, device="cpu", cache_dir=tmp_path / "cache", token=False, **options)


def answers(segmenter):
    video = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    return np.asarray(segmenter(video, ["a square"]).masks)


def test_a_model_goes_to_the_hub_and_comes_back(segmenter, hub, tmp_path):
    url = segmenter.push_to_hub("me/squares", token="hf_secret", private=True)
    assert "/me/squares/commit/" in url
    uploaded = hub.files["me/squares", "main"]
    assert set(uploaded) > PARTS
    assert "text_encoder/tokenizer.json" in uploaded
    assert hub.private == {"me/squares"}
    assert "Bearer hf_secret" in hub.tokens
    back = pull("me/squares", tmp_path)
    assert back.settings == segmenter.settings
    np.testing.assert_array_equal(answers(back), answers(segmenter))


def test_what_was_downloaded_is_not_asked_for_again_and_works_without_the_hub(segmenter, hub, tmp_path, monkeypatch):
    segmenter.push_to_hub("me/squares", token=False)
    pull("me/squares", tmp_path)
    before = len([path for method, path in hub.asked if method == "GET" and "resolve" in path])
    assert before > 0
    pull("me/squares", tmp_path)
    assert len([path for method, path in hub.asked if method == "GET" and "resolve" in path]) == before
    answer_at(monkeypatch, "http://127.0.0.1:9")
    np.testing.assert_array_equal(answers(pull("me/squares", tmp_path, local_files_only=True)), answers(segmenter))


def test_a_revision_is_taken(segmenter, hub, tmp_path):
    segmenter.push_to_hub("me/squares", token=False)
    segmenter.with_settings(threshold=0.9).push_to_hub("me/squares", token=False, revision="careful")
    assert pull("me/squares", tmp_path).settings.threshold == 0.5
    assert pull("me/squares", tmp_path, revision="careful").settings.threshold == 0.9


def test_only_the_parts_of_a_saved_model_are_downloaded(segmenter, hub, tmp_path):
    segmenter.push_to_hub("me/squares", token=False)
    hub.files["me/squares", "main"] |= {"big.bin": b"x", "run.py": b"x", "text_encoder/pytorch_model.bin": b"x"}
    pull("me/squares", tmp_path)
    assert not [path for _, path in hub.asked if path.endswith(("big.bin", "run.py", "model.bin"))]


def test_what_cannot_be_had_is_said_in_one_message(segmenter, hub, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"me/nothing: there is no such folder, and no model of this id") as caught:
        pull("me/nothing", tmp_path)
    assert "\n" not in str(caught.value)
    segmenter.push_to_hub("me/squares", token=False)
    with pytest.raises(ValueError, match=r"me/squares: .*RevisionNotFoundError"):
        pull("me/squares", tmp_path, revision="v9")
    hub.files["me/foreign", "main"] = {"README.md": b"# Another model", "pytorch_model.bin": b"x"}
    with pytest.raises(ValueError, match="is not a saved model"):
        pull("me/foreign", tmp_path)
    answer_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"me/other: there is no such folder, and no model of this id could be had"):
        pull("me/other", tmp_path)
    with pytest.raises(ValueError, match=r"me/squares: cannot be uploaded"):
        segmenter.push_to_hub("me/squares", token=False)


def test_a_name_that_is_neither_folder_nor_id_is_not_looked_for_on_the_hub(segmenter, hub, tmp_path):
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="no such folder, and no id of a model on the hub"):
            pull(name, tmp_path)
    segmenter.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match=r"revision=v1: .* is a folder on this machine"):
        pull(tmp_path / "m", tmp_path, revision="v1")
    assert hub.asked == []
