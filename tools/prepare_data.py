"""Make the files that are derived from a data set: `python -m tools.prepare_data --config FILE --cache DIR`.

    A2D-Sentences      list of frame counts and annotated frames; ground truth in the format of COCO
    JHMDB-Sentences    the chosen frames as in the published metadata file; ground truth in the format of COCO
    Ref-DAVIS17        the sentences as meta_expressions.json; where objects are visible
    others             where objects are visible

Training and evaluation with `data.cache=DIR` use them, and make those they need where they are missing. A file is
made anew when one of the files it comes from was changed, or its format was.
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
from datasets.a2d_sentences import A2DSentences
from datasets.jhmdb_sentences import METADATA_FILES, JhmdbSentences
from evaluation.coco_ground_truth import coco_ground_truth
from loading.loaders import VideoSource, open_split
from media.files import write_json

MANIFEST = "prepared.json"
"""Remembers, in the cache folder, what each file was made of."""

GROUND_TRUTH_FORMAT = 1
"""Raise when the content of ground-truth files changes."""

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_SOURCE = ("runs", "data")
"""Folders of the repository that Git ignores."""

EXIT_BAD_USAGE = 2


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
    parser = argparse.ArgumentParser(
        prog="python -m tools.prepare_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a recipe")
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for main.py, at least data.root=FOLDER")
    options = parser.parse_args(arguments)
    try:
        data = load_config(options.config, options.overrides).data
        for line in prepare(data, options.cache):
            sys.stdout.write(line + "\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"prepare_data: {error}\n")
        return EXIT_BAD_USAGE
    return 0


def prepare(data: DataConfig, cache: Path) -> Iterator[str]:
    """Makes what is missing or stale; yields a line about each file.

    Args:
        data: which data set, and which splits of it.
        cache: folder of the files.

    Raises:
        ValueError: the data is damaged, or `cache` is among the source files.
    """
    cache = cache.expanduser().resolve()
    ignored = any(cache.is_relative_to(REPOSITORY / folder) for folder in NOT_SOURCE)
    if cache.is_relative_to(REPOSITORY) and not ignored:
        raise ValueError(f"--cache {cache}: lies among the source files; name a folder outside of the repository")
    cache.mkdir(parents=True, exist_ok=True)
    parts = [data.of_part(part) for part in data.parts] or [data]
    for number, part in enumerate(parts):
        part = part.model_copy(update={"cache": cache})
        for split, is_for_training in _splits(part, is_evaluated=number == 0):
            before = _state(cache)
            source = open_split(part, split)
            if is_for_training:
                source.training_videos()
            yield from (f"{'made' if path not in before else 'made anew'}: {path}" for path in _changed(cache, before))
            for product in _products(part, split, source):
                yield f"{_keep(cache, product)}: {cache / product.name}"


def _splits(data: DataConfig, *, is_evaluated: bool) -> Iterator[tuple[str, bool]]:
    """The splits of the recipe, and whether they are trained on; of a mixture only the first part is evaluated."""
    can_be_trained_on = data.dataset != "jhmdb_sentences"
    if can_be_trained_on:
        yield data.train_split, True
    if is_evaluated and not (can_be_trained_on and data.eval_split == data.train_split):
        yield data.eval_split, False


def _products(data: DataConfig, split: str, source: VideoSource) -> Iterator[Product]:
    if isinstance(source, A2DSentences | JhmdbSentences):
        names_instances = isinstance(source, A2DSentences)
        yield Product(
            f"{data.dataset}_{split}_coco.json",
            f"{GROUND_TRUTH_FORMAT}/{source.fingerprint}",
            lambda: coco_ground_truth(source.videos, names_instances=names_instances),
        )
    if isinstance(source, JhmdbSentences):
        yield _made_of_itself(METADATA_FILES[0], _jhmdb_samples(source))
    if data.dataset == "ref_davis17":
        raw = open_split(data, split, raw_sentences=True)
        yield _made_of_itself(f"{data.dataset}_{split}_meta_expressions.json", _meta_expressions(raw))


def _made_of_itself(name: str, content: Any) -> Product:
    """A file whose content is known at no cost."""
    return Product(name, hashlib.sha256(json.dumps(content).encode()).hexdigest(), lambda: content)


def _jhmdb_samples(source: JhmdbSentences) -> list[list[Any]]:
    """As the published metadata file: video, path of the frame, path of the masks, number of frames, sentence."""
    return [
        [
            video.name,
            f"./jhmdb_sentences/Rename_Images/{source.places[video.name]}/{video.frame_names[position]}.png",
            f"./jhmdb_sentences/puppet_mask/{source.places[video.name]}/puppet_mask.mat",
            len(video.frame_names),
            video.expressions[0].sentence,
        ]
        for video in source.videos
        for position in sorted(video.annotated or ())
    ]


def _meta_expressions(source: VideoSource) -> dict[str, Any]:
    """As the file of that name in Ref-YouTube-VOS."""
    return {
        "videos": {
            video.name: {
                "frames": list(video.frame_names),
                "expressions": {
                    expression.name: {"exp": expression.sentence, "obj_id": str(expression.object_ids[0])}
                    for expression in video.expressions
                },
            }
            for video in source.videos
        }
    }


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
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); delete it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of file names; delete it")
    return content


def _state(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.glob("*.json")}


def _changed(cache: Path, before: dict[Path, int]) -> list[Path]:
    return sorted(path for path, time in _state(cache).items() if before.get(path) != time)


if __name__ == "__main__":
    sys.exit(main())
