"""Training passes that are recorded and played back: the outputs and gradients of the model, for every size.

Without a GPU, an emulation takes the place of CUDA graphs: like them it overwrites the last outputs and gradients.
"""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from models.recording import RecordedSOC
from structures.kept import handed_out, kept
from tests.tiny_model import tiny_clips, tiny_soc, tiny_tokens

DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]


def played_back(call, sample_inputs, *, allow_unused_input, pool):
    """As `torch.cuda.make_graphed_callables`: what is returned fills the same tensors at every call."""
    trained = [i for i, x in enumerate(sample_inputs) if x.requires_grad]
    kept_outputs, kept_gradients, graph = [], {}, {}

    def fill(old, new):
        if old:
            for mine, other in zip(old, new, strict=True):
                mine.copy_(other)
        else:
            old.extend(tensor.detach().clone() for tensor in new)

    class Played(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            leaves = [x.detach().requires_grad_(x.requires_grad) for x in tensors]
            with torch.enable_grad():
                graph["inputs"], graph["outputs"] = leaves, call(*leaves)
            fill(kept_outputs, graph["outputs"])
            return tuple(tensor.detach() for tensor in kept_outputs)

        @staticmethod
        def backward(ctx, *gradients):
            pairs = [pair for pair in zip(graph["outputs"], gradients, strict=True) if pair[0].requires_grad]
            leaves = [graph["inputs"][i] for i in trained]
            outputs, wanted = [x for x, _ in pairs], [gradient for _, gradient in pairs]
            found = torch.autograd.grad(outputs, leaves, wanted, allow_unused=allow_unused_input)
            for i, gradient in zip(trained, found, strict=True):
                if gradient is not None:
                    fill(kept_gradients.setdefault(i, []), [gradient])
            return (
                *(kept_gradients[i][0].detach() if i in kept_gradients else None for i in range(len(sample_inputs))),
            )

    return Played.apply


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.setattr("torch.cuda.make_graphed_callables", played_back)
        monkeypatch.setattr("torch.cuda.graph_pool_handle", object)
    return torch.device(request.param)


def batch_of(device, *, height=40, seed=1, words=6, sentences=2):
    clips = tiny_clips(1, height=height, seed=seed).to(device)
    return clips, tiny_tokens(*[words] * sentences, seed=seed).to(device)


def losses(model, clips, tokens):
    of_sentence = torch.zeros(len(tokens.ids), dtype=torch.long)
    output = model(clips, tokens, clip_of_sentence=of_sentence)
    tensors = [tensor for layer in output.layers for tensor in (layer.mask_logits, layer.class_logits, layer.cluster)]
    tensors += [layer.boxes_cxcywh_norm for layer in output.layers] + [output.sentence]
    return torch.stack(
        [
            (tensor * torch.arange(tensor.numel(), device=tensor.device).view_as(tensor).cos()).mean()
            for tensor in tensors
        ]
    )


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_trains_alike(model, recorded, batches, *, parts=1):
    """Each batch, or sum of some, has the losses and gradients of the plain model."""
    results = []
    for one in (model, recorded):
        seen = []
        for start in range(0, len(batches), parts):
            model.zero_grad()
            for batch in batches[start : start + parts]:
                value = losses(one, *batch)
                value.sum().backward()
                seen.append(value.detach().clone())
            seen.append(gradients(model))
        results.append(seen)
    tolerance = {"rtol": 1e-3, "atol": 1e-5} if batches[0][0].frames.is_cuda else {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(results[1], results[0], **tolerance)


def test_a_pass_is_recorded_when_its_size_comes_again_and_each_size_keeps_its_own(device, caplog):
    model = tiny_soc().to(device).train()
    recorded = RecordedSOC(model)
    sizes = [{"height": 40}, {"height": 56}, {"height": 40, "words": 8}]
    batches = [batch_of(device, seed=seed, **size) for seed in range(4) for size in sizes]
    with caplog.at_level("INFO"):
        assert_trains_alike(model, recorded, batches)
    assert [record.message.split(" ")[0] for record in caplog.records].count("recorded") == 3
    assert "1 x 3 x 3 x 40 x 48 as CUDA graphs (1 of at most 16)" in caplog.text


def test_gradients_of_several_batches_add_up(device):
    model = tiny_soc().to(device).train()
    batches = [batch_of(device, seed=seed, height=40 + 16 * (seed // 2 % 2)) for seed in range(8)]
    assert_trains_alike(model, RecordedSOC(model), batches, parts=4)


def test_no_more_sizes_are_recorded_than_asked_for(device, caplog):
    model = tiny_soc().to(device).train()
    batches = [batch_of(device, seed=seed, words=words) for seed in range(3) for words in (4, 5, 6)]
    with caplog.at_level("INFO"):
        assert_trains_alike(model, RecordedSOC(model, most=1), batches)
    assert caplog.text.count("recorded the pass") == 1


def test_frozen_parts_get_no_gradients(device):
    model = tiny_soc(frozen=True).to(device)
    model.train_only(["object_cluster", "mask_head"])
    model.train()
    assert_trains_alike(model, RecordedSOC(model), [batch_of(device, seed=seed) for seed in range(3)])
    assert {name.split(".")[0] for name in gradients(model)} == {"object_cluster", "mask_head"}


def test_outside_of_training_the_model_is_called(device):
    model = tiny_soc().to(device).train()
    recorded, (clips, tokens) = RecordedSOC(model), batch_of(device)
    for _ in range(3):
        losses(recorded, clips, tokens)
    model.eval()
    of_sentence = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        output = recorded(clips, tokens, clip_of_sentence=of_sentence)
        expected = model(clips, tokens, clip_of_sentence=of_sentence)
    assert len(output.layers) == len(expected.layers) == 1
    assert torch.equal(output.layers[0].mask_logits, expected.layers[0].mask_logits)


def test_a_pass_that_cannot_be_recorded_is_one_message(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr("torch.cuda.make_graphed_callables", fail)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", object)
    model = tiny_soc().train()
    recorded, batch = RecordedSOC(model), batch_of(torch.device("cpu"))
    losses(recorded, *batch)
    with pytest.raises(
        ValueError, match=r"cannot be recorded \(CUDA error: .* capturing\); set train.cuda_graphs=false"
    ):
        losses(recorded, *batch)


def test_what_a_recording_reads_is_handed_out_and_can_be_owned():
    @kept(number=1)
    def of_size(size):
        return torch.zeros(size)

    with handed_out() as owned:
        first = of_size(2)
        of_size(3)
    of_size(4)
    assert owned[0] is first
    assert [len(tensor) for tensor in owned] == [2, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [False, True])
def test_processes_train_recorded_passes_and_dropout_differs_from_step_to_step(tmp_path, amp):
    device = torch.device("cuda")
    model = tiny_soc(dropout=0.3).to(device).train()
    recorded = RecordedSOC(model)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(recorded)
        seen = []
        for _ in range(5):
            model.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if amp else nullcontext():
                value = losses(parallel, *batch_of(device))
            value.sum().backward()
            seen.append(
                (value.sum().item(), sum(p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None))
            )
    finally:
        dist.destroy_process_group()
    assert len(set(seen)) == 5
    assert all(grad > 0 for _, grad in seen)
