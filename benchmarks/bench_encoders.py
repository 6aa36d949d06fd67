"""What visual encoders cost: `python -m benchmarks.bench_encoders [--threads 2] [--names NAME ...]`.

Every encoder has random weights, which cost what pretrained ones do. Operations are those that PyTorch's flop counter
knows (convolutions, matrix products and attention; a multiplication with its addition counts as two), for one frame.
Times are medians over `--repeats` runs: that of the clock, and that of the processor (the sum over threads), which
other programs on the machine change less. Video-Swin gets clips of 8 frames, and an eighth is reported.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.model_schema import VisualEncoderConfig
from models.build import build_visual_encoder

VISUAL = (
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv4_conv_small",
    "timm/mobilenetv4_conv_medium",
    "timm/convnextv2_nano",
    "timm/vit_small_patch16_dinov3",
    "timm/vit_small_patch14_dinov2",
    "resnet50",
    "timm/sam2_hiera_tiny",
    "timm/swin_tiny_patch4_window7_224",
    "timm/convnext_tiny",
    "video-swin-t",
    "video-swin-s",
    "video-swin-b",
)

HEIGHT, WIDTH = 360, 640


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a visual encoder.

    Attributes:
        parameters: all of them, trained or not.
        gflop: per frame.
        ms: per frame, by the clock.
        processor_ms: per frame, summed over threads.
    """

    parameters: int
    gflop: float
    ms: float
    processor_ms: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table in Markdown; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_encoders", description=__doc__)
    parser.add_argument("--names", nargs="+", default=VISUAL, help="visual encoders, as in model.visual_encoder.name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{HEIGHT} x {WIDTH} pixels, {options.threads} thread{'s' if options.threads > 1 else ''}\n")
    print("| encoder | parameters | GFLOP per frame | ms per frame | processor ms per frame |\n|---|---|---|---|---|")
    for name in options.names:
        cost = measure(name, repeats=options.repeats)
        print(
            f"| `{name}` | {cost.parameters / 1e6:.1f} M | {cost.gflop:.1f} "
            f"| {cost.ms:.0f} | {cost.processor_ms:.0f} |",
            flush=True,
        )
    return 0


@torch.no_grad()
def measure(name: str, *, repeats: int) -> Cost:
    """The cost of an encoder, in evaluation."""
    encoder = build_visual_encoder(VisualEncoderConfig(name=name)).eval()
    frames = torch.randn(1, 8 if name.startswith("video-swin") else 1, 3, HEIGHT, WIDTH)
    num_frames = frames.shape[1]
    with FlopCounterMode(display=False) as counter:
        encoder(frames)  # warms up, too
    ms, processor_ms = (1000 * seconds / num_frames for seconds in _seconds(lambda: encoder(frames), repeats=repeats))
    return Cost(
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        gflop=counter.get_total_flops() / num_frames / 1e9,
        ms=ms,
        processor_ms=processor_ms,
    )


def _seconds(call: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Medians of what a call takes by the clock and of the processor."""
    clock, processor = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return statistics.median(clock), statistics.median(processor)


if __name__ == "__main__":
    sys.exit(main())
