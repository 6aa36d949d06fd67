import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.loader import load_config
from soc_rvos import Segmenter
from tests.tiny_saved_model import write_tiny_saved_model

MODULES = frozenset({"models", "models.soc", "datasets", "datasets.table", "eval", "soc_rvos", "soc_rvos.result"})


@pytest.fixture(scope="module")
def script(repository):
    """`setup.py`, which does nothing when it is imported."""
    pytest.importorskip("setuptools", reason="setuptools builds the package")
    spec = importlib.util.spec_from_file_location("setup_script", repository / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- imports are rewritten ----


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from models.soc import SOC\n", "from soc_rvos.models.soc import SOC\n"),
        ("from models import soc\n", "from soc_rvos.models import soc\n"),
        ("import models.soc as soc, os\n", "import soc_rvos.models.soc as soc, os\n"),
        ("def f():\n    from eval import evaluate\n", "def f():\n    from soc_rvos.eval import evaluate\n"),
        ("from models.soc import (\n    SOC,\n)\n", "from soc_rvos.models.soc import (\n    SOC,\n)\n"),
        ("from \\\n  models.soc import SOC\n", None),
        ('é = "é"; from models import soc\n', 'é = "é"; from soc_rvos.models import soc\n'),
        ("if 1:\n\tfrom datasets.table import DATASETS\n", "if 1:\n\tfrom soc_rvos.datasets.table import DATASETS\n"),
        ("from soc_rvos.result import Result\n", "from soc_rvos.result import Result\n"),
        ("import torch\nfrom timm.models import create_model\n", None),
        ("# from models import soc\nx = 'from models.soc import SOC'\n", None),
        ("models = datasets = 1\n", "models = datasets = 1\n"),
        ('x = f"{1}: python -m tools.x"\n', 'x = f"{1}: python -m soc_rvos.tools.x"\n'),
        ('"""One\nline: `python main.py eval`, `python -m models.y`\n"""\n',
         '"""One\nline: `soc-rvos eval`, `python -m soc_rvos.models.y`\n"""\n'),
        ("x = 1  # python main.py eval\n", "x = 1  # python main.py eval\n"),
    ],
)  # fmt: skip
def test_imports_and_commands_are_those_of_an_installation(script, before, after):
    if before.startswith("from \\"):
        with pytest.raises(ValueError, match=r"m\.py:1: .*one line"):
            script.rewrite(before, modules=MODULES, name="m.py")
        return
    assert script.rewrite(before, modules=MODULES, name="m.py") == (before if after is None else after)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nimport models.soc\n", r"m\.py:2: `import models\.soc` binds models"),
        ("from tests.tiny import x\n", r"m\.py:1: imports tests\.tiny, which is not part of the wheel"),
        ("from models.gone import x\n", r"imports models\.gone, which is not part"),
    ],
)
def test_an_import_that_would_not_work_after_installation_ends_the_build(script, source, message):
    with pytest.raises(ValueError, match=message):
        script.rewrite(source, modules=MODULES, name="m.py")


class Installed(ast.NodeTransformer):
    """What the build should make of a syntax tree, written another way."""

    def __init__(self, own):
        self.own = own

    def visit_ImportFrom(self, node):
        if node.module.split(".")[0] in self.own:
            node.module = f"soc_rvos.{node.module}"
        return node

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            node.value = re.sub(r"python -m (tools|models)\.", r"python -m soc_rvos.\1.", node.value)
            node.value = node.value.replace("python main.py", "soc-rvos")
        return node


def test_nothing_but_imports_and_commands_changes_in_any_file(script, tmp_path, repository):
    written = script.assemble(tmp_path)
    sources = [file for file in script.source_files() if file.suffix == ".py"]
    own = {script.module_name(file).split(".")[0] for file in sources} - {"soc_rvos"}
    assert {"datasets", "models", "configs", "tools", "main", "eval"} <= own
    changed = 0
    for file in sources:
        before = (repository / file).read_text(encoding="utf-8")
        after = (tmp_path / script.place_below_top(file)).read_text(encoding="utf-8")
        assert ast.dump(Installed(own).visit(ast.parse(before))) == ast.dump(ast.parse(after)), file
        assert before.count("\n") == after.count("\n")
        changed += before != after
    assert changed > len(sources) // 2
    names = {str(path.relative_to(tmp_path)) for path in written}
    for needed in (
        "configs/base.yaml",
        "models/ops/ms_deform_attn/csrc/cpu/ms_deform_attn_cpu.cpp",
        "main.py",
        "metrics/mask_pairs.cpp",
    ):
        assert f"soc_rvos/{needed}" in names
    assert not any(part in name.split("/") for name in names for part in ("tests", "benchmarks", "setup.py"))


def test_what_an_earlier_build_has_left_does_not_get_into_the_next(script, tmp_path):
    (tmp_path / "soc_rvos").mkdir()
    (tmp_path / "soc_rvos" / "old.py").touch()
    script.assemble(tmp_path)
    assert not (tmp_path / "soc_rvos" / "old.py").exists()


def test_recipes_are_found_from_anywhere_unless_there_is_another(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("configs/shapes.yaml")) == load_config(repository / "configs" / "shapes.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "shapes.yaml").write_text("output_dir: mine\n")
    assert load_config(Path("configs/shapes.yaml")).output_dir == Path("mine")


# ---- the real thing ----


def run(*command, cwd, **environment):
    """Standard output of a command that must succeed, with nothing of this checkout on the import path."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=outside | environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory, script, repository):
    """(source distribution, wheel that was built from it), without a network."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip builds and installs the package, and this environment has none")
    folder = tmp_path_factory.mktemp("build")
    checkout = folder / "checkout"
    left_out = shutil.ignore_patterns(".*", "runs", "data", "build", "__pycache__", "*.egg-info", "tests")
    shutil.copytree(repository, checkout, ignore=left_out)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    source = folder / run(sys.executable, "-c", build, folder, cwd=checkout).splitlines()[-1]
    run(sys.executable, "-m", "pip", "wheel", source, "--no-build-isolation", "--no-deps", "--no-index",
        "--wheel-dir", folder / "wheels", cwd=folder)  # fmt: skip
    (wheel,) = (folder / "wheels").iterdir()
    return source, wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory, distributions):
    """(folder of commands, folder of packages) of a new environment in which the wheel is all that was installed."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd="/").strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", distributions[1],
        cwd=environment.parent)  # fmt: skip
    assert sorted(path.name.split("-")[0] for path in packages.iterdir()) == ["soc_rvos", "soc_rvos"]
    # Packages of others, in their own names: Hugging Face's `datasets` must be what `import datasets` finds.
    for name in ("datasets", "models", "configs", "tools", "metrics", "main"):
        (packages / f"{name}.py").write_text(f"WHOSE = 'another {name}'\n")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # torch and the others of this environment
    return environment / "bin", packages


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_source_distribution_makes_the_same_wheel(distributions, script):
    source, wheel = distributions
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    files = script.source_files()
    assert {str(file) for file in files} | {"setup.py", "pyproject.toml", "requirements.txt", "README.md"} <= packed
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
        points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    assert sorted(names) == sorted(str(script.place_below_top(file)) for file in files)
    assert "Requires-Dist: torch<2.16,>=2.11" in metadata
    assert re.search(r"Requires-Dist: supervision.*extra == .supervision.", metadata)
    assert "soc-rvos = soc_rvos.main:main" in points


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_installation_segments_beside_packages_of_the_same_names(installed, tmp_path, repository):
    commands, packages = installed
    write_tiny_saved_model(tmp_path / "m")
    video = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "video.npy", video)
    (tmp_path / "empty").mkdir()
    code = """
import json, sys
import numpy as np
from soc_rvos import Segmenter
import soc_rvos, datasets, models
result = Segmenter.from_pretrained("../m", device="cpu")(np.load("../video.npy"), ["a square", "the upper square"])
np.save("../masks.npy", np.asarray(result.masks))
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("structures", "loading", "engine", "prediction"))
print(json.dumps([soc_rvos.__file__, datasets.WHOSE, models.WHOSE, ours]))
"""
    place, *others, ours = json.loads(run(commands / "python", "-c", code, cwd=tmp_path / "empty").splitlines()[-1])
    assert Path(place).parent == packages / "soc_rvos"
    assert others == ["another datasets", "another models"]
    assert ours == []
    expected = Segmenter.from_pretrained(tmp_path / "m", device="cpu")(video, ["a square", "the upper square"])
    assert 0 < expected.masks[0].mean() < 1
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), np.asarray(expected.masks))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_an_installation_run_in_an_empty_folder(installed, tmp_path):
    commands, _ = installed
    text = run(commands / "soc-rvos", "--help", cwd=tmp_path)
    assert text.startswith("usage: soc-rvos")
    assert "main.py" not in text
    settings = run(commands / "soc-rvos", "config", "--config", "configs/shapes.yaml", "optim.lr=0.5", cwd=tmp_path)
    assert "lr: 0.5" in settings
    write_tiny_saved_model(tmp_path / "m")
    (tmp_path / "frames").mkdir()
    for time in range(2):
        Image.fromarray(np.full((24, 40, 3), 99 * time, dtype=np.uint8)).save(tmp_path / "frames" / f"{time}.png")
    run(commands / "soc-rvos", "predict", "--model", "m", "--video", "frames", "--sentence", "a square",
        "--output", "out", "device=cpu", cwd=tmp_path)  # fmt: skip
    summary = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert summary["frame_names"] == ["0", "1"]
    assert summary["git"] == "unknown"
    text = run(commands / "python", "-m", "soc_rvos.tools.export_model", "--help", cwd=tmp_path)
    assert "python -m soc_rvos.tools.export_model" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_editable_installation_is_refused_with_the_reason(script, repository, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "requirements.txt", "LICENSE"):
        shutil.copy(repository / name, checkout)
    shutil.copytree(repository / "soc_rvos", checkout / "soc_rvos")
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "cannot be installed in editable mode" in done.stderr
