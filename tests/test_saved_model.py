import json
import os
import shutil
import socket
from copy import deepcopy

import pytest
import torch
from huggingface_hub import ModelCard as HubCard
from safetensors.torch import load_file, save_file

from configs.loader import dump_config, load_config
from media.files import atomic_folder
from models.build import load_weights
from models.inference import encode_sentences, segment_clip
from models.model_card import Measure, ModelCard, Source
from models.saved_model import load_saved_model, read_saved_config, save_model
from tests.tiny_run import SENTENCES
from tests.tiny_saved_model import write_tiny_saved_model
from tools.export_model import main as export_main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, model, configuration); tests that change the folder copy it."""
    folder = tmp_path_factory.mktemp("saved") / "my model"
    return folder, *write_tiny_saved_model(folder, min_score=0.25)


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "copy")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def outputs_of(model):
    """Everything that the model says about a clip and two sentences."""
    frames = torch.randint(0, 256, (3, 3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        texts = encode_sentences(model, SENTENCES[:2], group=2, device=torch.device("cpu"))
        (layer,) = segment_clip(model, frames, texts, device=torch.device("cpu"))
    return torch.stack([layer.masks_in(i) for i in range(2)]), layer.class_logits, layer.boxes_cxcywh_norm


def test_a_saved_model_says_what_it_said_before_to_the_bit(saved, no_network):
    folder, model, _ = saved
    loaded, _ = load_saved_model(folder)
    assert not loaded.training
    before, after = outputs_of(model), outputs_of(loaded)
    assert before[0].std() > 0
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_the_folder_can_be_moved_and_read_from_anywhere(saved, copied, tmp_path, monkeypatch, no_network):
    moved = copied.rename(tmp_path / "elsewhere")
    shutil.rmtree(saved[0].with_name("my model_run"))  # nothing that it was made from is needed
    monkeypatch.chdir(tmp_path)
    config = read_saved_config(moved.relative_to(tmp_path))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert config.model.weights == moved / "model.safetensors", "a relative folder stays right after a chdir"
    loaded, _ = load_saved_model(moved)
    for one, other in zip(outputs_of(saved[1]), outputs_of(loaded), strict=True):
        assert torch.equal(one, other)


def test_the_configuration_is_that_of_the_model_with_its_threshold(saved):
    folder, _, before = saved
    after = read_saved_config(folder, ["predict.threshold=0.4"])
    assert after.predict.min_score == 0.25
    assert after.predict.threshold == 0.4
    assert after.data.short_side == before.data.short_side
    assert after.data.eval_num_frames == before.data.eval_num_frames
    same = {"weights": None, "text_encoder": None}
    assert after.model.model_copy(update=same) == before.model.model_copy(update=same)


def test_the_folder_names_no_place_of_the_machine(saved):
    folder, _, before = saved
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.yaml", "model.safetensors", "text_encoder",
    ]  # fmt: skip
    place = str(before.output_dir.parent.parent).encode()
    for path in folder.rglob("*"):
        assert path.is_dir() or place not in path.read_bytes(), f"{path.name} names a folder of this machine"
    modes = {path.stat().st_mode for path in folder.iterdir() if path.is_file()}
    assert len(modes) == 1, "whoever may read one file may read all"


def test_weights_beside_the_tokenizer_are_not_looked_at(saved, copied):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (copied / "text_encoder" / name).write_bytes(b"no weights")
        loaded, _ = load_saved_model(copied)
        assert torch.equal(outputs_of(loaded)[0], outputs_of(saved[1])[0])


def test_paths_inside_of_data_sets_keep_their_last_name_alone(tmp_path):
    root = tmp_path / "secret" / "davis"
    sets = ({"dataset": "ref_davis17", "root": root, "expressions": root / "texts"},)
    model, config = write_tiny_saved_model(tmp_path / "first", data={"sets": sets, "cache": tmp_path / "secret"})
    asked = {"video": (f"{root}/clip.mp4",), "sentences": ("a dog",), "sentences_file": root / "s.txt", "start": "3f"}
    predict = config.predict.model_copy(update=asked)
    save_model(tmp_path / "m", model, config.model_copy(update={"predict": predict}))
    assert read_saved_config(tmp_path / "m").predict == config.predict, "what was asked last is no part of the model"
    text = (tmp_path / "m" / "config.yaml").read_text()
    assert "secret" not in text
    (settings,) = read_saved_config(tmp_path / "m").data.sets
    assert (str(settings.root), str(settings.expressions)) == ("davis", "texts")


def test_weights_that_share_memory_are_saved_and_read(saved, tmp_path):
    model, config = deepcopy(saved[1]), saved[2]
    model.class_heads[1].weight = model.class_heads[0].weight
    save_model(tmp_path / "shared", model, config)
    loaded, _ = load_saved_model(tmp_path / "shared")
    assert torch.equal(loaded.class_heads[1].weight, model.class_heads[0].weight)


def test_random_numbers_of_the_caller_stay_as_they_are(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_saved_model(saved[0])
    assert torch.equal(torch.rand(3), expected)


def test_the_weights_of_a_saved_model_start_a_training(saved):
    folder, model, _ = saved
    loaded, _ = load_saved_model(folder)
    for parameter in loaded.parameters():
        parameter.data.zero_()
    load_weights(loaded, folder / "model.safetensors")
    assert torch.equal(outputs_of(loaded)[0], outputs_of(model)[0])


# ---- whole or not at all ----


def test_a_folder_that_cannot_be_finished_does_not_appear(saved, tmp_path, monkeypatch):
    _, model, config = saved
    monkeypatch.setattr(type(model.text_encoder.tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path / "m", model, config)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_model_stays_until_the_new_one_is_complete(saved, copied, monkeypatch):
    _, model, config = saved
    before = (copied / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(type(model.text_encoder.tokenizer), "save_pretrained", fail)
        with pytest.raises(OSError, match="disk full"):
            save_model(copied, model, config, overwrite=True)
    assert (copied / "model.safetensors").read_bytes() == before
    other = config.model_copy(update={"predict": config.predict.model_copy(update={"min_score": 0.75})})
    save_model(copied, model, other, overwrite=True)
    assert read_saved_config(copied).predict.min_score == 0.75
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def fail(*_arguments, **_options):
    raise OSError("disk full")


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "old").touch()
    original = type(folder).rename

    def rename(path, target):
        if path.name.endswith(".new"):
            raise OSError("no")
        return original(path, target)

    monkeypatch.setattr(type(folder), "rename", rename)
    with pytest.raises(OSError, match="no"), atomic_folder(folder) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_ctrl_c_just_when_the_new_folder_is_there_leaves_nothing(tmp_path, monkeypatch):
    """The signal is handled at the next step of Python, and the folder can be on the disk by then."""
    original = os.mkdir

    def mkdir(path, *arguments, **named):
        original(path, *arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "m"):
        pytest.fail("interrupted before")
    assert list(tmp_path.iterdir()) == []


def test_only_a_saved_model_is_replaced_and_only_when_told(saved, copied, tmp_path):
    _, model, config = saved
    with pytest.raises(ValueError, match="holds a saved model already"):
        save_model(copied, model, config)
    (copied / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes\.txt, so it is no saved model"):
        save_model(copied, model, config, overwrite=True)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="is a file"):
        save_model(file, model, config, overwrite=True)
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", model, config)
    assert read_saved_config(tmp_path / "empty").predict.min_score == 0.25


def test_a_model_without_threshold_is_not_saved(saved, tmp_path):
    _, model, config = saved
    without = config.model_copy(update={"predict": config.predict.model_copy(update={"min_score": None})})
    with pytest.raises(ValueError, match=r"predict\.min_score is not set"):
        save_model(tmp_path / "m", model, without)


# ---- folders that are no saved model, or a broken one: one message each ----


def remove(name):
    return lambda folder: (folder / name).unlink()


def ended_before(line):
    def damage(folder):
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text[: text.index(f"\n{line}") + 1])

    return damage


def cut(name, share=2):
    def damage(folder):
        size = (folder / name).stat().st_size
        os.truncate(folder / name, size // share)

    return damage


def one_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def other_format(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"soc_saved_model": "99"})


def of_another_model(folder):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("num_queries: 3", "num_queries: 4"))


def with_code(folder):
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}}))


def emptied(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "clip.mp4").touch()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, r"is not a saved model: it has no config\.yaml"),
        (remove("model.safetensors"), r"model\.safetensors of this saved model is missing"),
        (remove("config.yaml"), r"config\.yaml of this saved model is missing"),
        (remove("text_encoder/config.json"), r"text_encoder/config\.json of this saved model is missing"),
        (remove("text_encoder/tokenizer_config.json"), r"tokenizer_config\.json of this saved model is missing"),
        (cut("model.safetensors"), r"model\.safetensors is damaged"),
        (cut("model.safetensors", 10**9), r"model\.safetensors is damaged"),
        (one_bit, r"model\.safetensors cannot be read: it is damaged \(its weights are not those that were written"),
        (cut("text_encoder/tokenizer.json"), r"tokenizer\.json is damaged"),
        (cut("text_encoder/config.json"), r"config\.json is damaged"),
        (cut("config.yaml", 3), r"config\.yaml"),
        (ended_before("train:"), r"config\.yaml is damaged: it ends before num_threads; copy the folder again"),
        (other_format, "says soc_saved_model=99, and this version reads 1"),
        (with_code, r"config\.json asks for code"),
        (of_another_model, "does not fit the model"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_message(copied, damage, message):
    damage(copied)
    with pytest.raises(ValueError, match=message) as caught:
        load_saved_model(copied)
    assert str(copied) in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder; a saved model is expected"):
        load_saved_model(tmp_path / "nowhere")


# ---- the model card ----


def test_the_card_says_what_the_run_knows_and_the_hub_can_read_it(tmp_path):
    card = ModelCard(
        title="The dog",
        summary="Finds one dog: in a park.",
        licence="CC-BY-4.0",
        data=(Source("davis: mini", "CC-BY-NC-4.0", "12 labelled frames"), Source("my clips")),
        encoders=(Source("tf_efficientnet_lite0", "Apache-2.0", "of frames"),),
        sentences=("the brown dog",),
        measures=(Measure("J&F", "84.2 %", "4 held-out frames"),),
        command="python main.py teach --video clip.mp4",
        revision="abc123",
    )
    write_tiny_saved_model(tmp_path / "m", min_score=0.31, card=card)
    read = HubCard.load(tmp_path / "m" / "README.md")
    assert read.data.license == "cc-by-4.0"
    assert read.data.datasets == ["davis: mini", "my clips"]
    assert read.data.pipeline_tag == "image-segmentation"
    assert "referring-video-object-segmentation" in read.data.tags
    for text in (
        "# The dog",
        "Finds one dog: in a park.",
        "- davis: mini (12 labelled frames); licence: CC-BY-NC-4.0",
        "- my clips; licence: not stated",
        "- tf_efficientnet_lite0 (of frames); licence: Apache-2.0",
        '- "the brown dog"',
        "| J&F | 84.2 % | 4 held-out frames |",
        'A sentence whose score is below 0.3100 is answered with "not found"',
        "python main.py teach --video clip.mp4",
        "Revision of the code: abc123",
        "Of these weights: CC-BY-4.0",
    ):
        assert text in read.text, text


def test_a_card_without_a_run_claims_nothing(tmp_path):
    write_tiny_saved_model(tmp_path / "m")
    read = HubCard.load(tmp_path / "m" / "README.md")
    assert read.data.license is None
    assert read.data.datasets is None
    for text in ("What it was trained on was not stated", "Nothing was measured", "Of these weights: not stated"):
        assert text in read.text
    assert "No sentence is rejected" in read.text


# ---- the tool ----


def write_config(config, path):
    path.write_text(dump_config(config), encoding="utf-8")
    return path


def test_the_tool_makes_a_saved_model_of_a_checkpoint_with_its_stored_threshold(tmp_path, capsys):
    model, config = write_tiny_saved_model(tmp_path / "m")
    stored = tmp_path / "stored.pt"
    torch.save({"model": model.state_dict(), "min_score": {"value": 0.42}}, stored)
    without = config.model_copy(update={"predict": config.predict.model_copy(update={"min_score": None})})
    file = write_config(without, tmp_path / "c.yaml")
    arguments = ["--config", str(file), f"model.weights={stored}", "--output", str(tmp_path / "out")]
    told = ["--licence", "mit", "--data", "DAVIS-2017=CC-BY-NC-4.0", "--encoder", "tiny"]
    assert export_main([*arguments, *told]) == 0
    assert "sentences below 0.4200 are rejected" in capsys.readouterr().out
    loaded, after = load_saved_model(tmp_path / "out")
    assert after.predict.min_score == 0.42
    assert torch.equal(outputs_of(loaded)[0], outputs_of(model)[0])
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- DAVIS-2017; licence: CC-BY-NC-4.0" in text
    assert "- tiny; licence: not stated" in text
    assert export_main(arguments) == 2
    assert "holds a saved model already" in capsys.readouterr().err
    assert export_main([*arguments, "--overwrite", "predict.min_score=0.1"]) == 0
    assert read_saved_config(tmp_path / "out").predict.min_score == 0.1
    loadable = load_config(tmp_path / "out" / "config.yaml")
    assert loadable.predict.min_score == 0.1


def test_the_tool_wants_weights(tmp_path, capsys):
    _, config = write_tiny_saved_model(tmp_path / "m")
    file = write_config(config, tmp_path / "c.yaml")
    assert export_main(["--config", str(file), "model.weights=null", "--output", str(tmp_path / "out")]) == 2
    assert "model.weights is not set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
