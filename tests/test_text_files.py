"""The folder of a text encoder: what is taken, what is refused in one line, and that no code in it runs."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast, RobertaForMaskedLM, RobertaModel

from models.text_encoder import load_text_encoder
from models.text_files import load_encoder_config, load_tokenizer, require_words
from tools.shapes.text import write_text_encoder

SENTENCES = ["the red square on the left", "the blue circle that moves right"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small RoBERTa with its tokenizer, without weights."""
    write_text_encoder(tmp_path / "encoder", SENTENCES, vocab_size=300)
    return tmp_path / "encoder"


def weights_of(folder: Path, model: Any = RobertaModel) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: t.clone() for name, t in model(load_encoder_config(str(folder))).state_dict().items()}


def shards(folder: Path, end: str, write: Callable[[dict[str, Tensor], Path], None]) -> dict[str, Tensor]:
    state = weights_of(folder)
    names = sorted(state)
    stem = "model" if end == "safetensors" else "pytorch_model"
    parts = {f"{stem}-0000{i + 1}-of-00002.{end}": names[i::2] for i in range(2)}
    for name, inside in parts.items():
        write({tensor: state[tensor] for tensor in inside}, folder / name)
    weight_map = {tensor: name for name, inside in parts.items() for tensor in inside}
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return state


WRITERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "sharded bin": lambda folder: shards(folder, "bin", torch.save),
    "sharded safetensors": lambda folder: shards(folder, "safetensors", save_file),
}


@pytest.mark.parametrize("form", WRITERS)
def test_weights_in_several_files_count_as_weights(folder: Path, form: str):
    state = WRITERS[form](folder)
    encoder = load_text_encoder(str(folder), frozen=True).roberta
    for name, tensor in encoder.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name]), name


def test_a_part_that_is_missing_or_lies_elsewhere_is_an_error(folder: Path):
    WRITERS["sharded bin"](folder)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model-00002-of-00002\.bin: no such file"):
        load_text_encoder(str(folder), frozen=True)
    content["weight_map"] = dict.fromkeys(content["weight_map"], "pytorch_model-00001-of-00002.bin")
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is not in pytorch_model-00001-of-00002\.bin; copy the whole folder"):
        load_text_encoder(str(folder), frozen=True)
    for bad in ("../other.bin", "/etc/passwd", ""):
        content["weight_map"] = dict.fromkeys(content["weight_map"], bad)
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"index\.json: .* in weight_map is no name of a file beside it"):
            load_text_encoder(str(folder), frozen=True)


@pytest.mark.parametrize("prefix", ["", "roberta.", "module.", "module.roberta."])
def test_names_of_a_whole_model_of_words_are_read(folder: Path, prefix: str):
    state = weights_of(folder)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / "pytorch_model.bin")
    encoder = load_text_encoder(str(folder), frozen=True).roberta
    for name in ("embeddings.word_embeddings.weight", "pooler.dense.bias", "encoder.layer.1.output.dense.weight"):
        assert torch.equal(encoder.state_dict()[name], state[name])


def test_a_pooler_that_stays_random_is_said_and_the_way_out_works(folder: Path, caplog, capsys):
    """Not refused: the published recipes with a frozen encoder start so, from the file on the hub."""
    torch.save(weights_of(folder, RobertaForMaskedLM), folder / "pytorch_model.bin")
    load_text_encoder(str(folder), frozen=True)
    assert "no weights of the pooler: it starts at random and stays random" in caplog.text
    caplog.clear()
    first, second = (load_text_encoder(str(folder), frozen=True, pooling="mean").eval() for _ in range(2))
    with torch.no_grad():
        tokens = first.tokenize(SENTENCES)
        assert torch.equal(first(tokens)[1], second(tokens)[1]), "nothing in it is random"
    assert "pooler" not in caplog.text
    load_text_encoder(str(folder), frozen=False)
    assert "no weights of the pooler: it starts at random and is trained" in caplog.text
    caplog.clear()
    load_text_encoder(str(folder), frozen=True, weights_follow=True)
    assert "pooler" not in caplog.text
    assert "MISSING" not in caplog.text + capsys.readouterr().err, "the tables of transformers are not for users"


def test_other_files_do_not_count_as_weights_and_are_named(folder: Path):
    save_file({"adapter": torch.zeros(2)}, folder / "adapter.safetensors")
    with pytest.raises(
        ValueError, match=r"holds no weights \(adapter\.safetensors is not read, but model\.safetensors"
    ):
        load_text_encoder(str(folder), frozen=True)


DAMAGED: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "NaN": (
        lambda s: s | {"pooler.dense.weight": s["pooler.dense.weight"] * torch.nan},
        "pooler.dense.weight holds NaN",
    ),
    "integer": (lambda s: s | {"pooler.dense.bias": s["pooler.dense.bias"].int()}, "pooler.dense.bias holds int32"),
    "vocabulary": (
        lambda s: s | {"embeddings.word_embeddings.weight": torch.ones(50, 64)},
        r"embeddings.word_embeddings.weight is \(50, 64\), and config.json asks for \(\d+, 64\)",
    ),
    "layer": (
        lambda s: {name: tensor for name, tensor in s.items() if "layer.1.output" not in name},
        r"4 weights are missing, such as encoder.layer.1.output.LayerNorm.bias",
    ),
    "other": (
        lambda s: {"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)},
        "weights are missing, .*they are a kind of ResNet, not a roberta",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_not_those_of_the_encoder_are_refused(folder: Path, form: str, damage: str):
    change, message = DAMAGED[damage]
    state = change(weights_of(folder))
    (save_file if form == "model.safetensors" else torch.save)(state, folder / form)
    with pytest.raises(ValueError, match=message) as error:
        load_text_encoder(str(folder), frozen=True)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pointer_in_place_of_the_weights_is_told(folder: Path):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ValueError, match=r"model\.safetensors .*a pointer of Git LFS"):
        load_text_encoder(str(folder), frozen=True)


# ---- code ----


AUTO_MAP = {"AutoConfig": "evil.EvilConfig", "AutoTokenizer": ["evil.EvilTokenizer", None]}
"""What a folder says that asks for code."""


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_the_folder_does_not_run_although_the_terminal_says_yes(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    ran = folder / "it_ran"
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w')\n"
        "from transformers import RobertaConfig as EvilConfig, RobertaTokenizer as EvilTokenizer\n"
    )
    content = json.loads((folder / name).read_text()) | {"auto_map": AUTO_MAP}
    content |= {"model_type": "evil"} if name == "config.json" else {"tokenizer_class": "EvilTokenizer"}
    (folder / name).write_text(json.dumps(content))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\ny\n"))
    with pytest.raises(ValueError, match=rf"{name} asks for code that comes with the model \(auto_map\)"):
        load_text_encoder(str(folder), frozen=False)
    # Nor where the files are not looked at before, as those of an id of the hub.
    if name == "config.json":
        with pytest.raises(ValueError, match=r"config\.json cannot be used: .*custom code"):
            load_encoder_config(str(folder))
    else:
        load_tokenizer(str(folder))
    assert not ran.exists()


# ---- tokenizer ----


def test_a_folder_without_tokenizer_files_is_refused(folder: Path):
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    with pytest.raises(ValueError, match=r"holds no vocabulary of a tokenizer .*all sentences would be the same"):
        load_text_encoder(str(folder), frozen=False)


def write_words(folder: Path, vocabulary: dict[str, int], *, letters_become: str | None = None) -> None:
    """A tokenizer of whole words in the place of that of the folder."""
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    tokenizer = Tokenizer(WordLevel({**special, **vocabulary}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if letters_become is not None:
        tokenizer.normalizer = Replace(Regex("[a-z]+"), letters_become)
    for path in folder.glob("*"):
        if path.name != "config.json":
            path.unlink()
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


@pytest.mark.parametrize(
    ("vocabulary", "letters_become", "message"),
    [
        ({"dog": 4, "cat": 5, "left": 6}, "left", r"gives 'cat' and 'dog' the same ids \[6\]"),
        ({"dog": 4, "cat": 5, "left": 6}, "?", "does not know 3 of 3 words of its own vocabulary, such as 'cat'"),
        ({"[unused0]": 4, "9": 5}, None, "the vocabulary of its tokenizer holds no words"),
        ({"dog": 4, "cat": 5000}, None, r"its tokenizer has ids up to 5000, and config\.json says vocab_size=\d+"),
    ],
)
def test_a_tokenizer_that_does_not_tell_words_apart_is_refused(
    folder: Path, vocabulary: dict[str, int], letters_become: str | None, message: str
):
    write_words(folder, vocabulary, letters_become=letters_become)
    with pytest.raises(ValueError, match=message) as error:
        load_text_encoder(str(folder), frozen=False)
    assert str(folder) in str(error.value)


def test_tokenizers_of_few_words_and_the_real_one_pass(folder: Path, shared_dir: Path):
    write_words(folder, {"dog": 4, "cat": 5})
    for path in (str(folder), str(shared_dir / "data" / "roberta_tokenizer")):
        require_words(load_tokenizer(path), load_encoder_config(path), path)


def test_a_sentence_of_unknown_words_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture):
    write_words(folder, {"dog": 4, "cat": 5})
    encoder = load_text_encoder(str(folder), frozen=False)
    encoder.tokenize(["a dog", "the cat"])
    assert "knows no word" not in caplog.text
    encoder.tokenize(["a dog", "ein Hund"])
    encoder.tokenize(["\u72ac"])
    assert caplog.text.count("knows no word") == 1
    assert "ein Hund" in caplog.text


# ---- damaged files ----


def test_a_damaged_tokenizer_is_refused(folder: Path):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="its tokenizer cannot be read") as error:
        load_text_encoder(str(folder), frozen=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[1]", "config.json holds a list, expected names and values"),
        ("config.json", "", "config.json is damaged"),
        ("config.json", "[" * 100_000, "config.json is damaged .nested too deeply"),
        ("tokenizer.json", "", "tokenizer.json is damaged"),
        ("tokenizer_config.json", "\udcff", "tokenizer_config.json is damaged"),
    ],
)
def test_a_damaged_json_file_is_named(folder: Path, name: str, content: str, message: str):
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        load_text_encoder(str(folder), frozen=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 10**12}, r"vocab_size=1000000000000 .* more than .* parameters"),
        ({"hidden_size": 0}, "hidden_size=0, expected a whole number of at least 1"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_size": 64.5}, "hidden_size"),
        ({"num_attention_heads": 7}, "hidden_size=64 and num_attention_heads=7, which must divide it"),
        ({"max_position_embeddings": 1}, "max_position_embeddings=1, expected a whole number of at least 3"),
        ({"max_position_embeddings": 3}, "max_position_embeddings=3, which leaves 1 token"),
        ({"pad_token_id": 10**6}, "pad_token_id=1000000, expected one of the"),
        ({"hidden_act": "nonsense"}, "config.json makes no encoder of type roberta: .*nonsense"),
        ({"model_type": "foo"}, "config.json cannot be used: .*foo"),
        ({"model_type": "bert"}, "model_type=bert and architectures=RobertaModel, which is a roberta"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1, expected"),
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_encoder_is_refused(folder: Path, change: dict[str, Any], message: str):
    content = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        load_text_encoder(str(folder), frozen=False)
    assert str(folder) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_that_macos_writes_are_not_looked_at(folder: Path):
    (folder / "._config.json").write_bytes(b"\x00\x05\x16\x07")
    load_text_encoder(str(folder), frozen=False)


@pytest.mark.parametrize("path", ["", "a/b/c", "no folder", "~/encoder", "../encoder"])
def test_a_path_that_is_neither_folder_nor_id_is_not_looked_for_on_the_hub(path: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        load_text_encoder(path, frozen=False)


def test_a_folder_of_links_is_read_as_the_cache_of_the_hub_has_it(folder: Path, tmp_path: Path):
    torch.save(weights_of(folder), folder / "pytorch_model.bin")
    (tmp_path / "links").mkdir()
    for path in folder.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    load_text_encoder(str(tmp_path / "links"), frozen=True)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"model\.text_encoder\.path"):
        load_text_encoder(str(tmp_path / "links"), frozen=True)
