import ctypes
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from media.video import write_video
from models.inference import encode_sentences, segment_clip
from models.postprocess import best_queries
from models.saved_model import load_saved_model
from tests.doc_blocks import blocks
from tests.tiny_model import tiny_soc
from tests.tiny_saved_model import write_tiny_saved_model
from tools.export import __main__ as command
from tools.export.check import Comparison, compare, require_equal, require_similar
from tools.export.convert import make_parts, to_onnx, to_openvino
from tools.export.frames import windows_of_video
from tools.export.quantise import quantise_video, store_in_eight_bits
from tools.export.run import ExportedModel, _windows

SIZE = (40, 56)
MIN_SCORE = 1e-6
SENTENCES = ["the square on the left", "a square"]
TINY = {
    "visual_encoder": {"name": "timm/test_efficientnet"},
    "text_encoder": {"path": "{data.root}/text_encoder", "frozen": False},
    "dim": 16,
    "num_heads": 2,
    "num_queries": 3,
    "ffn_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_cluster_layers": 1,
    "num_points": 2,
    "trajectory": True,
}
NEEDS = "needs the packages of requirements-export.txt"

pytestmark = pytest.mark.slow


def arguments(model, output, *others):
    return ["--model", str(model), "--format", "onnx", "--output", str(output), "--size", "40x56", *others]


def random_frames(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def quiet_tracing():
    """The log in which PyTorch keeps every step of an export would be collected by pytest."""
    logger = logging.getLogger("torch.__trace")
    before, logger.propagate = logger.propagate, False
    yield
    logger.propagate = before


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, model) with an encoder that sees every frame on its own."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    write_tiny_saved_model(folder, min_score=MIN_SCORE, model=TINY)
    return folder, load_saved_model(folder)[0]


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """The folder of an export to ONNX; tests that change it copy it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NEEDS)
    folder = tmp_path_factory.mktemp("exported") / "my model"
    assert command.main(arguments(saved[0], folder, "--frames", "2")) == 0
    return folder


def answers_of(model, frames, sentences):
    """What the model itself says: its outputs, and the best query of each sentence."""
    cpu = torch.device("cpu")
    with torch.no_grad():
        texts = encode_sentences(model, sentences, group=len(sentences), device=cpu)
        (layer,) = segment_clip(model, torch.from_numpy(frames).movedim(-1, 1), texts, device=cpu)
    return layer, best_queries(layer)


@pytest.mark.parametrize(("num_frames", "sentences"), [(1, SENTENCES[1:]), (5, SENTENCES), (2, [*SENTENCES, "a"])])
def test_any_number_of_frames_and_sentences_gives_what_the_model_gives(saved, exported, num_frames, sentences):
    frames, model = random_frames(num_frames), ExportedModel(exported)
    layer, best = answers_of(saved[1], frames, sentences)
    mask_logits = torch.stack([layer.masks_in(sample) for sample in range(len(sentences))])
    text = model.encode_text(sentences)
    outputs = model.segment(model.encode_video(frames), text)
    for one, other in (
        (outputs.class_logits, layer.class_logits),
        (outputs.boxes_cxcywh_norm, layer.boxes_cxcywh_norm),
        (outputs.mask_logits, mask_logits),
        (outputs.embeddings, layer.cluster),
    ):
        assert other.std() > 0
        # of the largest value: sums in another order
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4 * float(other.abs().max()))
    for answer, prediction in zip(model.choose(outputs), best, strict=True):
        assert (answer.query, answer.is_found) == (prediction.query, prediction.score >= MIN_SCORE)
        assert answer.score == pytest.approx(prediction.score, abs=1e-5)


def test_another_sentence_gives_another_mask_and_the_sentences_keep_their_order(saved, exported):
    frames, model = random_frames(3), ExportedModel(exported)
    answers = model(frames, SENTENCES)
    swapped = model(frames, [model.encode_text([sentence]) for sentence in SENTENCES[::-1]])
    size = (80, 100)
    _, best = answers_of(saved[1], frames, SENTENCES)
    assert not np.array_equal(answers[0].mask_logits, answers[1].mask_logits)
    for answer, other, prediction in zip(answers, swapped[::-1], best, strict=True):
        assert answer.is_found
        np.testing.assert_array_equal(answer.masks(size), other.masks(size))
        wanted = prediction.masks_at(size).numpy()
        assert 0 < wanted.mean() < 1
        assert (answer.masks(size) != wanted).mean() < 1e-3  # Pillow resizes, not PyTorch


def test_a_sentence_that_is_not_found_has_no_mask(exported):
    model = ExportedModel(exported)
    model.about["min_score"] = 1.1
    (answer,) = model(random_frames(2), SENTENCES[:1])
    assert not answer.is_found
    assert answer.masks((10, 12)).shape == (2, 10, 12)
    assert not answer.masks((10, 12)).any()


def test_the_folder_says_what_it_is(exported):
    about = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    assert (about["size"], about["frames"], about["min_score"], about["int8"]) == ([40, 56], None, MIN_SCORE, [])
    assert about["inputs"]["video"] == {"frames": ["time", 40, 56, 3]}
    assert about["inputs"]["text"] == {"ids": ["sentence", "word"], "attention_mask": ["sentence", "word"]}
    assert about["check"]["flipped_pixels"] <= about["check"]["bounds"]["flipped_pixels"]
    assert sorted(path.name for path in exported.iterdir()) == sorted(
        ["README.md", "export.json", "run.py", "tokenizer.json", "video.onnx", "text.onnx", "segment.onnx"]
    )
    assert "40 x 56" in (exported / "README.md").read_text(encoding="utf-8")


def test_the_runner_needs_no_pytorch(exported, tmp_path):
    frames, names = random_frames(5), []
    for number, frame in enumerate(frames):
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(frame).save(names[-1])
    told = [*names, "--sentence", SENTENCES[0], "--sentence", SENTENCES[1], "--output", "masks", "--window", "3"]
    program = (
        "import runpy, sys\nsys.modules['torch'] = None\n"
        f"sys.argv = {['run.py', *told]!r}\nrunpy.run_path({str(exported / 'run.py')!r}, run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    model = ExportedModel(exported)
    for window in ([0, 1, 2], [2, 3, 4]):
        for number, answer in enumerate(model(frames[window], SENTENCES)):
            written = [np.asarray(Image.open(tmp_path / "masks" / str(number) / f"{name}.png")) for name in window]
            keep = slice(0, 2 if window[0] == 0 else 3)  # frame 2 is in both windows, and the later one counts
            np.testing.assert_array_equal(np.stack(written)[keep] > 0, answer.masks(SIZE)[keep])


@pytest.mark.parametrize(
    ("num_frames", "length", "expected"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3], [3, 4]]),
        (2, 3, [[0, 1, 1]]),
        (3, 3, [[0, 1, 2]]),
        (4, 3, [[0, 1, 2], [1, 2, 3]]),
    ],
)
def test_windows_have_one_length_and_hold_every_frame(num_frames, length, expected):
    assert _windows(num_frames, length) == expected


def test_the_example_of_the_page_runs_with_onnx_runtime_alone(saved, exported, repository, tmp_path, monkeypatch):
    (block,) = blocks(repository / "docs" / "export.md", "python")
    assert "from run" not in block.text
    frames = random_frames(3)
    Image.fromarray(frames[0]).save(tmp_path / "frame.jpg", quality=100, subsampling=0)
    pixels = np.asarray(Image.open(tmp_path / "frame.jpg"))
    shutil.copytree(exported, tmp_path / "my_export")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, "docs/export.md", "exec"), {})  # noqa: S102  # the example is ours
    _, (best,) = answers_of(saved[1], pixels[None], ["the dog on the left"])
    wanted = best.masks_at(SIZE)[0].numpy()
    assert 0 < wanted.mean() < 1
    assert ((np.asarray(Image.open(tmp_path / "mask.png")) > 0) != wanted).mean() < 1e-3


def test_another_model_does_not_pass_the_check(exported, saved, tmp_path):
    write_tiny_saved_model(tmp_path / "other", model={**TINY, "num_queries": 3}, train={"seed": 5})
    other = load_saved_model(tmp_path / "other")[0]
    with torch.no_grad():
        other.class_heads[0].bias.add_(0.1)
    own, foreign = (
        compare(model, ExportedModel(exported), [random_frames(2)], SENTENCES) for model in (saved[1], other)
    )
    require_equal(own, what="it")
    with pytest.raises(ValueError, match="differs from the model"):
        require_equal(foreign, what="it")


def test_the_bounds_are_kept():
    good = Comparison({"boxes": 1e-4}, 0.0, (0.99,), same_found=True)
    require_equal(good, what="it")
    require_similar(good, SENTENCES)
    for bad in (
        Comparison({"boxes": 2e-3}, 0.0, (1.0,), same_found=True),
        Comparison({"boxes": 0.0}, 2e-4, (1.0,), same_found=True),
        Comparison({"boxes": float("nan")}, 0.0, (1.0,), same_found=True),
    ):
        with pytest.raises(ValueError, match="nothing is written"):
            require_equal(bad, what="it")
    for bad in (
        Comparison({"boxes": 0.0}, 0.0, (0.99, 0.9), same_found=True),
        Comparison({"boxes": 0.0}, 0.0, (1.0,), same_found=False),
    ):
        with pytest.raises(ValueError, match="eight bits"):
            require_similar(bad, SENTENCES)
    with pytest.raises(ValueError, match="finds none of the sentences"):
        require_similar(Comparison({"boxes": 0.0}, 0.0, (), same_found=True), SENTENCES)


def test_the_output_is_whole_or_not_there(saved, exported, tmp_path, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        return Comparison({"boxes": 1.0}, 0.5, (), same_found=False)

    monkeypatch.setattr(command, "compare", fail)
    monkeypatch.setattr(command, "make_parts", lambda *_arguments, **_options: {})
    monkeypatch.setattr(command, "runner", SimpleNamespace(**{**vars(command.runner), "ExportedModel": lambda _: None}))
    assert command.main(arguments(saved[0], tmp_path / "out")) == 2
    assert "differs from the model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(exported, tmp_path / "out")
    assert command.main(arguments(saved[0], tmp_path / "out", "--overwrite")) == 2
    assert len(list((tmp_path / "out").iterdir())) == 7, "the earlier export stays"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_is_not_replaced_unasked(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "require_packages", lambda *_arguments, **_options: None)
    (tmp_path / "export.json").touch()
    assert command.main(arguments(saved[0], tmp_path)) == 2
    assert "holds an export already" in capsys.readouterr().err
    (tmp_path / "export.json").rename(tmp_path / "thesis.txt")
    assert command.main(arguments(saved[0], tmp_path, "--overwrite")) == 2
    assert "holds thesis.txt, and no export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "missing"), [("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino")]
)
def test_a_missing_package_is_one_message(saved, tmp_path, monkeypatch, capsys, kind, missing):
    find = importlib.util.find_spec
    known = SimpleNamespace()
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *others: (
            None if name == missing else known if name.startswith(("onnx", "openvino")) else find(name, *others)
        ),
    )
    told = arguments(saved[0], tmp_path / "out")
    told[told.index("onnx")] = kind
    assert command.main(told) == 2
    said = capsys.readouterr().err
    assert f"needs the package {missing}: pip install -r requirements-export.txt" in said
    assert not (tmp_path / "out").exists()


def test_int8_without_a_video_is_refused(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "require_packages", lambda *_arguments, **_options: None)
    assert command.main(arguments(saved[0], tmp_path / "out", "--int8")) == 2
    assert "--int8 needs --video" in capsys.readouterr().err


@pytest.fixture(scope="module")
def with_openvino(exported, tmp_path_factory):
    """The same folder, in the format of OpenVINO."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip(NEEDS)
    folder = tmp_path_factory.mktemp("openvino")
    about = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    about |= {"format": "openvino", "files": {part: f"{part}.xml" for part in about["files"]}}
    for part, file in about["files"].items():
        to_openvino(exported / f"{part}.onnx", folder / file)
    shutil.copy(exported / "tokenizer.json", folder)
    (folder / "export.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def test_openvino_says_the_same(saved, with_openvino):
    windows = [random_frames(1), random_frames(3, seed=1)]
    require_equal(compare(saved[1], ExportedModel(with_openvino), windows, SENTENCES), what="OpenVINO")


def test_openvino_tells_its_makers_nothing(with_openvino):
    ExportedModel(with_openvino)
    assert sys.modules["openvino"]
    assert sys.modules["openvino_telemetry"] is None


class SignalStack(ctypes.Structure):
    """`stack_t` of signal.h: where the handlers of this thread run."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack():
    """(address, size) of the one of this thread; the address is None where there is none."""
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.address, stack.size


@pytest.mark.skipif(sys.platform != "linux", reason="where OpenVINO has stacks for signals")
def test_openvino_leaves_no_stack_for_signals_that_goes_with_the_model(with_openvino):
    before = signal_stack()
    models = [ExportedModel(with_openvino)]
    models[0].encode_video(random_frames(1))
    assert signal_stack() == before
    thread = threading.Thread(target=models.clear)
    thread.start()
    thread.join()
    assert signal_stack() == before


def test_matrices_in_eight_bits_are_rounded_row_by_row(exported, tmp_path):
    onnx = pytest.importorskip("onnx", reason=NEEDS)
    shutil.copytree(exported, tmp_path / "small")
    store_in_eight_bits(exported / "text.onnx", tmp_path / "small" / "text.onnx")
    before, after = (
        {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load(folder / "text.onnx").graph.initializer
        }
        for folder in (exported, tmp_path / "small")
    )
    rounded = [name for name in before if f"{name}.int8" in after]
    assert len(rounded) > 3
    for name in rounded:
        assert after[f"{name}.int8"].dtype == np.int8
        assert name not in after, "the floats are gone"
        scale = after[f"{name}.scale"][:, None]
        assert np.abs(after[f"{name}.int8"] * scale - before[name]).max() <= 0.5001 * scale.max()
    one, other = (ExportedModel(folder).encode_text(SENTENCES) for folder in (exported, tmp_path / "small"))
    assert not np.array_equal(one.words, other.words)
    assert np.corrcoef(one.words.ravel(), other.words.ravel())[0, 1] > 0.98
    assert np.corrcoef(one.sentence.ravel(), other.sentence.ravel())[0, 1] > 0.98


def test_the_visual_encoder_in_eight_bits_is_calibrated_on_frames(exported, tmp_path):
    import onnx

    shutil.copytree(exported, tmp_path / "small")
    quantise_video(exported / "video.onnx", tmp_path / "small" / "video.onnx", [random_frames(2), random_frames(2, 1)])
    graph = onnx.load(tmp_path / "small" / "video.onnx").graph
    made_by = {node.output[0]: node.op_type for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_eight_bits = [made_by.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert any(in_eight_bits)
    assert not in_eight_bits[0], "the first one stays in floats"
    of_projections = [flag for node, flag in zip(convolutions, in_eight_bits, strict=True) if "level" in node.input[1]]
    assert of_projections == [False] * 4
    frames = random_frames(2, 2)
    one, other = (ExportedModel(folder).encode_video(frames) for folder in (exported, tmp_path / "small"))
    for name, exact in one.items():
        assert np.corrcoef(exact.ravel(), other[name].ravel())[0, 1] > 0.95, name


def test_windows_of_a_video_are_spread_evenly(tmp_path):
    with write_video(tmp_path / "clip.mp4", fps=10.0) as writer:
        for number in range(10):
            writer.add(np.full((48, 64, 3), 20 * number, dtype=np.uint8))
    windows = windows_of_video(tmp_path / "clip.mp4", 3, num_frames=2, size_px=SIZE)
    assert [window.shape for window in windows] == [(2, *SIZE, 3)] * 3
    brightness = [[round(frame.mean() / 20) for frame in window] for window in windows]
    assert brightness == [[0, 1], [4, 5], [8, 9]]
    with pytest.raises(ValueError, match="10 frames are too few"):
        windows_of_video(tmp_path / "clip.mp4", 3, num_frames=6, size_px=SIZE)


def test_an_encoder_of_windows_takes_exactly_their_frames(tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=NEEDS)
    onnxruntime = pytest.importorskip("onnxruntime", reason=NEEDS)
    model = tiny_soc().eval().requires_grad_(False)
    model.tokenize = lambda _: SimpleNamespace(
        ids=torch.tensor([[0, 5, 2], [0, 2, 1]]), is_padding=torch.tensor([[False] * 3, [False, False, True]])
    )
    part = make_parts(model, size_px=SIZE, num_frames=3)["video"]
    to_onnx(part, tmp_path / "video.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "video.onnx"))
    assert session.get_inputs()[0].shape == [3, *SIZE, 3]
    frames = random_frames(3)
    with torch.no_grad():
        wanted = part.module(torch.from_numpy(frames))
    for one, other in zip(session.run(None, {"frames": frames}), wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4 * float(other.abs().max()))
