"""The whole model on a GPU: `python -m benchmarks.bench_gpu [--output FILE]`; `scripts/gpu_check.sh` calls it.

SOC-T at full size with random weights and a random RoBERTa-base, in float32, TF32 and bfloat16 (autocast): evaluation
of a clip, and the training step of train.py (forward, matching, losses, backward, clipping, AdamW), as it is, played
back from CUDA graphs (`train.cuda_graphs`), and with `--compiled` with compiled blocks (`compile`), too. For each the
median time by events of the device, the peak of its memory, the share of the time in which a kernel runs, and what the
host asked of the device: launches of kernels and graphs, and calls that wait for it. The masks are compared with those
of the CPU in float32, and TF32, bfloat16 and other ways with float32. The last table says which lines of the project
wait. `--device cpu --tiny` only shows that this program works.
"""

import argparse
import gc
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
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import RobertaConfig, RobertaModel

from benchmarks.one_way import RATES, new_tokenizer, random_frames, random_sample, sentences_of
from configs.loader import load_config
from configs.schema import Config
from engine.checkpoint import Progress
from engine.distributed import World
from engine.logging import MetricsLog
from engine.optim import build_optimizer, clip_gradients
from loading.collate import collate
from models.build import build_criterion, build_model
from models.compilation import compile_blocks
from models.inference import encode_sentences, segment_clip
from models.postprocess import best_queries
from models.recording import RecordedSOC
from models.soc import SOC
from models.text_encoder import TextEncoder
from models.text_files import ROBERTA_BASE
from structures.samples import VideoBatch
from structures.transfer import sent_ahead
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
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says about a clip.

    Attributes:
        masks: logits of all queries for the first sentence.
        chosen: logits of the chosen query for each sentence.
        queries: which one that is.
    """

    masks: Tensor
    chosen: Tensor
    queries: tuple[int, ...]


EVALUATION = (Clip(8, 360, 640, 1), Clip(8, 360, 640, 8), Clip(36, 360, 640, 1))
TRAINING = (Clip(8, 360, 640, 1), Clip(8, 360, 640, 4))
TINY = (Clip(2, 32, 64, 2),)
COSTS = (
    "| clip | precision, way | ms | MiB of tensors at most | MiB taken | a kernel runs | launches | waits |",
    "|---|---|---|---|---|---|---|---|",
)
AGREEMENT = (
    "| masks of | against | relative difference | other queries chosen | pixels flipped, all queries | chosen ones |",
    "|---|---|---|---|---|---|",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model and clip")
    parser.add_argument("--compiled", action="store_true", help="measure compiled blocks, too: minutes more")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=user_path, help="the page; default: benchmarks/results/gpu_NAME_DATE.md")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    device = torch.device(options.device)
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    bench = Bench(device, size="tiny" if options.tiny else "full", repeats=options.repeats)
    clip = TINY[0] if options.tiny else EVALUATION[0]
    parts: list[Callable[[], list[str]]] = [
        bench.agreement,
        lambda: bench.evaluation(TINY if options.tiny else EVALUATION),
        lambda: bench.training(TINY if options.tiny else TRAINING),
        *([lambda: bench.compiled(clip)] if options.compiled else []),
    ]
    versions = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    head = f"# SOC-T on {title}, {date.today()}\n\n`python -m benchmarks.bench_gpu`, {versions}; random weights.\n"
    print(head)
    page = [head]
    name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    path = options.output or REPOSITORY / "benchmarks" / "results" / f"gpu_{name}_{date.today()}.md"
    for part in parts:
        text = "\n".join(part())
        print(text, flush=True)
        page.append(text)
        path.write_text("\n".join(page) + "\n", encoding="utf-8")  # now: the next part may take minutes
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
        text_encoder = TextEncoder(RobertaModel(roberta), new_tokenizer(), frozen=frozen)
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
        self._float32 = outputs["float32"]
        rows = [_agreement("float32", outputs["float32"], "CPU, float32", on_cpu)]
        rows += [_agreement(name, outputs[name], "float32", outputs["float32"]) for name in PRECISIONS[1:]]
        return [f"## Agreement ({clip})", "", *AGREEMENT, *rows, ""]

    def evaluation(self, clips: Sequence[Clip]) -> list[str]:
        """Time and memory of a clip, sentences encoded beforehand."""
        rows = [self._evaluation_row(clip, name) for clip in clips for name in PRECISIONS]
        return ["## Evaluation of a clip", "", *COSTS, *rows, ""]

    def _evaluation_row(self, clip: Clip, name: str, way: str = "") -> str:
        with _precision(name, self.device), torch.no_grad():
            frames, texts = self._inputs(clip, self.device)

            def call() -> None:
                for layer in segment_clip(self.model, frames, texts, device=self.device):
                    best_queries(layer)

            return f"| {clip} | {name}{way} | {self._cost(call)} |"

    def training(self, clips: Sequence[Clip]) -> list[str]:
        """Time and memory of a step, and which lines wait for the device."""
        rows: list[str] = []
        places: Counter[str] = Counter()
        is_gpu = self.device.type == "cuda"
        for clip in clips:
            for name in PRECISIONS:
                rows += [
                    self._training_row(clip, name, cuda_graphs=graphs)
                    for graphs in ([False, True] if is_gpu else [False])
                ]
        if is_gpu:
            with tempfile.TemporaryDirectory() as folder:
                places = _places_that_wait(self.step(clips[0], amp="off", folder=Path(folder)))
        waits = [f"| {count} | {place} |" for place, count in places.most_common()]
        return [
            "## Training step",
            "",
            *COSTS,
            *rows,
            "",
            "| waits | line |",
            "|---|---|",
            *waits,
            "",
            *self._ahead(clips[0]),
        ]

    def _training_row(self, clip: Clip, name: str, way: str = "", *, cuda_graphs: bool = False) -> str:
        with _precision(name, self.device, autocast=False), tempfile.TemporaryDirectory() as folder:
            amp = "bf16" if name == "bfloat16" else "off"
            step = self.step(clip, amp=amp, folder=Path(folder), cuda_graphs=cuda_graphs)
            return f"| {clip} | {name}{way}{', CUDA graphs' if cuda_graphs else ''} | {self._cost(step)} |"

    def _ahead(self, clip: Clip) -> list[str]:
        """Steps whose batches come from pinned memory, copied between the steps and beside them."""
        rows = []
        for graphs in (False, True) if self.device.type == "cuda" else (False,):
            with tempfile.TemporaryDirectory() as folder:
                step = self.step(clip, amp="bf16", folder=Path(folder), cuda_graphs=graphs)
                batch = self._batch(clip)
                times: dict[str, list[float]] = {"between": [], "beside": []}
                for _ in range(4):
                    for way, seen in times.items():
                        batches = [batch] * self.repeats

                        def send(one: VideoBatch) -> VideoBatch:
                            return one.to(self.device)

                        sent = sent_ahead(batches, send, self.device) if way == "beside" else map(send, batches)
                        started = time.perf_counter()
                        for each in sent:
                            step(each)
                        self._finish()
                        seen.append(1000 * (time.perf_counter() - started) / self.repeats)
                ms = {way: f"{min(seen[1:]):.1f}" for way, seen in times.items()}
                rows.append(f"| bfloat16{', CUDA graphs' if graphs else ''} | {ms['between']} | {ms['beside']} |")
        head = ["| steps in a row, ms each | batches copied between them | beside the step before |", "|---|---|---|"]
        return [*head, *rows, ""]

    def compiled(self, clip: Clip) -> list[str]:
        """The same with compiled blocks; the model stays so."""
        compile_blocks(self.model)
        self.model.eval()
        started = time.perf_counter()
        with _precision("float32", self.device):
            output = self._segment(Clip(8, 360, 640, 2) if self.device.type == "cuda" else TINY[0], self.device)
        lines = [f"First call: {time.perf_counter() - started:.0f} s.", "", *AGREEMENT]
        lines += [_agreement("float32, compiled", output, "float32", self._float32), "", *COSTS]
        lines += [self._evaluation_row(clip, name, ", compiled") for name in ("float32", "bfloat16")]
        graphs = (False, True) if self.device.type == "cuda" else (False,)
        lines += [self._training_row(clip, "bfloat16", ", compiled", cuda_graphs=each) for each in graphs]
        return ["## Compiled blocks", "", *lines, ""]

    def _inputs(self, clip: Clip, device: torch.device) -> tuple[Tensor, tuple]:
        frames = random_frames(clip.frames, clip.height, clip.width)
        texts = encode_sentences(self.model, sentences_of(clip.sentences), group=clip.sentences, device=device)
        return frames.to(device), texts

    def _batch(self, clip: Clip) -> VideoBatch:
        batch = collate([random_sample(clip.frames, clip.height, clip.width, sentences=clip.sentences)])
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def _segment(self, clip: Clip, device: torch.device) -> Answer:
        frames, texts = self._inputs(clip, device)
        (output,) = segment_clip(self.model, frames, texts, device=device)
        best = best_queries(output)
        return Answer(
            masks=output.masks_in(0).float().cpu(),
            chosen=torch.stack([one.mask_logits.float().cpu() for one in best]),
            queries=tuple(one.query for one in best),
        )

    def step(self, clip: Clip, *, amp: str, folder: Path, cuda_graphs: bool = False) -> Callable[..., None]:
        """The training step of train.py on a batch of one clip that is in memory, or on one that is given."""
        settings = [f"train.amp={amp}", f"train.cuda_graphs={str(cuda_graphs).lower()}"]
        config = load_config(REPOSITORY / "configs" / "base.yaml", ["data.root=.", *settings])
        stage = config.training_stages()[0]
        world = World(rank=0, local_rank=0, size=1)
        metrics = MetricsLog(folder, world, keep_up_to_step=None)
        run = Run(config, world, self.device, self.model, (), metrics, Progress(), None)
        criterion = build_criterion(stage.loss)
        optimizer = build_optimizer(self.model.parameter_groups(**RATES), stage.optim)
        called = RecordedSOC(self.model) if run.is_recorded else self.model
        own = self._batch(clip)

        def step(batch: VideoBatch | None = None) -> None:
            self.model.train()
            optimizer.zero_grad()
            add_gradients(run, called, criterion, [batch or own.to(self.device)])
            clip_gradients(self.model.parameters(), stage.optim.max_grad_norm)
            optimizer.step()

        return step

    def _cost(self, call: Callable[..., None]) -> str:
        """Cells of a table: ms, MiB, share of the time with a kernel, launches, waits.

        What a CUDA graph uses between its inputs and outputs is no tensor, but taken from the device.
        """
        if self.device.type == "cuda":
            gc.collect()  # recordings of before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):  # the first makes what is kept, the second may be recorded
            call()
        if self.device.type != "cuda":
            started = time.perf_counter()
            call()
            return f"{1000 * (time.perf_counter() - started):.0f} | - | - | - | - | -"
        torch.cuda.synchronize()
        times = []
        for _ in range(self.repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        peak, taken = (number / 2**20 for number in (torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()))
        median = statistics.median(times)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            call()
        events = profiler.events()
        names = Counter(event.name for event in events)
        launches, waits = (sum(names[name] for name in group) for group in (LAUNCHES, WAITS))
        # Kernels run one after the other here, so their times add up.
        busy = sum(event.self_device_time_total for event in events if event.device_type == DeviceType.CUDA) / 1000
        waits = max(waits - 1, 0)  # the profiler itself waits once, at the end
        return f"{median:.1f} | {peak:.0f} | {taken:.0f} | {100 * busy / median:.0f} % | {launches} | {waits}"


def _agreement(name: str, seen: Answer, other_name: str, other: Answer) -> str:
    """A row of the table of how far all masks, and those of the chosen queries, are from others."""

    def flipped(ours: Tensor, right: Tensor) -> Tensor:
        return ((ours > 0) != (right > 0)).float().mean()

    moved = sum(a != b for a, b in zip(seen.queries, other.queries, strict=True))
    difference = (seen.masks - other.masks).norm() / other.masks.norm()
    return (
        f"| {name} | {other_name} | {difference:.1e} | {moved} of {len(seen.queries)} "
        f"| {flipped(seen.masks, other.masks):.1e} | {flipped(seen.chosen, other.chosen):.1e} |"
    )


@contextmanager
def _precision(name: str, device: torch.device, *, autocast: bool = True) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast and name == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _places_that_wait(step: Callable[..., None]) -> Counter[str]:
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
