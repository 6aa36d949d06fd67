"""Products by oneDNN: the same numbers, forward and backward, and PyTorch's own way for all else."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.products import use_onednn

ROOT = Path(__file__).resolve().parent.parent

BEGIN = """
import torch
from torch.profiler import profile
from engine.products import use_onednn

def calls(run):
    with profile() as recorded:
        run()
    return sum(event.count for event in recorded.key_averages() if event.key == "mkldnn::_linear_pointwise")

def near(one, other):
    assert one.shape == other.shape
    assert (one.double() - other.double()).abs().max() <= 1e-5 * other.abs().max(), (one, other)

torch.manual_seed(0)
x, w, b = torch.randn(300, 70), torch.randn(90, 70), torch.randn(90)
print(use_onednn())
"""

SAME_NUMBERS = """
layer = torch.nn.Linear(70, 90)
inputs = torch.randn(2, 150, 70, requires_grad=True)
weights = [inputs, layer.weight, layer.bias]

def gradients():
    return torch.autograd.grad((layer(inputs) ** 3).sum(), weights)

assert calls(gradients) == 3  # forward, and backward for inputs and weights
found = gradients()
layer.double()
wanted = torch.autograd.grad((layer(inputs.double()) ** 3).sum(), [inputs, layer.weight, layer.bias])
for one, other in zip(found, wanted):
    near(one, other)
near(x @ w.t(), x.double() @ w.t().double())
near(torch.addmm(b, x, w.t()), b.double() + x.double() @ w.t().double())
with torch.inference_mode():
    assert calls(lambda: near(x @ w.t(), x.double() @ w.t().double())) == 1
"""

OTHERS = """
def run():
    near(torch.addmm(b, x, w.t(), alpha=2), b.double() + 2 * (x.double() @ w.t().double()))
    near(torch.addmm(b, x, w.t(), beta=3), 3 * b.double() + x.double() @ w.t().double())
    near(torch.addmm(b[:1], x, w.t()), b[:1].double() + x.double() @ w.t().double())
    for scattered in (torch.zeros(1).expand(90), torch.randn(180)[::2]):
        near(torch.addmm(scattered, x, w.t()), scattered.double() + x.double() @ w.t().double())
    each = torch.randn(300, 90)
    near(torch.addmm(each, x, w.t()), each.double() + x.double() @ w.t().double())
    near(x[:3] @ w.t(), x[:3].double() @ w.t().double())
    near(x.double() @ w.t().double(), (x.double()[:, None] * w.double()).sum(dim=-1))
    near((x > 0).long() @ (w > 0).t().long(), ((x > 0)[:, None] & (w > 0)).sum(dim=-1))
    assert (x[:, :0] @ w.t()[:0]).eq(0).all()
    assert (x[:0] @ w.t()).shape == (0, 90)
    for wrong in (lambda: x @ w, lambda: x @ w.t().double(), lambda: torch.addmm(b[:2], x, w.t())):
        try:
            wrong()
        except RuntimeError:
            continue
        raise AssertionError("no error")

assert calls(run) == 0
"""


def said(code: str, **environment: str) -> str:
    """What a process prints that begins by asking for products by oneDNN."""
    run = subprocess.run(
        [sys.executable, "-c", BEGIN + code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


WHOLE_MODEL = """
from models.video_swin import SIZES, VideoSwin

torch.manual_seed(0)
encoder = VideoSwin(SIZES["video-swin-t"], drop_path_rate=0.0)
frames = torch.randn(1, 2, 3, 64, 96)

def results():
    with torch.no_grad():
        maps = encoder(frames)
    total = sum(level.square().mean() for level in encoder(frames))
    return [*maps, *torch.autograd.grad(total, list(encoder.parameters()), allow_unused=True)]

assert calls(results) > 50
found = results()
encoder, frames = encoder.double(), frames.double()
for one, other in zip(found, results()):
    assert (one is None) == (other is None)
    if one is not None:
        assert (one.double() - other).norm() <= 1e-4 * other.norm()
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [SAME_NUMBERS, OTHERS, WHOLE_MODEL])
def test_products_and_an_encoder_are_those_of_pytorch_and_only_plain_ones_go_elsewhere(code: str):
    if said("", SOC_ONEDNN="1") == "False":
        pytest.skip("this PyTorch lacks the operator")
    assert said(code, SOC_ONEDNN="1") == "True"


def test_products_stay_with_pytorch_where_somebody_says_so():
    assert said("assert calls(lambda: x @ w.t()) == 0", SOC_ONEDNN="0") == "False"


def test_another_value_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="SOC_ONEDNN='yes': expected 1"):
        use_onednn({"SOC_ONEDNN": "yes"})
