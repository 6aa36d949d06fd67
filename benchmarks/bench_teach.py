"""What teaching a few labelled frames gives, on real sequences: `python -m benchmarks.bench_teach --help`.

DAVIS has `JPEGImages/480p` and `Annotations_unsupervised/480p` of single-object sequences, EXPRESSIONS is the
`meta_expressions.json` of Ref-DAVIS17. A model is taught each sequence (with `--together` one model is taught all of
them) from `--labelled` frames in the middles of as many equal parts, and its own sentences. It then predicts the whole
sequence as `main.py predict` does. J and F are the means over all other frames and all sentences, rejected ones counted
as empty masks; refused are sentences of the other sequences, window by window.

Two sequences may show the same kind of thing ("a dog" of one is true in the other): sentences that share a noun with a
sentence of the sequence itself are counted apart.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.loader import load_config
from datasets.absent_words import may_fit, nouns
from main import TEACH_CONFIG
from media.mask_png import read_index_png
from media.video import open_video
from metrics.region_boundary import region_and_boundary
from models.saved_model import load_saved_model
from prediction.stream import PredictionSettings, VideoPredictor
from structures.user_path import user_path
from teach import teach


@dataclass(frozen=True, slots=True)
class DavisSequence:
    """A sequence, its masks and its sentences.

    Attributes:
        name: of its folder.
        frames: folder of images.
        masks: folder of palette images, object 1.
        sentences: about object 1.
    """

    name: str
    frames: Path
    masks: Path
    sentences: tuple[str, ...]

    def labelled(self, count: int) -> list[str]:
        """Names of the frames in the middles of `count` equal parts."""
        names = sorted(path.stem for path in self.frames.glob("*.jpg"))
        return [names[round((part + 0.5) * len(names) / count)] for part in range(count)]

    def write_labels(self, folder: Path, count: int) -> None:
        """What a user would label."""
        folder.mkdir(parents=True)
        for name in self.labelled(count):
            shutil.copyfile(self.masks / f"{name}.png", folder / f"{name}.png")
        (folder / "sentences.json").write_text(json.dumps({"1": self.sentences}), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Result:
    """Of one sequence.

    Attributes:
        region: mean J.
        boundary: mean F.
        found: share of windows and own sentences that are found.
        refused: share of windows and sentences of others that are refused, without those that may be true.
        refused_ambiguous: the same of those that may be true; None without any.
    """

    region: float
    boundary: float
    found: float
    refused: float
    refused_ambiguous: float | None


def measure(predictor: VideoPredictor, one: DavisSequence, others: Sequence[str], *, skip: Sequence[str]) -> Result:
    """Predicts a whole sequence and scores it.

    Args:
        predictor: of the taught model.
        one: the sequence.
        others: sentences about other sequences.
        skip: frames that the model was taught with.
    """
    asked = [*one.sentences, *others]
    own = frozenset[str]().union(*map(nouns, one.sentences))
    ambiguous = np.array([may_fit(sentence, own) for sentence in others], dtype=bool)
    region, boundary, found, refused = [], [], [], []
    for window in predictor.stream(open_video(one.frames).frames(), asked):
        found.append([each.is_found for each in window.objects[: len(one.sentences)]])
        refused.append([not each.is_found for each in window.objects[len(one.sentences) :]])
        scored = [index for index, frame in enumerate(window.frames) if frame.name not in skip]
        if not scored:
            continue
        truth = np.stack([read_index_png(one.masks / f"{window.frames[i].name}.png") == 1 for i in scored])
        for each in window.objects[: len(one.sentences)]:
            j, f = region_and_boundary(truth, np.stack([each.mask(index) for index in scored]))
            region += j.tolist()
            boundary += f.tolist()
    shares = np.array(refused)
    return Result(
        region=float(np.mean(region)),
        boundary=float(np.mean(boundary)),
        found=float(np.mean(found)),
        refused=float(shares[:, ~ambiguous].mean()),
        refused_ambiguous=float(shares[:, ambiguous].mean()) if ambiguous.any() else None,
    )


def run(options: argparse.Namespace) -> None:
    """Teaches, measures, prints a Markdown table."""
    videos = json.loads(options.expressions.read_text(encoding="utf-8"))["videos"]
    sequences = [
        DavisSequence(
            name,
            options.davis / "JPEGImages/480p" / name,
            options.davis / "Annotations_unsupervised/480p" / name,
            tuple(dict.fromkeys(e["exp"].strip() for e in videos[name]["expressions"].values())),
        )
        for name in options.sequences
    ]
    print("| taught | sequence | J&F | J | F | found | others refused | may be true, refused | held out | s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for group in [sequences] if options.together else [[one] for one in sequences]:
        name = "+".join(one.name for one in group)
        pairs = []
        for one in group:
            labels = options.out / name / "labels" / one.name
            one.write_labels(labels, options.labelled)
            pairs.append({"video": str(one.frames.absolute()), "labels": str(labels.absolute()), "name": one.name})
        model = options.out / name / "model"
        settings = [f"data.sets.0.videos={json.dumps(pairs)}", "data.root=.", f"output_dir={model}"]
        lesson = teach(load_config(TEACH_CONFIG, [*settings, *options.overrides]))
        soc, config = load_saved_model(model)
        predictor = VideoPredictor(soc, settings=PredictionSettings.of_config(config), device=torch.device("cpu"))
        for one in group:
            others = [text for other in sequences if other is not one for text in other.sentences]
            result = measure(predictor, one, others, skip=one.labelled(options.labelled))
            held_out = _percent(lesson.taught.main_score)
            print(f"| {name} | {one.name} | {_row(result)} | {held_out} | {lesson.seconds:.0f} |")
            sys.stdout.flush()


def _row(result: Result) -> str:
    mean = (result.region + result.boundary) / 2
    values = (mean, result.region, result.boundary, result.found, result.refused, result.refused_ambiguous)
    return " | ".join(map(_percent, values))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=user_path)
    parser.add_argument("expressions", type=user_path)
    parser.add_argument("out", type=user_path)
    parser.add_argument("--sequences", nargs="+", default=["blackswan", "car-shadow", "dog", "libby"])
    parser.add_argument("--labelled", type=int, default=3)
    parser.add_argument("--together", action="store_true", help="one model for all sequences")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    run(parser.parse_intermixed_args(arguments))


if __name__ == "__main__":
    main()
