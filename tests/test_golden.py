"""Agreement with numbers produced by the released SatDINO implementation."""

import json
import lzma

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from satdino_nb.attention import last_attention
from satdino_nb.data import Normalisation
from satdino_nb.dino import (
    DINOHead,
    DINOLoss,
    SatDINO,
    cosine_schedule,
    linear_warmup,
    param_groups,
)
from satdino_nb.evaluate import knn_predict
from satdino_nb.gsd import crop_gsd
from satdino_nb.pretrain import Now, PretrainConfig, train_step
from satdino_nb.views import Views, scale_segments, view_gsd
from satdino_nb.vit import SatViT, ViTConfig, load_satdino


@pytest.fixture(scope='module')
def scalars(released):
    return json.loads((released / 'scalars.json').read_text())


def renamed(state):
    """A released state dict under timm's names.

    The GSD token is the register token, its position follows CLS's.
    """
    out = {}
    for key, v in state.items():
        key = key.replace('gsd_register', 'reg_token').replace(
            'weight_g', 'parametrizations.weight.original0'
        )
        key = key.replace('weight_v', 'parametrizations.weight.original1')
        out[key] = (
            torch.cat([v[:, :1], v[:, -1:], v[:, 1:-1]], 1) if key.endswith('pos_embed') else v
        )
    return out


def test_gsd_of_a_view(scalars):
    for row in scalars['gsd_rule']:
        hw, out = (row['crop_h'], row['crop_w']), row['out']
        assert abs(crop_gsd(row['gsd_in'], hw, (out, out)) - row['gsd_out']) < 1e-9
        boxes = torch.tensor([[0.0, 0.0, *hw]], dtype=torch.float64)
        assert (
            abs(
                view_gsd(torch.tensor([row['gsd_in']], dtype=torch.float64), boxes, out).item()
                - row['gsd_out']
            )
            < 1e-9
        )


def test_segments(scalars):
    assert np.allclose(scale_segments((0.05, 0.25), 10), scalars['uniform_segments'], atol=1e-12)


def test_schedules(scalars):
    made = scalars['schedules']
    for name, args in made['args'].items():
        assert np.allclose(cosine_schedule(**args), made[name], rtol=0, atol=1e-12), name


def test_dino_loss(released):
    golden = load_file(released / 'dino_loss.safetensors')
    loss, temps = DINOLoss(97), linear_warmup(0.04, 0.07, 4, 3)
    for step in range(4):
        student, teacher, before, after, expected = (
            golden[f'step{step}.{k}']
            for k in ('student', 'teacher', 'center_before', 'center_after', 'loss')
        )
        teacher = teacher.unflatten(0, (2, 4))
        assert torch.allclose(loss.centre, before[0], atol=1e-6)
        q = loss.probabilities(teacher, float(temps[step]))
        assert torch.allclose(loss(student.unflatten(0, (12, 4)), q), expected, rtol=1e-5)
        loss.update_centre(teacher)
        assert torch.allclose(loss.centre, after[0], atol=1e-6)


def check_backbone(checkpoint, golden):
    """By way of the public loader: tokens, attention of both tokens, fMoW scores at 224 px.

    Returns the sizes held against `golden`.
    """
    model = load_satdino(checkpoint, verbose=False)
    sizes = [k.removesuffix('.input') for k in golden if k.endswith('.input')]
    for size in sizes:
        x = golden[f'{size}.input'].float()
        with torch.no_grad():
            tokens, attention = model.tokens(x), last_attention(model, x)
        assert torch.equal(model(x), tokens.cls)
        for ours, theirs in (
            (tokens.cls, 'cls'),
            (tokens.gsd, 'gsd'),
            (tokens.patches[:, :8], 'patches_first8'),
            (attention.cls, 'attn_cls_to_patches'),
            (attention.gsd, 'attn_gsd_to_patches'),
        ):
            assert torch.allclose(ours, golden[f'{size}.{theirs}'], atol=1e-4), (size, theirs)
        if size == '224x224':
            assert torch.allclose(
                model.linear_head(tokens.cls), golden['224x224.fmow_logits'], atol=1e-4
            )
    return sizes


def test_backbone(released, tmp_path):
    "Patches of 8 px, at two sizes other than the model's own."
    checkpoint = tmp_path / 'released_p8.pth'
    checkpoint.write_bytes(lzma.decompress((released / 'released_p8.pth.xz').read_bytes()))
    golden = load_file(released / 'backbone_p8.safetensors')
    assert sorted(check_backbone(checkpoint, golden)) == ['64x64', '96x96']


@pytest.mark.parametrize('name', ['p16', 'p8'])
def test_backbone_at_every_size(shared, name):
    "The larger files: unrounded weights, the model's own size and its fMoW scores as well."
    golden = load_file(shared(f'golden/backbone_{name}.safetensors'))
    sizes = check_backbone(shared(f'golden/released_{name}.pth'), golden)
    assert len(sizes) >= 4 and '224x224' in sizes


def test_knn(released, scalars):
    golden = load_file(released / 'knn.safetensors')
    truth = golden['test_labels']
    for k, (top1, top5) in scalars['knn_top1_top5'].items():
        scores = knn_predict(
            golden['train_features'],
            golden['train_labels'],
            golden['test_features'],
            int(k),
            scalars['knn_temperature'],
        )
        assert abs(100 * (scores.argmax(1) == truth).double().mean().item() - top1) < 1e-4
        if int(k) >= 5:
            within = (
                (scores.sort(dim=1, descending=True, stable=True).indices[:, :5] == truth[:, None])
                .any(1)
                .double()
                .mean()
                .item()
            )
            assert abs(100 * within - top5) < 1e-4


def test_six_steps_of_training(shared):
    """The objective driven step by step from given views, held against the released run.

    By the public way (`train_step`).
    """
    golden = json.loads(shared('golden/train_trajectory.json').read_text())
    init, data = (
        load_file(shared('golden/train_init.safetensors')),
        load_file(shared('golden/train_views.safetensors')),
    )
    c = PretrainConfig(
        train_gsd_head=False,
        clip_mode='per_tensor',
        clip_grad=golden['clip_grad'],
        gamma=golden['gamma'],
    )
    pixels = Normalisation(
        (128 / 255,) * 3, (32 / 255,) * 3
    )  # (view - 128)/32, as in the golden run
    backbone = SatViT(ViTConfig(224, 16, 64, 2, 1, pos_interp='released'), pixels)
    model = SatDINO(
        backbone,
        DINOHead(64, golden['out_dim'], 128, 64, norm_last_layer=False),
        c.gamma,
        golden['student_temp'],
        train_gsd_head=c.train_gsd_head,
    )
    state = {k.removeprefix('student.'): v for k, v in init.items() if k.startswith('student.')}
    state |= {f'backbone.gsd_head.{p}': init[f'gsd_head.gsd_head.{p}'] for p in ('weight', 'bias')}
    model.student.load_state_dict(renamed(state))
    model.teacher.load_state_dict(renamed(state))
    trained = [
        p for p in model.student.parameters() if p.requires_grad
    ]  # as released: weight decay also on tokens, positions and prototype lengths
    optimiser = torch.optim.AdamW(
        [
            dict(params=[p for p in trained if p.ndim > 1], wd_scale=1),
            dict(params=[p for p in trained if p.ndim <= 1], wd_scale=0),
        ]
    )
    norm = lambda network: (
        sum(p.double().square().sum() for n, p in network.named_parameters() if 'gsd_head' not in n)
        .sqrt()
        .item()
    )
    for row in golden['traj']:
        step, of = (
            row['step'],
            lambda name, views: torch.stack([data[f'step{row["step"]}.{name}{v}'] for v in views]),
        )
        views = [Views(of('view', v), of('gsd', v), None) for v in (range(2), range(2, 6))]
        now = Now(
            row['lr'],
            row['wd'],
            row['momentum'],
            0.04 if row['epoch'] < 1 else 0.07,
            c.gamma,
            freeze=row['epoch'] < golden['freeze_last_layer_epochs'],
        )
        losses, _ = train_step(model, optimiser, [views], now, c)
        seen = dict(
            dino_loss=losses.dino.item(),
            gsd_loss=losses.gsd.item(),
            loss=losses.total.item(),
            student_norm=norm(model.student),
            teacher_norm=norm(model.teacher),
            center_norm=model.loss.centre.norm().item(),
        )
        for key, value in seen.items():
            assert value == pytest.approx(row[key], rel=1e-4), (step, key)


def test_weight_decay_leaves_tokens_alone():
    model = SatDINO(
        SatViT(ViTConfig(32, 8, 48, 2, 2)), DINOHead(48, 64, 32, 16, norm_last_layer=False)
    )
    decayed = {id(p) for g in param_groups(model.student) if g['wd_scale'] for p in g['params']}
    free = [
        model.student.backbone.cls_token,
        model.student.backbone.reg_token,
        model.student.backbone.pos_embed,
        model.student.head.last_layer.parametrizations.weight.original0,
    ]
    assert decayed and not decayed & {id(p) for p in free}
