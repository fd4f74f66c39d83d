"""The CUDA path on a machine without a GPU.

Under torch's FakeTensorMode tensors have a device, a shape and a dtype but no values. They may
say that they are on CUDA where there is none, and an operation on tensors of two devices raises.
`WithoutGPU` also notes, by file and function, whatever a real GPU would have to be waited for.
Values are checked elsewhere, on the CPU.
"""

import traceback
from dataclasses import replace
from pathlib import Path
from types import MethodType

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)

import satdino_nb
from satdino_nb.data import FMOW, Batch
from satdino_nb.features import feature_rows, on_device
from satdino_nb.pretrain import (
    Now,
    PretrainConfig,
    build,
    clip_gradients,
    knn_predict,
    make_optimiser,
    nearest,
    train_step,
)
from satdino_nb.views import MultiCrop, ViewConfig, centre_view
from satdino_nb.vit import SatViT, ViTConfig

CUDA, GSD = torch.device('cuda', 0), [0.5, 1.0, 2.0, 4.0]
VIT = ViTConfig(32, 8, 48, 2, 2)
VIEWS = ViewConfig(global_size=32, local_size=16, n_local=2, vertical_flip=0.5, quarter_turn=0.5)
CONFIG = PretrainConfig(vit=VIT, views=VIEWS, out_dim=32, hidden_dim=24, bottleneck_dim=16)
PACKAGE = Path(satdino_nb.__file__).parent


class WithoutGPU(FakeTensorMode):
    """A FakeTensorMode in which values that are read are those of sound input.

    `all` holds, other tests do not, numbers are 1.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.waits, self.depth = [], 0  # 'file function' in this package, for each wait for the GPU

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        source = next((a for a in args if isinstance(a, torch.Tensor)), None)
        read, self.depth = func is torch.ops.aten._local_scalar_dense.default, self.depth + 1
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        except DataDependentOutputException:
            if not read:
                raise
            out = (
                getattr(source, 'holds', False)
                if source.dtype == torch.bool
                else 1.0
                if source.is_floating_point()
                else 1
            )
        finally:
            self.depth -= 1
        copied = isinstance(out, torch.Tensor) and out.device.type == 'cpu'
        waits = source is not None and source.device.type == 'cuda' and (read or copied)
        if waits and not self.depth:
            self.waits.append(self.caller())  # a copy is several operations, one in another
        if func.overloadpacket is torch.ops.aten.all:
            out.holds = True
        return out

    def caller(self):
        "The innermost function of the package that is being run."
        ours = [f for f in traceback.extract_stack() if PACKAGE in Path(f.filename).parents]
        return f'{Path(ours[-1].filename).name} {ours[-1].name}' if ours else 'elsewhere'


@torch.no_grad()
def backward(loss):
    """Tensor.backward without torch's engine, which asks the driver for the device.

    Node after node, the last made first.
    """
    found, stack, given = set(), [loss.grad_fn], {loss.grad_fn: [torch.ones_like(loss)]}
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found.add(node)
        stack += [n for n, _ in node.next_functions]
    leaves = [n for n in found if hasattr(n, 'variable')]
    for node in sorted(found.difference(leaves), key=lambda n: -n._sequence_nr()):
        if node not in given:
            continue
        run = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
        out = run(*given.pop(node))
        for g, (n, i) in zip(out if isinstance(out, tuple) else (out,), node.next_functions):
            if g is None or n is None:
                continue
            expected = n._input_metadata[i]
            assert g.device == expected.device, (node, g.device, expected.device)
            g, sums = (
                g.sum_to_size(expected.shape).to(expected.dtype),
                given.setdefault(n, [None] * len(n._input_metadata)),
            )
            sums[i] = g if sums[i] is None else sums[i] + g
    for leaf in leaves:
        if leaf in given:
            leaf.variable.grad = (
                given[leaf][0]
                if leaf.variable.grad is None
                else leaf.variable.grad + given[leaf][0]
            )


def test_backward_in_python_is_torchs():
    "`backward`, which stands for the engine's below, on the CPU."
    crop = MultiCrop(VIEWS)
    views = crop(torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8), GSD)
    given = [FMOW(v.images) for v in views], [v.gsd for v in views], 0.05
    found = []
    for run in (torch.Tensor.backward, backward):
        model = build(replace(CONFIG, drop_path=0.0), FMOW)
        run(model(*given).total)
        found.append({n: p.grad for n, p in model.student.named_parameters() if p.grad is not None})
    assert len(found[0]) > 20 and found[0].keys() == found[1].keys()
    for name, g in found[0].items():
        torch.testing.assert_close(found[1][name], g, rtol=1e-4, atol=1e-6)


@pytest.fixture
def gpu(monkeypatch):
    "A `WithoutGPU` that is entered, with autocast of CUDA allowed."
    monkeypatch.setattr('torch.cuda.amp.common.amp_definitely_not_available', lambda: False)
    monkeypatch.setattr('torch.cuda.is_bf16_supported', lambda *a, **kw: True)
    monkeypatch.setattr(torch.Tensor, 'backward', backward)
    with WithoutGPU() as mode:
        yield mode


def on_cuda(*tensors):
    for t in tensors:
        assert t.device == CUDA, f'{tuple(t.shape)} is on {t.device}'


def images():
    return torch.zeros(len(GSD), 3, 40, 40, dtype=torch.uint8, device=CUDA)


def moved(make, *args):
    """The network that `make(*args)` gives, on CUDA without a GPU.

    It is made with values; its parameters and buffers are then on CUDA without.
    """
    with unset_fake_temporarily():
        network = make(*args)
    for m in network.modules():
        for name, p in m._parameters.items():
            if p is not None:
                m._parameters[name] = nn.Parameter(
                    torch.empty(p.shape, device=CUDA), p.requires_grad
                )
        for name, v in m._buffers.items():
            if v is not None:
                m._buffers[name] = torch.empty(v.shape, dtype=v.dtype, device=CUDA)
    on_cuda(*network.parameters(), *network.buffers())
    return network


def satdino(config=CONFIG):
    """The model of a run on CUDA, and the dtypes that it computes in.

    Its forward is in the run's precision as accelerate would have it.
    """
    model, seen = moved(build, config, FMOW, CUDA), set()
    if config.precision == 'bf16':
        autocast = torch.autocast('cuda', torch.bfloat16)
        model.forward = MethodType(convert_outputs_to_fp32(autocast(model.forward.__func__)), model)
    model.student.backbone.blocks[0].mlp.fc1.register_forward_hook(
        lambda m, args, out: seen.add(out.dtype)
    )
    return model, seen


def gradients(config=CONFIG):
    "Model and optimiser, with gradients of a loss."
    model, _ = satdino(config)
    losses = model([torch.zeros(2, 4, 3, 32, 32, device=CUDA)], [torch.ones(2, 4)], 0.05)
    losses.total.backward()
    return model, make_optimiser(model, CUDA), losses.scores


def test_that_mistakes_are_seen(gpu):
    "Two devices, and a wait of each kind: the tests below could fail."
    x = torch.zeros(3, device=CUDA)
    with pytest.raises(RuntimeError, match='two devices'):
        x + torch.zeros(3)
    assert not gpu.waits
    x.sum().item()
    bool(x.any())
    x.cpu()
    x.max().to('cpu')
    assert len(gpu.waits) == 4
    torch.zeros(3).sum().item()
    torch.zeros(3).to(CUDA)
    assert len(gpu.waits) == 4  # the CPU's values are there without waiting


def test_views(gpu):
    views = MultiCrop(VIEWS)(images(), GSD)
    assert [v.images.shape for v in views] == [(2, 4, 3, 32, 32), (2, 4, 3, 16, 16)]
    on_cuda(*(v.images for v in views))
    assert all(v.gsd.device.type == v.boxes.device.type == 'cpu' for v in views)
    assert not gpu.waits


@pytest.mark.parametrize(
    'change',
    [
        {},
        dict(centring='sinkhorn'),
        dict(precision='bf16'),
        dict(centring='sinkhorn', precision='bf16'),
        dict(clip_mode='per_tensor'),
        dict(clip_grad=0.0),
        dict(gamma=0.0),
        dict(unknown_gsd='skip'),
        dict(vit=replace(VIT, gsd_log=True)),
        dict(checkpoint_gradients=True),
    ],
    ids=lambda c: ' '.join(c) or 'plain',
)
@pytest.mark.parametrize(
    'parts, freeze', [(1, False), pytest.param(2, True, marks=pytest.mark.slow)]
)
def test_training_step(gpu, change, parts, freeze):
    """A whole training step; GSDs stay on the CPU until the loss needs them.

    Views, both networks, losses, backward, clipping, student and teacher update.
    """
    config = replace(CONFIG, **change)
    model, seen = satdino(config)
    optimiser, crop = make_optimiser(model, CUDA), MultiCrop(config.views)
    views = [crop(images(), GSD, part) for part in range(parts)]
    losses, norm = train_step(
        model, optimiser, views, Now(1e-3, 0.04, 0.99, 0.05, config.gamma, freeze), config
    )
    on_cuda(*vars(losses).values(), norm, *model.parameters(), model.loss.centre)
    on_cuda(*(v for state in optimiser.state.values() for v in state.values()))
    assert seen == {torch.bfloat16 if config.precision == 'bf16' else torch.float32}
    assert losses.total.dtype == losses.q.dtype == torch.float32
    assert not gpu.waits


@pytest.mark.parametrize('mode', ['norm', 'per_tensor'])
def test_clipping(gpu, mode):
    model, *_ = gradients()
    norm = clip_gradients(model.student.parameters(), 3.0, mode)
    on_cuda(norm, *(p.grad for p in model.student.parameters() if p.grad is not None))
    assert norm.shape == () and not gpu.waits


def test_optimiser(gpu):
    model, optimiser, _ = gradients()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    states = list(optimiser.state.values())
    assert states and {'step', 'exp_avg', 'exp_avg_sq'} <= set(states[0])
    on_cuda(*(v for state in states for v in state.values()))
    assert not gpu.waits


def test_teacher_update(gpu):
    model, _, scores = gradients()
    model.update_teacher(0.99, [scores])
    on_cuda(*model.teacher.parameters(), model.loss.centre)
    assert not gpu.waits


def batch():
    return Batch(
        images().cpu(),
        torch.full((4, 2), 40),
        torch.tensor(GSD, dtype=torch.float64),
        ['a', 'b', 'c', 'd'],
    )


@pytest.mark.parametrize('crop_pct', [1.0, 0.875])
def test_middle_of_tiles(gpu, crop_pct):
    given = on_device(batch(), CUDA)
    gpu.waits.clear()  # of making the batch
    x, gsd = centre_view(given, 32, crop_pct)
    on_cuda(x, gsd)
    assert x.shape == (4, 3, 32, 32) and gsd.shape == (4,) and not gpu.waits


@pytest.mark.parametrize('token', [True, False])
@pytest.mark.parametrize('size', [32, 48])
@pytest.mark.parametrize('rule', ['timm', 'released'])
def test_tokens(gpu, token, size, rule):
    model = moved(SatViT, replace(VIT, gsd_token=token, pos_interp=rule)).eval()
    for t in (
        model.tokens(torch.zeros(2, 3, size, size, device=CUDA)),
        model.summary(torch.zeros(2, 3, size, size, device=CUDA)),
    ):
        on_cuda(t.cls, *(v for v in (t.gsd, t.patches) if v is not None))
        assert (t.gsd is None) is not token
    assert not gpu.waits


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_feature_rows(gpu, precision):
    """The columns come to the CPU, so the GPU is waited for.

    Once to look for NaN, and once a column.
    """
    model, given, seen = moved(SatViT, VIT).eval(), batch(), set()
    model.blocks[0].mlp.fc1.register_forward_hook(lambda m, args, out: seen.add(out.dtype))
    gpu.waits.clear()
    with torch.no_grad():
        rows = feature_rows(model, given, 32, precision=precision)
    assert set(rows) == {'cls', 'gsd_token', 'patch_mean', 'gsd_estimate', 'gsd'}
    assert all(v.device.type == 'cpu' and len(v) == 4 for v in rows.values())
    assert rows['cls'].dtype == rows['gsd_token'].dtype == torch.float32
    assert seen == {torch.bfloat16 if precision == 'bf16' else torch.float32}
    assert {w.split()[0] for w in gpu.waits} == {'extraction.py'} and len(gpu.waits) <= 1 + len(
        rows
    )


def features(n, device=CUDA):
    return torch.zeros(n, 8, device=device)


@pytest.mark.parametrize('search', ['fp32', 'bf16'])
@pytest.mark.parametrize('gallery_on', ['cuda', 'cpu'])
def test_nearest(gpu, search, gallery_on):
    "The gallery may be on the CPU, block by block it goes where the queries are."
    cosine, index = nearest(
        features(60, gallery_on), features(10), 5, chunk=4, block=32, search=search
    )
    on_cuda(cosine, index)
    assert cosine.shape == index.shape == (10, 5) and index.dtype == torch.int64


@pytest.mark.parametrize('search', ['fp32', 'bf16'])
@pytest.mark.parametrize('labels_on', ['cuda', 'cpu'])
def test_knn_predict(gpu, search, labels_on):
    y = torch.zeros(60, dtype=torch.long, device=labels_on)
    scores = knn_predict(features(60), y, features(10), 5, num_classes=3, chunk=4, search=search)
    on_cuda(scores)
    assert scores.shape == (10, 3)


@pytest.mark.parametrize('search', ['fp32', 'bf16'])
def test_search_waits_once_however_many_blocks(gpu, search):
    "Not in its loop: whether features are finite is looked at after it, for all blocks and chunks."
    gallery, queries = features(60), features(10)
    for block in (64, 32, 7):
        gpu.waits.clear()
        nearest(gallery, queries, 5, chunk=4, block=block, search=search)
        assert gpu.waits == ['neighbours.py _check_finite']
