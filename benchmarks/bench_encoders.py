"""What visual and text encoders cost: `python -m benchmarks.bench_encoders [--threads 2] [--names NAME ...]`.

Every encoder has random weights, which cost what pretrained ones do. Operations are those that PyTorch's flop counter
knows (convolutions, matrix products and attention; a multiplication with its addition counts as two), for one frame.
Times are medians over `--repeats` runs. Video-Swin gets clips of 8 frames, and an eighth is reported.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import VisualEncoderConfig
from models.build import build_visual_encoder

VISUAL = (
    "video-swin-t",
    "video-swin-s",
    "video-swin-b",
    "resnet50",
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv4_conv_small",
    "timm/mobilenetv4_conv_medium",
    "timm/convnext_tiny",
    "timm/convnextv2_nano",
    "timm/swin_tiny_patch4_window7_224",
    "timm/sam2_hiera_tiny",
    "timm/vit_small_patch16_dinov3",
    "timm/vit_small_patch14_dinov2",
)

HEIGHT, WIDTH = 360, 640


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table in Markdown; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_encoders", description=__doc__)
    parser.add_argument("--names", nargs="+", default=VISUAL, help="visual encoders, as in model.visual_encoder.name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    threads = f"{options.threads} threads" if options.threads > 1 else "1 thread"
    print(f"| encoder | million parameters | GFLOP per frame | ms per frame, {threads} |\n|---|---|---|---|")
    for name in options.names:
        parameters, gflop, ms = measure_visual(name, repeats=options.repeats)
        print(f"| `{name}` | {parameters / 1e6:.1f} | {gflop:.1f} | {ms:.0f} |", flush=True)
    return 0


@torch.no_grad()
def measure_visual(name: str, *, repeats: int) -> tuple[int, float, float]:
    """(parameters, GFLOP per frame, median milliseconds per frame) of a visual encoder."""
    encoder = build_visual_encoder(VisualEncoderConfig(name=name)).eval()
    frames = torch.randn(1, 8 if name.startswith("video-swin") else 1, 3, HEIGHT, WIDTH)
    num_frames = frames.shape[1]
    with FlopCounterMode(display=False) as counter:
        encoder(frames)  # warms up, too
    seconds = median_seconds(lambda: encoder(frames), repeats=repeats)
    return num_parameters(encoder), counter.get_total_flops() / num_frames / 1e9, 1000 * seconds / num_frames


def median_seconds(call: Callable[[], object], *, repeats: int) -> float:
    """Of the time that a call takes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def num_parameters(module: nn.Module) -> int:
    """All of them, trained or not."""
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    sys.exit(main())
