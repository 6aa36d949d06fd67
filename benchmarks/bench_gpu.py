"""The whole model on a GPU: `python -m benchmarks.bench_gpu [--output FILE]`; `scripts/gpu_check.sh` calls it.

SOC-T at full size with random weights and a random RoBERTa-base, in float32, TF32 and bfloat16 (autocast): evaluation
of a clip, and the training step of train.py (forward, matching, losses, backward, clipping, AdamW). For each the median
time by events of the device, the peak of its memory, and, for the training step, what the host asked of the device in
one step: launches of kernels, and calls that wait for it. The masks are compared with those of the CPU in float32, and
TF32 and bfloat16 with float32. The last table says which lines of the project wait. `--device cpu --tiny` only shows
that this program works.
"""

import argparse
import logging
import os
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from configs.loader import load_config
from configs.schema import Config
from engine.checkpoint import Progress
from engine.distributed import World
from engine.logging import MetricsLog
from engine.optim import build_optimizer, clip_gradients
from loading.collate import collate
from models.build import build_criterion, build_model
from models.inference import encode_sentences, segment_clip
from models.outputs import Predictions
from models.postprocess import best_queries
from models.soc import SOC
from models.text_encoder import TextEncoder
from models.text_files import ROBERTA_BASE
from structures.samples import ClipTarget, SentenceMeta, VideoBatch, VideoSample
from structures.user_path import user_path
from train import Run, add_gradients

REPOSITORY = Path(__file__).resolve().parent.parent
PRECISIONS = ("float32", "TF32", "bfloat16")
Size = Literal["full", "narrow", "tiny"]
"""`narrow`: all layers, few channels; `tiny`: one layer of each kind, too."""

NARROW = (
    "model.visual_encoder.name=video-swin",
    "model.visual_encoder.embed_dim=16",
    "model.visual_encoder.depths=[2,2,6,2]",
    "model.visual_encoder.num_heads=[1,2,4,8]",
    "model.dim=32",
    "model.visual_encoder.depths=[1,1,1,1]",
    "model.visual_encoder.num_heads=[1,1,1,1]",
)
SENTENCE = "the small dog that runs to the right of a red car behind the big tree"
WORDS = tuple(dict.fromkeys(SENTENCE.split(" ")))
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True, slots=True)
class Clip:
    """What is measured: frames of this size and this many sentences."""

    frames: int
    height: int
    width: int
    sentences: int

    def __str__(self) -> str:
        plural = "" if self.sentences == 1 else "s"
        return f"{self.frames} x {self.height} x {self.width}, {self.sentences} sentence{plural}"


EVALUATION = (Clip(8, 360, 640, 1), Clip(8, 360, 640, 8), Clip(36, 360, 640, 1))
TRAINING = (Clip(8, 360, 640, 1), Clip(8, 360, 640, 4))
TINY = (Clip(2, 32, 64, 2),)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model and clip")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=user_path, help="the page; default: benchmarks/results/gpu_NAME_DATE.md")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    device = torch.device(options.device)
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    bench = Bench(device, size="tiny" if options.tiny else "full", repeats=options.repeats)
    page = [
        f"# SOC-T on {title}, {date.today()}",
        "",
        f"`python -m benchmarks.bench_gpu`, PyTorch {torch.__version__}, CUDA {torch.version.cuda}; random weights.",
        "",
        *bench.agreement(),
        *bench.evaluation(TINY if options.tiny else EVALUATION),
        *bench.training(TINY if options.tiny else TRAINING),
    ]
    text = "\n".join(page) + "\n"
    print(text)
    name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    path = options.output or REPOSITORY / "benchmarks" / "results" / f"gpu_{name}_{date.today()}.md"
    path.write_text(text, encoding="utf-8")
    return 0


class Bench:
    """One model, and what is measured of it."""

    def __init__(self, device: torch.device, *, size: Size = "full", repeats: int = 1) -> None:
        torch.manual_seed(0)
        settings = ["data.root=.", *NARROW[: {"full": 0, "narrow": -2, "tiny": len(NARROW)}[size]]]
        self.config: Config = load_config(REPOSITORY / "configs" / "base.yaml", settings)
        shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
        shape |= {"num_hidden_layers": 1} if size == "tiny" else {}
        roberta = ROBERTA_BASE if size == "full" else RobertaConfig(**{**ROBERTA_BASE.to_dict(), **shape})
        frozen = self.config.model.text_encoder.frozen
        text_encoder = TextEncoder(RobertaModel(roberta), _tokenizer(), frozen=frozen)
        self.model: SOC = build_model(self.config.model, text_encoder=text_encoder).eval()
        self.device, self.repeats = device, repeats

    def agreement(self) -> list[str]:
        """How far masks are from those of the CPU, and of float32."""
        clip = TINY[0] if self.device.type == "cpu" else Clip(8, 360, 640, 2)
        on_cpu = self._segment(clip, torch.device("cpu"))
        self.model.to(self.device)
        outputs = {"CPU, float32": on_cpu}
        for name in PRECISIONS:
            with _precision(name, self.device):
                outputs[name] = self._segment(clip, self.device)
        lines = [
            "| masks of | against | relative difference | other queries | pixels flipped |",
            "|---|---|---|---|---|",
        ]
        pairs = [("float32", "CPU, float32"), *((name, "float32") for name in PRECISIONS[1:])]
        for name, other in pairs:
            ours, right = outputs[name].masks_in(0).float().cpu(), outputs[other].masks_in(0).float().cpu()
            queries = [[item.query for item in best_queries(outputs[key])] for key in (name, other)]
            flipped = ((ours > 0) != (right > 0)).float().mean()
            moved = sum(a != b for a, b in zip(*queries, strict=True))
            lines.append(
                f"| {name} | {other} | {(ours - right).norm() / right.norm():.1e} | {moved} of {len(queries[0])} "
                f"| {flipped:.1e} |"
            )
        return [f"## Agreement ({clip}, all queries)", "", *lines, ""]

    def evaluation(self, clips: Sequence[Clip]) -> list[str]:
        """Time and memory of a clip, sentences encoded beforehand."""
        lines = ["| clip | precision | ms | peak MiB | launches | waits |", "|---|---|---|---|---|---|"]
        for clip in clips:
            for name in PRECISIONS:
                with _precision(name, self.device), torch.no_grad():
                    frames, texts = self._inputs(clip, self.device)

                    def call(frames: Tensor = frames, texts: Sequence = texts) -> None:
                        list(segment_clip(self.model, frames, texts, device=self.device))

                    lines.append(f"| {clip} | {name} | {self._cost(call)} |")
        return ["## Evaluation of a clip", "", *lines, ""]

    def training(self, clips: Sequence[Clip]) -> list[str]:
        """Time and memory of a step, and which lines wait for the device."""
        lines = ["| clip | precision | ms | peak MiB | launches | waits |", "|---|---|---|---|---|---|"]
        places: Counter[str] = Counter()
        for clip in clips:
            for name in PRECISIONS:
                with _precision(name, self.device, autocast=False), tempfile.TemporaryDirectory() as folder:
                    step = self.step(clip, amp="bf16" if name == "bfloat16" else "off", folder=Path(folder))
                    lines.append(f"| {clip} | {name} | {self._cost(step)} |")
                    if self.device.type == "cuda" and not places:
                        places = _places_that_wait(step)
        waits = [f"| {count} | {place} |" for place, count in places.most_common()]
        return ["## Training step", "", *lines, "", "| waits | line |", "|---|---|", *waits, ""]

    def _inputs(self, clip: Clip, device: torch.device) -> tuple[Tensor, tuple]:
        generator = torch.Generator().manual_seed(1)
        frames = torch.randint(256, (clip.frames, 3, clip.height, clip.width), generator=generator, dtype=torch.uint8)
        sentences = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(8)) for i in range(clip.sentences)]
        return frames.to(device), encode_sentences(self.model, sentences, group=clip.sentences, device=device)

    @torch.no_grad()
    def _segment(self, clip: Clip, device: torch.device) -> Predictions:
        frames, texts = self._inputs(clip, device)
        (output,) = segment_clip(self.model, frames, texts, device=device)
        return output

    def step(self, clip: Clip, *, amp: str, folder: Path) -> Callable[[], None]:
        """The training step of train.py on a batch of one clip that is in memory."""
        config = load_config(REPOSITORY / "configs" / "base.yaml", ["data.root=.", f"train.amp={amp}"])
        stage = config.training_stages()[0]
        world = World(rank=0, local_rank=0, size=1)
        metrics = MetricsLog(folder, world, keep_up_to_step=None)
        run = Run(config, world, self.device, self.model, (), metrics, Progress(), None)
        criterion = build_criterion(stage.loss)
        rates = {"lr": 1e-4, "lr_visual_encoder": 1e-5, "lr_text_encoder": 5e-6}
        optimizer = build_optimizer(self.model.parameter_groups(**rates), stage.optim)
        batch = _batch(clip)
        batch = batch.pin_memory() if self.device.type == "cuda" else batch

        def step() -> None:
            self.model.train()
            optimizer.zero_grad()
            add_gradients(run, self.model, criterion, [batch])
            clip_gradients(self.model.parameters(), stage.optim.max_grad_norm)
            optimizer.step()

        return step

    def _cost(self, call: Callable[[], None]) -> str:
        """Cells of a table: ms, MiB, launches, waits."""
        for _ in range(2):
            call()
        if self.device.type != "cuda":
            started = time.perf_counter()
            call()
            return f"{1000 * (time.perf_counter() - started):.0f} | - | - | -"
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(self.repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        peak = torch.cuda.max_memory_allocated() / 2**20
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            call()
        names = Counter(event.name for event in profiler.events())
        launches, waits = (sum(names[name] for name in group) for group in (LAUNCHES, WAITS))
        # The profiler itself waits once, at the end.
        return f"{statistics.median(times):.1f} | {peak:.0f} | {launches} | {max(waits - 1, 0)}"


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(("<s>", "<pad>", "</s>", "<unk>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")


@contextmanager
def _precision(name: str, device: torch.device, *, autocast: bool = True) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast and name == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _batch(clip: Clip) -> VideoBatch:
    generator = torch.Generator().manual_seed(2)
    frames = torch.randint(256, (clip.frames, 3, clip.height, clip.width), generator=generator, dtype=torch.uint8)
    targets = []
    for i in range(clip.sentences):
        masks = torch.zeros(1, clip.frames, clip.height, clip.width, dtype=torch.bool)
        masks[..., : clip.height // (2 + i), : clip.width // 2] = True
        box = torch.tensor([0.25, 0.5 / (2 + i), 0.5, 1 / (2 + i)]).expand(1, clip.frames, 4).contiguous()
        seen = torch.ones(1, clip.frames, dtype=torch.bool)
        targets.append(ClipTarget(masks, box, seen, torch.zeros(1, dtype=torch.long)))
    names = tuple(map(str, range(clip.frames)))
    sentences = tuple(" ".join(WORDS[i : i + 8]) for i in range(clip.sentences))
    meta = tuple(SentenceMeta("video", str(i), names) for i in range(clip.sentences))
    return collate([VideoSample(frames, sentences, tuple(targets), meta)])


def _places_that_wait(step: Callable[[], None]) -> Counter[str]:
    """How often each line of the project makes the host wait in one step."""
    places: Counter[str] = Counter()
    root = str(REPOSITORY) + os.sep

    def is_ours(path: str) -> bool:
        return path.startswith(root) and "site-packages" not in path

    def count(*_: object, **__: object) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not is_ours(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename != __file__:
            places[f"{frame.f_code.co_filename.removeprefix(root)}:{frame.f_lineno}"] += 1
        else:
            places["elsewhere"] += 1

    shown = warnings.showwarning
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = count
            step()
    finally:
        warnings.showwarning = shown
        torch.cuda.set_sync_debug_mode("default")
    return places


if __name__ == "__main__":
    sys.exit(main())
