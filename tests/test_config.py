"""Configuration: files, bases, overrides, stages and the errors in them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.loader import ConfigError, dump_config, load_config
from configs.schema import Config

SHIPPED = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))

WriteYaml = Callable[..., Path]


@pytest.fixture
def write_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteYaml:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path: Path, overrides: tuple[str, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_loads_and_survives_printing(path: Path, tmp_path: Path):
    config = load_config(path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_config(config), encoding="utf-8")
    assert load_config(printed) == config


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.name != "base.yaml"], ids=lambda path: path.name)
def test_every_recipe_starts_with_the_command_that_runs_it_and_what_to_expect(path: Path):
    header = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    scripts = re.findall(r"bash scripts/(\w+)\.sh", header)
    assert f"configs/{path.name}" in header or scripts
    assert all((path.parent.parent / "scripts" / f"{name}.sh").is_file() for name in scripts)
    assert "Expected" in header
    assert "Time" in header


def test_base_yaml_says_what_the_defaults_say(repository: Path):
    assert load_config(repository / "configs" / "base.yaml") == Config()


def test_an_empty_file_gives_the_defaults(write_yaml: WriteYaml):
    assert load_config(write_yaml("# nothing\n")) == Config()


def test_a_file_overrides_its_base_and_the_base_its_own(write_yaml: WriteYaml):
    write_yaml("model: {dim: 64, num_heads: 4, num_queries: 5}\noptim: {milestones: [1, 2]}\n", "deep/root.yaml")
    write_yaml("base: deep/root.yaml\nmodel: {num_queries: 6, ffn_dim: 8}\n", "middle.yaml")
    config = load_config(write_yaml("base: middle.yaml\nmodel: {ffn_dim: 16}\noptim: {milestones: [7]}\n"))
    assert (config.model.dim, config.model.num_queries, config.model.ffn_dim) == (64, 6, 16)
    assert config.optim.milestones == (7,), "lists are replaced, not joined"


def test_overrides_are_read_as_yaml(write_yaml: WriteYaml):
    overrides = [
        "optim.lr=1e-5",
        "optim.milestones=[3, 5]",
        "train.resume=true",
        "train.amp=off",
        "data.root=null",
        'predict.sentences=["the girl: left", the boy]',
        "predict.video=2024-01-01",
        "predict.start=00:01:02",
        "predict.end=63.5",
        "model={dim: 32, mask_head: {dim: 4}}",
    ]
    config = load_config(write_yaml("data: {root: somewhere}\nmodel: {num_queries: 3}\n"), overrides)
    assert config.optim.lr == 1e-5
    assert config.optim.milestones == (3, 5)
    assert config.train.resume
    assert config.train.amp == "off"
    assert config.data.root is None
    assert config.predict.sentences == ("the girl: left", "the boy")
    assert config.predict.video == ("2024-01-01",)
    assert (config.predict.start, config.predict.end) == ("00:01:02", "63.5")
    assert (config.model.dim, config.model.mask_head.dim, config.model.num_queries) == (32, 4, 3)


def test_a_stage_names_only_what_differs(write_yaml: WriteYaml):
    text = """
data: {num_frames: 4, batch_size: 2}
optim: {lr: 1.0e-3}
stages:
  - {name: stills, epochs: 5, data: {num_frames: 1}, optim: {schedule: cosine}}
  - {name: clips, epochs: 7}
"""
    stills, clips = load_config(write_yaml(text)).training_stages()
    assert (stills.data.num_frames, stills.data.batch_size) == (1, 2)
    assert (stills.optim.lr, stills.optim.schedule) == (1e-3, "cosine")
    assert (clips.epochs, clips.data.num_frames, clips.optim.schedule) == (7, 4, "multistep")


def test_overrides_of_data_and_optim_reach_every_stage(write_yaml: WriteYaml):
    path = write_yaml("stages: [{data: {batch_size: 8, num_frames: 1}}, {}]\n")
    config = load_config(path, ["data.root=DATA", "data.batch_size=3", "stages.0.epochs=4", "optim.lr=0.5"])
    assert [str(stage.data.root) for stage in config.stages] == ["DATA", "DATA"]
    assert [stage.data.batch_size for stage in config.stages] == [3, 3]
    assert [stage.optim.lr for stage in config.stages] == [0.5, 0.5]
    assert config.stages[0].data.num_frames == 1
    assert config.stages[0].epochs == 4


def test_an_override_of_one_stage_stays_in_that_stage(write_yaml: WriteYaml):
    path = write_yaml("stages: [{name: a}, {name: b}]\n")
    config = load_config(path, ["optim.lr=0.5", "stages.1.optim.lr=0.25"])
    assert [stage.optim.lr for stage in config.stages] == [0.5, 0.25]


def test_the_data_root_comes_from_the_environment_if_nothing_else_names_it(
    write_yaml: WriteYaml, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOC_DATA_ROOT", "from_environment")
    path = write_yaml("stages: [{}]\n")
    assert str(load_config(path).stages[0].data.root) == "from_environment"
    assert str(load_config(path, ["data.root=named"]).stages[0].data.root) == "named"


def test_all_problems_are_reported_at_once_with_file_line_and_suggestion(write_yaml: WriteYaml):
    write_yaml("optim:\n  lr: fast\n", "root.yaml")
    path = write_yaml("base: root.yaml\ndata:\n  num_frame: 8\n  batch_size: 0\nmodel:\n  dim: 30\nlr: 1\n")
    problems = problems_of(path, ("train.sed=1", "stages.0.epochs=3", "nonsense"))
    assert "recipe.yaml:3: data.num_frame: unknown key; did you mean 'num_frames'?" in problems
    assert "recipe.yaml:4: data.batch_size: expected greater than 0, got 0" in problems
    assert "recipe.yaml:5: model: num_heads=8 must divide dim=30" in problems
    assert "recipe.yaml:7: lr: unknown key; did you mean 'optim.lr'?" in problems
    assert any(line.startswith("root.yaml:2: optim.lr: ") and "'fast'" in line for line in problems)
    assert "command line: train.sed: unknown key; did you mean 'seed'?" in problems
    assert "command line: nonsense: expected key=value, such as optim.lr=1e-5" in problems


def test_a_problem_in_a_shared_section_is_reported_once_however_many_stages_inherit_it(write_yaml: WriteYaml):
    path = write_yaml("data:\n  batch_size: 0\nstages:\n  - {name: a}\n  - name: b\n    data:\n      num_frames: -1\n")
    assert problems_of(path) == (
        "recipe.yaml:2: data.batch_size: expected greater than 0, got 0",
        "recipe.yaml:7: stages.1.data.num_frames: expected greater than 0, got -1",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:\n  dim: 3\n  dim: 4\n", "recipe.yaml:3: dim: this key stands twice in its section"),
        ("model: [1\n", "recipe.yaml:2: not YAML: "),
        ("- 1\n", "recipe.yaml:1: expected a mapping (key: value lines), got a list"),
        ("base: absent.yaml\n", "recipe.yaml:1: base: no such file: absent.yaml"),
        ("base: recipe.yaml\n", "recipe.yaml:1: base: files that are based on each other: recipe.yaml -> recipe.yaml"),
        ("base: [a, b]\n", "recipe.yaml:1: base: expected the path of a YAML file"),
        ("model:\n", "recipe.yaml:1: model: expected a section (key: value lines), got None"),
        ("train:\n  seed: true\n", "recipe.yaml:2: train.seed: expected a number, got true"),
        ("stages: 3\n", "recipe.yaml:1: stages: expected a list, got 3"),
        ("stages:\n  - 3\n", "recipe.yaml:2: stages.0: expected a section (key: value lines), got 3"),
        ("device: gpu\n", "recipe.yaml:1: device: expected 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
    ],
)
def test_a_broken_file_is_explained(write_yaml: WriteYaml, text: str, expected: str):
    (problem,) = problems_of(write_yaml(text))
    assert problem.startswith(expected)


def test_bases_in_a_circle_are_named(write_yaml: WriteYaml):
    write_yaml("base: recipe.yaml\n", "other.yaml")
    (problem,) = problems_of(write_yaml("\nbase: other.yaml\n"))
    assert problem == (
        "other.yaml:1: base: files that are based on each other: recipe.yaml -> other.yaml -> recipe.yaml"
    )


def test_a_missing_file_is_explained_with_the_name_that_was_meant(write_yaml: WriteYaml):
    write_yaml("")
    assert problems_of(Path("recipes.yaml")) == ("recipes.yaml: no such file; did you mean 'recipe.yaml'?",)


def test_a_folder_and_a_binary_file_are_no_configurations(write_yaml: WriteYaml, tmp_path: Path):
    path = write_yaml("")
    path.write_bytes(b"\xff\xfe\x00")
    assert problems_of(path)[0].startswith("recipe.yaml: not a text file in UTF-8")
    assert problems_of(tmp_path)[0].endswith("cannot be read: Is a directory")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.1.epochs=3", "command line: stages.1.epochs: stages has 1 entries, counted from 0; there is no '1'"),
        ("stages.first.epochs=3", "command line: stages.first.epochs: stages has 1 entries"),
        ("device.name=3", "command line: device.name: device is a single value, not a section"),
        ("optim.milestones=[1", "command line: optim.milestones: the value is not YAML"),
        ("optim..lr=1", "command line: optim..lr=1: expected key=value"),
    ],
)
def test_a_broken_override_is_explained(write_yaml: WriteYaml, override: str, expected: str):
    (problem,) = problems_of(write_yaml("device: cpu\nstages: [{name: a}]\n"), (override,))
    assert problem.startswith(expected)


# ---- overrides of a list's entries ----

OWN_SETS = """
data:
  sets: [{dataset: ref_youtube_vos, root: videos}, {dataset: refcoco, root: images}]
stages:
  - {name: same, data: {sets: [{dataset: ref_youtube_vos, train_split: half}]}}
  - {name: inherits}
  - {name: other, data: {sets: [{dataset: refcoco, variant: refcoco+}]}}
"""


def roots_of(config: Config) -> list[list[str]]:
    sections = [config.data, *(stage.data for stage in config.stages)]
    return [[str(settings.root) for settings in data.sets] for data in sections]


def test_an_override_of_an_entry_changes_a_stages_own_list_where_it_has_that_data_set(write_yaml: WriteYaml):
    config = load_config(write_yaml(OWN_SETS), ["data.sets.0.root=x"])
    assert roots_of(config) == [["x", "images"], ["x"], ["x", "images"], ["."]]
    assert [[entry.dataset for entry in stage.data.sets] for stage in config.stages] == [
        ["ref_youtube_vos"],
        ["ref_youtube_vos", "refcoco"],
        ["refcoco"],
    ]
    assert config.stages[0].data.sets[0].train_split == "half", "the other keys of the stage's entry stay"


def test_an_override_of_an_entry_leaves_a_stages_own_list_alone_where_it_has_no_such_entry(write_yaml: WriteYaml):
    config = load_config(write_yaml(OWN_SETS), ["data.sets.1.root=x"])
    assert roots_of(config) == [["videos", "x"], ["."], ["videos", "x"], ["."]]


def test_an_override_that_changes_a_data_set_compares_with_what_was_there_before(write_yaml: WriteYaml):
    config = load_config(write_yaml(OWN_SETS), ["data.sets.0={dataset: refcoco, root: x}"])
    assert roots_of(config) == [["x", "images"], ["x"], ["x", "images"], ["."]]


def test_an_override_of_a_whole_list_reaches_every_stage_and_later_ones_win(write_yaml: WriteYaml):
    path = write_yaml(OWN_SETS)
    overrides = ["data.sets=[{dataset: mevis}]", "data.sets.0.root=x", "stages.1.data.sets.0.root=y"]
    assert roots_of(load_config(path, overrides)) == [["x"], ["x"], ["y"], ["x"]]
    assert roots_of(load_config(path, overrides[::-1])) == [["."]] * 4


def test_stages_of_the_command_line_inherit_too(write_yaml: WriteYaml):
    path = write_yaml("optim: {lr: 0.5}\n")
    config = load_config(path, ["stages=[{name: a}, {data: {num_frames: 2}}]", "data.num_frames=3"])
    assert [(stage.optim.lr, stage.data.num_frames) for stage in config.stages] == [(0.5, 3), (0.5, 3)]


def test_an_override_of_an_entry_starts_from_the_inherited_list_or_the_default(write_yaml: WriteYaml):
    path = write_yaml("stages: [{}, {data: {num_frames: 1}}]\n")
    config = load_config(path, ["stages.1.data.sets.0.root=y", "optim.milestones.0=7"])
    assert roots_of(config) == [["."], ["."], ["y"]]
    assert config.stages[1].data.sets[0].dataset == "ref_youtube_vos"
    assert [config.optim.milestones, *(stage.optim.milestones for stage in config.stages)] == [(7,)] * 3
    assert roots_of(load_config(path, ["data.sets.0.root=x", "stages.0.data.sets.0.root=y"])) == [["x"], ["y"], ["x"]]
    assert load_config(path, ["data.sets.0.dataset=mevis"]).stages[0].data.sets[0].dataset == "mevis"
    config = load_config(write_yaml(OWN_SETS), ["stages.1.data.sets.1.root=y"])
    assert roots_of(config) == [["videos", "images"], ["."], ["videos", "y"], ["."]]


def test_a_stages_own_list_is_compared_with_the_default_where_the_top_names_none(write_yaml: WriteYaml):
    path = write_yaml("stages: [{data: {sets: [{dataset: refcoco}]}}, {data: {sets: [{dataset: ref_youtube_vos}]}}]\n")
    assert roots_of(load_config(path, ["data.sets.0.root=x"])) == [["x"], ["."], ["x"]]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.sets.2.root=x", "data.sets has 2 entries, counted from 0; there is no '2'"),
        ("stages.0.data.sets.1.root=x", "stages.0.data.sets has 1 entries, counted from 0; there is no '1'"),
        ("data.sets.0.root.x=1", "data.sets.0.root is a single value, not a section"),
        ("data.cache.x=1", "data.cache is a single value, not a section"),
        ("data.sets.0.repeat=0", "expected greater than 0, got 0"),
        ("data.sets.0.repeat=true", "expected a number, got true"),
        ("data.num_frames=0", "expected greater than 0, got 0"),
        ("data=3", "expected a section (key: value lines), got 3"),
    ],
)
def test_a_mistake_in_an_override_is_reported_once(write_yaml: WriteYaml, override: str, expected: str):
    key = override.partition("=")[0]
    assert problems_of(write_yaml(OWN_SETS), (override,)) == (f"command line: {key}: {expected}",)


# ---- mistakes in data.sets ----


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("dataset: mevi", "data.sets.0.dataset: unknown data set 'mevi'; there are "),
        ("root: x", "data.sets.0: missing key 'dataset', one of "),
        ("{dataset: mevis, repeat: 0}", "data.sets.0.repeat: expected greater than 0, got 0"),
        ("{dataset: mevis, variant: refcoco}", "data.sets.0.variant: unknown key of data set mevis, variant is a key "),
        ("{dataset: mevis, roof: x}", "data.sets.0.roof: unknown key; did you mean 'root'?"),
        ("{dataset: mevis, repeat: true}", "data.sets.0.repeat: expected a number, got true"),
        ("mevis", "data.sets.0: expected a section such as {dataset: mevis}, got 'mevis'"),
    ],
)
def test_a_mistake_in_a_data_set_is_reported_once_however_many_stages_inherit_it(
    write_yaml: WriteYaml, entry: str, expected: str
):
    text = f"data:\n  sets:\n    - {entry}\nstages:\n  - name: a\n  - name: b\n    data:\n      num_frames: 1\n"
    (problem,) = problems_of(write_yaml(text))
    assert problem.startswith(f"recipe.yaml:3: {expected}")


@pytest.mark.parametrize("sets", ["[{dataset: mevis, repeat: 0}]", "[mevis]", "[]"])
def test_a_mistake_in_a_list_of_the_command_line_is_reported_once_where_it_was_written(
    write_yaml: WriteYaml, sets: str
):
    write_yaml("data: {num_frames: 2}\n", "root.yaml")
    path = write_yaml("base: root.yaml\nstages: [{name: a}, {data: {num_frames: 1}}]\n")
    (problem,) = problems_of(path, (f"data.sets={sets}",))
    assert problem.startswith("command line: data.sets")


def test_an_empty_list_of_data_sets_is_reported_at_its_key(write_yaml: WriteYaml):
    (problem,) = problems_of(write_yaml("data:\n  num_frames: 1\n  sets: []\nstages: [{name: a}]\n"))
    assert problem.startswith("recipe.yaml:3: data.sets: must name at least one data set; there are ")


def test_the_root_from_the_environment_fills_the_null_of_a_printed_stage(
    write_yaml: WriteYaml, monkeypatch: pytest.MonkeyPatch
):
    printed = dump_config(load_config(write_yaml("stages: [{name: a}]\n")))
    monkeypatch.setenv("SOC_DATA_ROOT", "from_environment")
    config = load_config(write_yaml(printed))
    assert [str(data.root) for data in (config.data, config.stages[0].data)] == ["from_environment"] * 2


# ---- probabilities ----


@pytest.mark.parametrize(
    "key", ["data.flip_probability", "data.max_skipped_share", "model.dropout", "model.visual_encoder.drop_path_rate"]
)
def test_a_probability_lies_between_0_and_1(write_yaml: WriteYaml, key: str):
    path = write_yaml("")
    highest = "less than" if key.startswith("model.") else "less than or equal to"  # of dropout: nothing would be left
    assert problems_of(path, (f"{key}=50",)) == (f"command line: {key}: expected {highest} 1, got 50",)
    (problem,) = problems_of(path, (f"{key}=-0.1",))
    assert problem == f"command line: {key}: expected greater than or equal to 0, got -0.1"
    load_config(path, [f"{key}=0"])
    load_config(path, [f"{key}={0.99 if key.startswith('model.') else 1}"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", "greater than 0"), ("1", "less than 1"), ("1.5", "less than 1"), (".nan", "a finite number")],
)
def test_the_threshold_lies_strictly_between_0_and_1(write_yaml: WriteYaml, value: str, expected: str):
    (problem,) = problems_of(write_yaml(""), (f"predict.threshold={value}",))
    assert problem == f"command line: predict.threshold: expected {expected}, got {value.removeprefix('.')}"


def test_evaluated_sets_have_keys_errors_and_overrides_like_those_trained_on(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "data:\n  eval_sets:\n    - {dataset: refcoco, variant: refcoco, eval_split: val}\n"
        "    - {dataset: refcoco, variant: refcoco+, eval_split: val}\n"
    )
    config = load_config(path, ["data.eval_sets.1.eval_split=testA"])
    assert [settings.eval_name for settings in config.data.evaluated] == ["refcoco/val", "refcoco+/testA"]
    with pytest.raises(ConfigError, match=r"eval_sets: refcoco/val is named more than once"):
        load_config(path, ["data.eval_sets.1.variant=refcoco"])
    with pytest.raises(ConfigError, match=r"data.eval_sets.0.varient: unknown key; did you mean 'variant'"):
        load_config(path, ["data.eval_sets.0.varient=refcoco"])
    path.write_text("data:\n  sets: [{dataset: mevis}, {dataset: refcoco}]\n")
    assert [settings.dataset for settings in load_config(path).data.evaluated] == ["mevis"]
