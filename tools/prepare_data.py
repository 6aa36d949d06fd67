"""Make the files that are derived from a data set: `python -m tools.prepare_data --config FILE --cache DIR`.

    ground truth in the format of COCO, where annotated frames are evaluated (A2D-, JHMDB-Sentences)
    what readers keep: the annotated frames, or where each object is visible
    what the module of the data set in datasets/ derives besides, such as sentences in the common layout; of
        JHMDB-Sentences the list of the frames on which MTTR is evaluated, unless those of SOC are used
    with --held-out SHARE, for each set that is trained on, a list of videos to leave out of training and validate on

Of these, training and evaluation with `data.cache=DIR` use what readers keep, and make it where it is missing. The
ground truth is for other programs; what the module of a data set derives is read only from where its documentation says
(`expressions` of Ref-DAVIS17 names a file, JHMDB-Sentences has its lists in the folder of the data). The sets are those
of the section `data`; a stage of training that has sets of its own makes what it needs when it starts. A file is made
anew when one of the files it comes from was changed, or its format was.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.loader import load_config
from configs.schema import DataConfig
from datasets.definition import AnnotatedFrames, DatasetSettings, SplitContents, SplitRequest
from datasets.held_out import choose_held_out
from datasets.index_file import IndexContent, Place, read_json, validate
from datasets.index_text import IndexFileError
from datasets.table import definition_of
from engine.last_net import Command, run_command
from evaluation.coco_ground_truth import coco_ground_truth
from loading.loaders import read_split, split_request
from media.files import write_json, write_text
from structures.user_path import user_path

MANIFEST = "prepared.json"
"""Remembers, in the cache folder, what each file was made of."""

GROUND_TRUTH_FORMAT = 1
"""Raise when the content of ground-truth files changes."""

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_SOURCE = ("runs", "data")
"""Folders of the repository that Git ignores."""


class _Manifest(IndexContent[dict[str, str]]):
    """What each file was made of, by its name."""


@dataclass(frozen=True, slots=True)
class Product:
    """A file to make.

    Attributes:
        name: of the file.
        key: what it is made of; a kept file with the same key is up to date.
        make: its content, something that JSON can hold.
    """

    name: str
    key: str
    make: Callable[[], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, program="python -m tools.prepare_data", arguments=arguments, prefix="prepare_data")


def _run(command: Command) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.prepare_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=user_path, required=True, metavar="FILE", help="a recipe")
    parser.add_argument("--cache", type=user_path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--held-out", type=_share, metavar="SHARE", help="share of the training videos to hold out")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which videos are held out (default 0)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for main.py, at least data.root=FOLDER")
    options = parser.parse_args(command.arguments)
    data = load_config(options.config, options.overrides).data
    for line in prepare(data, options.cache, held_out=options.held_out, seed=options.seed):
        sys.stdout.write(line + "\n")
    return 0


def prepare(data: DataConfig, cache: Path, *, held_out: float | None = None, seed: int = 0) -> Iterator[str]:
    """Makes what is missing or stale; yields a line about each file.

    Args:
        data: which data sets, and which splits of them.
        cache: folder of the files.
        held_out: share of the training videos of each set, for a list of videos to hold out; None: no list.
        seed: of the choice of these videos.

    Raises:
        ValueError: the data is damaged, or `cache` is among the source files.
    """
    try:
        cache = cache.resolve()
    except RuntimeError as error:  # links that lead to each other
        raise ValueError(f"--cache {cache}: {error}") from None
    ignored = any(cache.is_relative_to(REPOSITORY / folder) for folder in NOT_SOURCE)
    if cache.is_relative_to(REPOSITORY) and not ignored:
        raise ValueError(f"--cache {cache}: lies among the source files; name a folder outside of the repository")
    cache.mkdir(parents=True, exist_ok=True)
    data = data.model_copy(update={"cache": cache})
    for settings in dict.fromkeys((*data.sets, *data.evaluated)):
        for split, for_training in _splits(settings, data):
            before = _state(cache)
            request = split_request(data, settings, split, for_training=for_training)
            contents = read_split(data, settings, split, for_training=for_training)
            yield from (f"{'made' if path not in before else 'made anew'}: {path}" for path in _changed(cache, before))
            for product in _products(request, contents):
                yield f"{_keep(cache, product)}: {cache / product.name}"
            if for_training and held_out is not None:
                names = [video.name for video in contents.videos]
                yield _hold_out(data, settings, names, cache, share=held_out, seed=seed)


def _splits(settings: DatasetSettings, data: DataConfig) -> Iterator[tuple[str, bool]]:
    """The splits of the recipe, and whether they are trained on."""
    can_train = definition_of(settings).can_train and settings in data.sets
    if can_train:
        yield settings.train_split, True
    if settings in data.evaluated and not (can_train and settings.evaluated_split == settings.train_split):
        yield settings.evaluated_split, False


def _hold_out(
    data: DataConfig, settings: DatasetSettings, names: Sequence[str], cache: Path, *, share: float, seed: int
) -> str:
    """Writes the list of held-out videos of a set; says what was done and which setting takes it."""
    same = [other for other in data.sets if (other.label, other.train_split) == (settings.label, settings.train_split)]
    number = f"_{same.index(settings)}" if len(same) > 1 else ""
    path = cache / f"{settings.label}_{settings.train_split}_held_out{number}.txt"
    chosen = choose_held_out(names, share=share, seed=seed)
    text = "".join(f"{name}\n" for name in chosen)
    exists = path.is_file()
    is_same = exists and path.read_text(encoding="utf-8") == text
    if not is_same:
        write_text(path, text)
    state = "up to date" if is_same else "made anew, another choice" if exists else "made"
    index = data.sets.index(settings)
    return f"{state}: {path} ({len(chosen)} of {len(set(names))} videos; data.sets.{index}.held_out={path} uses it)"


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 1, such as 0.05")
    return value


def _products(request: SplitRequest, contents: SplitContents) -> Iterator[Product]:
    definition = definition_of(request.settings)
    protocol = definition.protocol
    if isinstance(protocol, AnnotatedFrames):
        yield Product(
            f"{definition.name}_{request.split}_coco.json",
            f"{GROUND_TRUTH_FORMAT}/{contents.fingerprint}",
            lambda: coco_ground_truth(contents.videos, names_instances=protocol.names_instances),
        )
    for name, content in definition.derived_files(request, contents).items():
        yield _made_of_itself(name, content)


def _made_of_itself(name: str, content: Any) -> Product:
    """A file whose content is known at no cost."""
    return Product(name, hashlib.sha256(json.dumps(content).encode()).hexdigest(), lambda: content)


def _keep(cache: Path, product: Product) -> str:
    """Writes a file unless it is up to date; says what was done."""
    manifest = _manifest(cache)
    exists = (cache / product.name).is_file()
    if exists and manifest.get(product.name) == product.key:
        return "up to date"
    # The file first: if the second write does not happen, the file counts as stale and is made again.
    write_json(cache / product.name, product.make(), indent=None)
    write_json(cache / MANIFEST, manifest | {product.name: product.key})
    return "made anew, its data has changed" if exists else "made"


def _manifest(cache: Path) -> dict[str, str]:
    path = cache / MANIFEST
    if not path.exists():
        return {}
    try:
        return validate(_Manifest, read_json(path), Place(path)).root
    except IndexFileError as error:
        hint = "name another --cache, or move this file away: what it remembers is made anew"
        raise ValueError(f"{error}; {hint}") from None


def _state(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.glob("*.json")}


def _changed(cache: Path, before: dict[Path, int]) -> list[Path]:
    return sorted(path for path, time in _state(cache).items() if before.get(path) != time)


if __name__ == "__main__":
    sys.exit(main())
