"""Configurations that would hang, crash, or quietly mean something else: each is one line with its place."""

import os
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from configs.loader import ConfigError, load_config
from configs.model_schema import WIDTH_STEP
from configs.schema import Config
from configs.yaml_limits import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from datasets.table import DATASETS
from models.soc import CHANNELS_PER_GROUP

BASE = Path(__file__).resolve().parent.parent / "configs" / "base.yaml"


def problems_of(path: Path, overrides: tuple[str, ...] = ()) -> tuple[str, ...]:
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert time.monotonic() - start < 20, "an answer takes seconds, not minutes"
    assert all(
        len(problem) < 700 and "\n" not in problem and "\x1b" not in problem for problem in caught.value.problems
    )
    return caught.value.problems


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "c.yaml") -> Path:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path(name)

    return write


def laughs(levels: int) -> str:
    """YAML of a few hundred bytes that stands for 9 ** levels values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


REPEATED = ", ".join(["&a0 [x, x]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 8))])

MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}], y{i}: {i}}}\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        (laughs(10), "c.yaml:5: a4.1: ", f"more than {MAX_VALUES} values"),
        (MERGES, "c.yaml:5: ", f"more than {MAX_VALUES} values"),
        ("model: &a\n  x: *a\n", "c.yaml:2: ", "the alias *a stands inside of what it repeats"),
        ("stages: &a [*a]\n", "c.yaml:1: stages.0: ", "the alias *a stands inside"),
        ("<<: &a {<<: *a}\n", "c.yaml:1: ", "the alias *a stands inside"),
        ("a: " + "[" * 20000, "c.yaml:1: ", f"more than {MAX_DEPTH} sections and lists"),
        ("a: " + "[" * 600 + "]" * 600, "c.yaml:1: ", f"more than {MAX_DEPTH}"),
        ("- " * 20000, "c.yaml:1: ", f"more than {MAX_DEPTH}"),
        ("? " * 20000, "c.yaml:1: ", "expected a name as key"),
        ("{a: " * 5000, "c.yaml:1: ", f"more than {MAX_DEPTH}"),
        ("a: [" + "x, " * 30000 + "]", "c.yaml:1: ", f"more than {MAX_VALUES} values"),
        ("".join(f"k{i}: 1\n" for i in range(30000)), "c.yaml:10000: ", f"more than {MAX_VALUES} values"),
        ("a: " + "x" * MAX_BYTES, "c.yaml: ", "larger than"),
        (
            "train: !!python/object/apply:os.system ['touch pwned']\n",
            "c.yaml:1: train: ",
            "the tag !!python/object/apply:os",
        ),
        ("output_dir: !!binary aGVsbG8=\n", "c.yaml:1: output_dir: ", "the tag !!binary has no meaning here"),
        ("train: {seed: !!int '3'}\n", "c.yaml:1: train.seed: ", "the tag !!int"),
        ("train:\n  seed: !mine 3\n", "c.yaml:2: train.seed: ", "the tag !mine"),
        ("train: !!set {x, y}\n", "c.yaml:1: ", "the tag !!set"),
        ("train:\n  seed: " + "9" * 6000, "c.yaml:2: train.seed: ", "a number of 6000 digits"),
        ("train:\n  seed: 0x" + "f" * 6000, "c.yaml:2: train.seed: ", "an integer of about 7225 digits"),
        ("train:\n  seed: 0b" + "1" * 6000, "c.yaml:2: train.seed: ", "an integer of about 1806 digits"),
        ("train:\n  seed: 0x7fffffffffffffffffffffffffffffff", "c.yaml:2: train.seed: ", "at most 64 bits, got 1701"),
        ("optim:\n  lr: 1" + "0" * 350, "c.yaml:2: optim.lr: ", "expected a valid number"),
        ("<<: [1]\n", "c.yaml:1: ", "merg"),
        ("train: {seed: &a 1}\noptim: {lr: &a 1}\n", "c.yaml:2: optim.lr: ", "the anchor &a is given twice"),
        ("a: > #<<\n~? `}", "c.yaml", "not YAML"),
        ("? [a, b]\n: 1\n", "c.yaml:1: ", "expected a name as key"),
        ("{{a: 1}: 2}\n", "c.yaml:1: ", "expected a name as key"),
        ("train: {seed: 1, [a]: 2}\n", "c.yaml:1: train: ", "expected a name as key"),
        ("base: " + "x" * 300 + ".yaml\n", "c.yaml:1: base: ", "too long"),
        ("data: {root: 2026-99-99}\n", "c.yaml: ", "month"),
        ("train:\n\tseed: 1\n", "c.yaml:2: ", "\\t"),
        ("train: {seed: 1}\ntrain: {seed: 2}\n", "c.yaml:2: train: ", "stands twice"),
        ("output_dir: ''\n", "c.yaml:1: output_dir: ", "expected a path, got ''"),
        ("output_dir: .\n", "c.yaml:1: output_dir: ", "the working folder itself"),
        ("output_dir: runs/..\n", "c.yaml:1: output_dir: ", "the working folder itself"),
        ("output_dir: c.yaml\n", "c.yaml:1: output_dir: ", "c.yaml is a file"),
        ("data: {root: ''}\n", "c.yaml:1: data.root: ", "expected a path, got ''"),
        ("data: {sets: [{dataset: mevis, root: ''}]}\n", "c.yaml:1: data.sets.0.root: ", "expected a path"),
        ('output_dir: "a\\0b"\n', "c.yaml:1: output_dir: ", "without NUL"),
        ('predict: {sentences: ["a\\0b"]}\n', "c.yaml:1: predict.sentences: ", "without NUL"),
        ('predict: {sentences: ["a\\ud800b"]}\n', "c.yaml:1: predict.sentences: ", "UTF-8"),
        ('"a\\e[31m\\nb": 1\n', "c.yaml:1: a\\x1b[31m\\nb: ", "unknown key"),
        ("x" * 1000 + ": 1\n", "c.yaml:1: xxx", "unknown key"),
        ("optim: {milestones: [true]}\n", "c.yaml:1: optim.milestones.0: ", "expected a number, got true"),
        (b"train: {seed: 3}\n".decode().encode("utf-16"), "c.yaml: ", "save it as UTF-8"),
        ("data: {root: M\u00e4dchen}\n".encode("latin-1"), "c.yaml: ", "save it as UTF-8"),
        (b"\x00\x01\x02", "c.yaml", "not YAML"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_hostile_file_is_one_line_with_its_place(
    write: Callable[..., Path], text: str | bytes, start: str, words: str, tmp_path: Path
):
    (problem,) = problems_of(write(text))
    assert problem.startswith(start)
    assert words in problem
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"data.kinds=[{REPEATED}]", f"data.kinds: more than {MAX_VALUES} values"),
        ("optim.lr=" + "[" * 20000, "optim.lr: more than"),
        ("optim.lr=" + "[" * 500 + "]" * 500, "optim.lr: more than"),
        ("optim.lr=&a [*a]", "optim.lr: the alias *a stands inside"),
        ("train.seed=" + "9" * 6000, "train.seed: a number of 6000 digits"),
        ("train.seed=18446744073709551616", "train.seed: expected an integer of at most 64 bits"),
        ("train.seed=-1", "train.seed: expected greater than or equal to 0, got -1"),
        ("train.seed=!!python/name:os.system x", "train.seed: the tag !!python/name:os.system"),
        ("a." * 50 + "b=1", "expected key=value"),
        ("y" * 100_000, "expected key=value"),
        ("x" * 100_000 + "=1", "unknown key"),
                ("output_dir=''", "output_dir: expected a path"),
        ("model.visual_encoder.weights=''", "model.visual_encoder.weights: "),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_a_hostile_override_is_one_line_with_its_key(override: str, words: str):
    (problem,) = problems_of(BASE, (override,))
    assert problem.startswith("command line: ")
    assert words in problem


def test_aliases_and_merges_of_a_sensible_size_work(write: Callable[..., Path]):
    path = write(
        "stages:\n  - &first {name: a, epochs: 2, optim: {lr: 0.5}}\n  - {<<: *first, name: b}\n"
        "predict: {sentences: [&dog a dog, *dog]}\n"
    )
    config = load_config(path)
    assert [(stage.name, stage.epochs, stage.optim.lr) for stage in config.stages] == [("a", 2, 0.5), ("b", 2, 0.5)]
    assert config.predict.sentences == ("a dog", "a dog")


def test_many_problems_are_told_in_part(write: Callable[..., Path]):
    problems = problems_of(write("".join(f"unknown{i}: 1\n" for i in range(5000))))
    assert len(problems) <= 52
    assert problems[-1] == "... and 4950 more problems"


def test_a_long_chain_of_bases_is_refused(write: Callable[..., Path]):
    for i in range(100):
        write(f"base: c{i + 1}.yaml\n", f"c{i}.yaml")
    write("train: {seed: 7}\n", "c100.yaml")
    (problem,) = problems_of(Path("c0.yaml"))
    assert "more than 32 files that are based on each other" in problem
    assert load_config(Path("c80.yaml")).train.seed == 7


def test_a_device_or_a_pipe_is_no_configuration(write: Callable[..., Path], tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero"):
        (problem,) = problems_of(Path(name))
        assert "cannot be read: it is a device or a pipe" in problem
    (problem,) = problems_of(write("base: pipe\n"))
    assert problem.startswith("c.yaml:1: base: ")


# ---- every number ----


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, typing.Any]]:
    """All dotted keys with their types; those of stages are the same again."""
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from keys_of(annotation, f"{prefix}{name}.")
        elif name not in ("sets", "eval_sets", "stages"):
            yield prefix + name, annotation
    if model is Config:
        yield "data.sets.0.repeat", int


NUMBERS = [(key, kind) for key, kind in keys_of(Config) if kind in (int, float) or float in typing.get_args(kind)]


def test_there_are_numbers_to_try():
    assert len(NUMBERS) > 60


@pytest.mark.parametrize(("key", "kind"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_no_number_takes_what_is_none(key: str, kind: type, write: Callable[..., Path]):
    path = write("")
    for value in (".inf", "-.inf", ".nan", "1e400", "true", "[1]", "{}", "x", "''", "9" * 30, "-" + "9" * 30):
        if kind is not int and value in ("9" * 30, "-" + "9" * 30):
            continue
        problem, *_ = problems_of(path, (f"{key}={value}",))
        assert problem.startswith(f"command line: {key}: ")


def test_data_sets_have_the_limits_of_all_sections():
    for definition in DATASETS.values():
        assert definition.settings.model_config["allow_inf_nan"] is False


# ---- what does not go together ----


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("model.visual_encoder.name=video-swin", "model.visual_encoder.embed_dim=7"),
            "3 heads must divide the 7 channels",
        ),
        (
            ("model.visual_encoder.name=video-swin", "model.visual_encoder.num_heads=[3,6,12,25]"),
            "25 heads must divide the 768 channels of stage 4",
        ),
        (("model.num_heads=7",), "num_heads=7 must divide dim=256"),
        (("model.dim=4", "model.num_heads=2"), "dim=4 must be a multiple of 8"),
        (("model.dim=1000000",), "model.dim: expected less than or equal to 8192"),
        (("model.num_queries=100000000000",), "model.num_queries: expected less than or equal to 10000"),
        (("data.num_workers=1000000",), "data.num_workers: expected less than or equal to 256"),
        (("predict.fps=1e12",), "predict.fps: expected less than or equal to 1000"),
        (("predict.fps=1e-9",), "predict.fps: expected 0 (as the source), or 0.1 to 1000, got 1e-09"),
        (("eval.zip_submission=true", "eval.write_masks=false"), "write_masks=false does not write"),
        (("stages=[{trainable: [text_encoder]}]",), "are frozen, so the stage would train nothing"),
        (
            tuple(f"loss.{name}_weight=0" for name in ("class", "contrastive", "mask_focal", "dice", "box", "giou")),
            "every weight is 0, so nothing would be learned",
        ),
        (tuple(f"loss.{name}_cost=0" for name in ("class", "dice", "box", "giou")), "every cost is 0"),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, tuple) else "",
)
def test_what_cannot_work_together_is_found_in_the_configuration(overrides: tuple[str, ...], words: str):
    (problem,) = problems_of(BASE, overrides)
    assert words in problem


def test_some_weights_may_be_zero():
    assert load_config(BASE, ["loss.class_weight=0", "loss.giou_cost=0"]).loss.class_weight == 0


def test_the_width_is_a_multiple_of_what_the_model_needs():
    assert WIDTH_STEP == CHANNELS_PER_GROUP, "configs import no PyTorch, so the number stands there, too"


def test_the_command_ends_at_once_and_in_little_memory(write: Callable[..., Path], repository: Path):
    """The reported case: 304 bytes that took 40 s and 2.7 GB."""
    path = write(laughs(10)).absolute()
    line = f"ulimit -v 1000000; exec '{sys.executable}' main.py config --config '{path}'"
    done = subprocess.run(["bash", "-c", line], cwd=repository, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
