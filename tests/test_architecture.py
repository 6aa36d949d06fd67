"""Who imports whom, read from the syntax trees; the picture is in docs/architecture.md."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = (
    "structures", "media", "metrics", "datasets", "configs", "loading", "models", "engine", "evaluation", "prediction",
    "soc_rvos", "tools", "tests", "benchmarks",
)  # fmt: skip
SCRIPTS = ("main", "train", "eval", "predict")
PROJECT = (*PACKAGES, *SCRIPTS)

FOUNDATION = {"structures", "media"}
LIBRARY = FOUNDATION | {"metrics", "datasets", "configs", "loading", "models", "engine", "evaluation"}
PREDICTION = LIBRARY | {"prediction"}
ALLOWED = {
    "structures": set(),
    "media": set(),
    "metrics": {"structures"},
    "datasets": FOUNDATION,
    "configs": {"structures", "datasets"},
    "loading": FOUNDATION | {"datasets", "configs"},
    "models": FOUNDATION | {"configs"},
    "engine": {"structures", "media", "configs"},
    "evaluation": LIBRARY,
    "prediction": LIBRARY - {"evaluation"},
    "predict": PREDICTION,
    "eval": LIBRARY,
    "train": PREDICTION | {"eval", "predict"},
    "main": PREDICTION | {"train", "eval", "predict"},
    "soc_rvos": PREDICTION,
    "tools": PREDICTION | {"soc_rvos", "eval", "predict", "train"},
}

# Inside models: a module imports only from floors below its own.
FLOORS = (
    {"parts"},
    {"outputs", "ops", "losses", "bert", "checkpoint_names", "encoder_files", "fused_network", "text_files"},
    {"weight_kinds", "dropout"},
    {
        "text_files",
        "weight_kinds",
        "layers",
        "position_encoding",
        "visual_encoder",
        "feature_pyramid",
    },
    {"window_attention"},
    {"video_swin", "resnet", "timm_encoder", "text_encoder", "trajectory"},
    {"fusion", "deformable_transformer", "object_cluster", "spatial_decoder", "dynamic_mask_head"},
    {"frame_objects"},
    {"soc", "matcher", "postprocess"},
    {"criterion", "identity", "compilation", "recording"},
    {"inference", "answers"},
    {"build", "model_card"},
    {"saved_model"},
)

BANNED = {
    "datasets": "Hugging Face `datasets` is not used here; `datasets` is our own package",
    "evaluate": "Hugging Face `evaluate` is not used here; write `from eval import evaluate`",
}


def source_files() -> list[Path]:
    files = [ROOT / f"{script}.py" for script in SCRIPTS if (ROOT / f"{script}.py").is_file()]
    for package in PACKAGES:
        files += sorted((ROOT / package).rglob("*.py"))
    return [path for path in files if "__pycache__" not in path.parts]


def name_of(path: Path) -> str:
    """`models/ops/x.py` -> `models.ops.x`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of a file, also those inside functions, as (statement, dotted module)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node, f"{module}.{alias.name}" if module in PACKAGES else module) for alias in node.names)


def place(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def floor_of(module: str) -> int | None:
    """Floor of `models.<name>...`."""
    name = module.split(".")[1] if "." in module else ""
    return next((i for i, floor in enumerate(FLOORS) if name in floor), None)


def test_imports_flow_one_way():
    wrong = []
    for path in source_files():
        importer = name_of(path).split(".")[0]
        for node, module in imports_of(path):
            imported = module.split(".")[0]
            if importer in ALLOWED and imported in PROJECT and imported not in ALLOWED[importer] | {importer}:
                wrong.append(f"{place(path, node)}: {importer} must not import {imported}")
    assert not wrong, "\n".join(wrong)


def test_models_are_built_from_the_ground_up():
    wrong = []
    for path in sorted((ROOT / "models").rglob("*.py")):
        own = floor_of(name_of(path))
        if own is None:
            if name_of(path) != "models":
                wrong.append(f"{path.relative_to(ROOT)}: give it a floor in {Path(__file__).name}")
            continue
        for node, module in imports_of(path):
            below = floor_of(module) if module.startswith("models.") else None
            same_folder = module.split(".")[1:2] == name_of(path).split(".")[1:2]
            if below is not None and below >= own and not same_folder:
                wrong.append(f"{place(path, node)}: {name_of(path)} must not import {module}")
    assert not wrong, "\n".join(wrong)


def modules_run_by(path: Path, modules: Collection[str]) -> set[str]:
    """Modules of the project whose code runs when the file is imported: importing `a.b.c` runs `a` and `a.b`, too."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    run = {parent for name in named for parent in accumulate(name.split("."), "{}.{}".format)}
    return run.intersection(modules) - {name_of(path)}


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count; so does a package whose `__init__` imports from its own modules.

    `soc_rvos` does not: it imports when a name is asked for, see the next test.
    """
    paths = {name_of(path): path for path in source_files()}
    del paths["soc_rvos"]
    graph = {name: modules_run_by(path, paths) for name, path in paths.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_python_interface_imports_nothing_before_it_is_asked_for_a_name():
    code = "import sys; import soc_rvos; dir(soc_rvos); print(sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    modules = {name.split(".")[0] for name in ast.literal_eval(run.stdout)}
    assert modules.isdisjoint({"torch", "numpy", *PROJECT} - {"soc_rvos"})


def test_criterion_and_postprocessing_know_outputs_but_not_the_model():
    for name in ("criterion", "postprocess", "matcher", "losses"):
        modules = {
            module.split(".")[1] for _, module in imports_of(ROOT / "models" / f"{name}.py") if "models." in module
        }
        assert modules.isdisjoint({"soc", "build"}), name


NAMES_IN_DATA = {"video", "frame", "expression", "image", "sentence", "sequence", "annotator", "record", "sample"}
"""Words for what index files name, and `stem`, `names` and so on, which readers keep of it."""

NAMES_KEPT = {"stem", "stems", "names", "files", "file_name"}
JOIN_OTHERS = {
    "datasets/label_sources.py": "paths that the user's settings name",
    "tools/web/page.py": "sample videos that the user names",
    "tools/web/painting.py": "numbers of frames",
    "media/files.py": "path_inside itself",
}


def test_names_from_data_become_paths_by_path_inside_alone():
    """Told by words: `folder / video`, `folder / f"{frame}.png"`, `folder / self.names[position]`."""
    wrong = []
    for package in ("datasets", "loading", "evaluation", "prediction", "soc_rvos", "tools/analyze", "tools/checks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.relative_to(ROOT).as_posix() in JOIN_OTHERS:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _names_in_data(node.right):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def _names_in_data(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return False  # a number, such as len(names)
    words = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    words |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return not words.isdisjoint(NAMES_IN_DATA | NAMES_KEPT)


def test_every_option_that_is_a_path_knows_the_home_folder():
    """`type=user_path` expands `~`; with `Path` a folder of that name is made.

    `tools/export/run.py` is copied into every export, where there is no project to import from.
    """
    wrong = [
        place(path, node)
        for path in source_files()
        if path != ROOT / "tools" / "export" / "run.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and any(
            keyword.arg == "type" and isinstance(keyword.value, ast.Name) and keyword.value.id == "Path"
            for keyword in node.keywords
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_no_data_set_imports_another():
    table = ROOT / "datasets" / "table.py"
    modules = {module for _, module in imports_of(table) if module.startswith("datasets.")} - {"datasets.definition"}
    assert len(modules) >= 6
    for module in modules:
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert modules.isdisjoint(module for _, module in imports_of(path)), f"{path.name} imports another data set"


def test_imports_are_absolute_and_name_what_they_take():
    wrong = []
    for path in source_files():
        for node, module in imports_of(path):
            if module.startswith("."):
                wrong.append(f"{place(path, node)}: relative import")
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                wrong.append(f"{place(path, node)}: wildcard import")
            if isinstance(node, ast.Import) and module == "eval":
                wrong.append(f"{place(path, node)}: `import eval` hides the builtin; write `from eval import evaluate`")
            if isinstance(node, ast.Import) and module in BANNED:
                wrong.append(f"{place(path, node)}: {BANNED[module]}")
    assert not wrong, "\n".join(wrong)


def test_nobody_edits_the_import_path():
    wrong = []
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "path"
                and isinstance(node.value, ast.Name)
                and node.value.id == "sys"
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: sys.path")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["datasets", "models", "metrics", "tools"])
def test_the_packages_of_this_name_are_ours(package: str):
    found = Path(str(importlib.import_module(package).__file__)).parent
    assert found == ROOT / package, (
        f"`import {package}` finds {found}, a library of the same name (for `datasets`: Hugging Face's). This "
        "checkout always runs from its root: `python main.py ...`, `python -m tools.x ...`, "
        "`pytest`; never `python tools/x.py`, which puts tools/ first on the import path."
    )


def test_configs_import_no_torch():
    for path in sorted((ROOT / "configs").glob("*.py")):
        heavy = {module for _, module in imports_of(path) if module.split(".")[0] in ("torch", "numpy")}
        assert not heavy, f"{path.name}: {heavy}"


@pytest.mark.parametrize("command", [["config", "--config", "configs/base.yaml"], ["--help"]], ids=["config", "help"])
def test_printing_the_configuration_needs_no_torch(command: list[str]):
    blocked = """
import runpy, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "transformers", "scipy", "h5py", "av", "cv2"):
            raise RuntimeError(f"{name} was imported")
sys.meta_path.insert(0, NoTorch())
sys.argv = ["main.py", *sys.argv[1:]]
runpy.run_path("main.py", run_name="__main__")
"""
    run = subprocess.run(
        [sys.executable, "-c", blocked, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert "num_queries" in run.stdout or "usage" in run.stdout


def test_no_file_names_a_folder_of_a_machine():
    roots = ("/" + folder + "/" for folder in ("work", "home", "root", "mnt", "tmp"))
    prefixes = tuple(roots)
    wrong = []
    for pattern in ("*.py", "configs/*.yaml", "scripts/*.sh", "*.md", "docs/*.md"):
        for path in ROOT.glob(pattern) if pattern != "*.py" else source_files():
            if path == Path(__file__).resolve():
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if any(prefix in line for prefix in prefixes):
                    wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_the_scripts_can_be_started():
    scripts = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
    assert scripts
    for script in scripts:
        assert script.stat().st_mode & 0o100, f"{script.name} is not executable"
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
