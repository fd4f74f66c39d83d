"""The backbone.

What timm's tools, checkpoints of every form, bad files, exports and other networks ask of it.
"""

import argparse
import copy
import math
import os
import pickle
import stat
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torch.fx
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn import functional as F

from satdino_nb.attention import attention_maps, last_attention
from satdino_nb.data import FMOW, FMOW_CLASSES, Normalisation
from satdino_nb.engine import weights
from satdino_nb.vit import (
    PUBLISHED,
    SHIPPED,
    SatViT,
    ViTConfig,
    as_backbone,
    fit_gsd_head,
    load_satdino,
    predict_gsd,
    read_checkpoint,
    released_positions,
    save_satdino,
    vit_preset,
)

SMALL = ViTConfig(64, 8, 128, 3, 2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SatViT(SMALL).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def as_released(state):
    pos = state['pos_embed']
    state = {
        k.replace('reg_token', 'gsd_register'): v
        for k, v in state.items()
        if not k.startswith(('gsd_head', 'head', 'linear_head'))
    }
    return {**state, 'pos_embed': torch.cat([pos[:, :1], pos[:, 2:], pos[:, 1:2]], 1)}


def linear(width=128, classes=63):
    return {
        'linear.weight': torch.randn(classes, width, generator=torch.Generator().manual_seed(2)),
        'linear.bias': torch.zeros(classes),
    }


@pytest.fixture
def published(model, tmp_path):
    "A checkpoint in the published form, with the weights of `model`."
    torch.save(
        dict(teacher=as_released(model.state_dict()), linear_head=linear()),
        tmp_path / 'published.pth',
    )
    return tmp_path / 'published.pth'


def training_checkpoint(model, other, path, **args):
    """As a training run of the released code leaves it.

    Student in DDP, DINO heads, NumPy rates in the optimiser, a Namespace.
    """
    prefixed = lambda m, prefix: (
        {f'{prefix}backbone.{k}': v for k, v in as_released(m.state_dict()).items()}
        | {
            f'{prefix}head.mlp.0.weight': torch.zeros(8, 8),
            f'{prefix}head.last_layer.weight_g': torch.zeros(8, 1),
        }
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimiser.param_groups[0].update(lr=np.float64(1e-3), weight_decay=np.float32(0.04))
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    torch.save(
        dict(
            student=prefixed(other, 'module.'),
            teacher=prefixed(model, ''),
            optimizer=optimiser.state_dict(),
            epoch=3,
            fp16_scaler={},
            args=argparse.Namespace(
                arch='vit_small', patch_size=8, global_crops_scale=(0.25, 1.0), **args
            ),
            dino_loss={'center': torch.zeros(1, 8)},
        ),
        path,
    )


# the model is a timm ViT


def test_timms_tools_work(model, x):
    assert isinstance(model, VisionTransformer)
    with torch.no_grad():
        tokens = model.tokens(x)
        assert torch.equal(model.forward_features(x)[:, 0], tokens.cls) and torch.equal(
            model(x), tokens.cls
        )
        maps = model.forward_intermediates(
            x, indices=[0, 2], norm=True, intermediates_only=True, return_prefix_tokens=True
        )
        assert (
            len(maps) == 2
            and torch.equal(maps[-1][0], tokens.patch_map)
            and torch.equal(maps[-1][1][:, 1], tokens.gsd)
        )
        assert torch.equal(model.get_intermediate_layers(x, 1, norm=True)[0], tokens.patches)
    assert tokens.patches.shape == (2, 64, 128) and torch.equal(
        tokens.patch_map[:, :, 3, 5], tokens.patches[:, 3 * 8 + 5]
    )
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    seen = [id(p) for g in groups for p in g['params']]
    assert len(seen) == len(set(seen)) == len(list(model.parameters()))
    assert not any(
        p is model.pos_embed or p is model.reg_token
        for g in groups
        if g['weight_decay']
        for p in g['params']
    )
    scale = {id(p): g['lr_scale'] for g in groups for p in g['params']}
    assert (
        scale[id(model.patch_embed.proj.weight)]
        < scale[id(model.blocks[0].attn.qkv.weight)]
        < scale[id(model.blocks[2].attn.qkv.weight)]
    )
    model.reset_classifier(10)
    assert model(x).shape == (2, 10) and model.tokens(x).cls.shape == (2, 128)


def test_checkpointed_gradients_are_the_same(model, x):
    model.tokens(x).gsd.square().sum().backward()
    expected = model.patch_embed.proj.weight.grad.clone()
    model.zero_grad()
    model.set_grad_checkpointing()
    model.train()
    model.tokens(x).gsd.square().sum().backward()
    assert torch.allclose(model.patch_embed.proj.weight.grad, expected, atol=1e-4)


def test_drop_path_only_in_training(x):
    model = SatViT(SMALL, drop_path_rate=0.5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_copies_and_pickles(model, x, tmp_path):
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


@pytest.mark.parametrize(
    'name,width,depth,heads,patch',
    [
        ('tiny_patch16', 192, 12, 3, 16),
        ('small_patch16', 384, 12, 6, 16),
        ('small_patch8', 384, 12, 6, 8),
        ('base_patch16', 768, 12, 12, 16),
        ('large_patch16', 1024, 24, 16, 16),
    ],
)
def test_names_in_timm(name, width, depth, heads, patch):
    with torch.device('meta'):
        model = timm.create_model(f'satdino_{name}')
    assert isinstance(model, SatViT) and model.config == ViTConfig(224, patch, width, depth, heads)
    assert timm.data.resolve_model_data_config(model)['mean'] == FMOW.mean


def test_published_weights_are_timm_tags():
    tags = set(timm.list_models('satdino*', pretrained=True))
    assert tags == {
        f'satdino_{n}.fmow{f}'
        for n in ('small_patch16', 'small_patch8', 'base_patch16')
        for f in ('', '_finetune')
    } | {'satdino_nano_patch8.shipped'}
    cfg = timm.get_pretrained_cfg('satdino_small_patch8.fmow_finetune')
    assert (
        cfg.hf_hub_id == 'strakajk/satdino-vit_small-8'
        and cfg.hf_hub_filename == 'satdino-vit_small-8-finetune.pth'
    )


def test_create_model_with_options():
    model = timm.create_model(
        'satdino_tiny_patch16', num_classes=5, in_chans=4, img_size=64, depth=2, drop_path_rate=0.1
    )
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, 5)
    features = timm.create_model(
        'satdino_tiny_patch16', features_only=True, out_indices=(1, 3), img_size=64, depth=4
    )
    assert [tuple(f.shape) for f in features(torch.randn(1, 3, 64, 64))] == [(1, 192, 4, 4)] * 2


# a model that ships with the repository

NANO = ViTConfig(64, 8, 128, 6, 4, gsd_log=True)


@pytest.fixture
def nano(monkeypatch, tmp_path):
    "A random model with statistics of its own, as half precision in a temporary data_samples."
    torch.manual_seed(0)
    model = SatViT(NANO, Normalisation((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))).eval()
    samples = tmp_path / 'data_samples'
    (samples / 'models').mkdir(parents=True)
    save_satdino(model, samples / SHIPPED['satdino-nano'], dtype=torch.float16)
    monkeypatch.setattr(weights, 'samples_dir', lambda: samples)
    monkeypatch.chdir(tmp_path)
    return model


@torch.no_grad()
def test_shipped_model_by_name(nano, x):
    loaded = load_satdino('satdino-nano')
    assert loaded.config == NANO and loaded.normalisation == nano.normalisation
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and not loaded.report.missing
    assert F.cosine_similarity(loaded(x), nano(x)).min() > 0.9999
    assert torch.allclose(predict_gsd(loaded, x), predict_gsd(nano, x), rtol=0.01)
    assert torch.equal(SatViT.from_pretrained('satdino-nano')(x), loaded(x))


@torch.no_grad()
def test_shipped_model_in_timm(nano, x):
    loaded = load_satdino('satdino-nano')
    for name in ('satdino_nano_patch8', 'satdino_nano_patch8.shipped'):
        made = timm.create_model(name, pretrained=True).eval()
        assert made.config == NANO and torch.equal(made(x), loaded(x)), name
        assert torch.equal(predict_gsd(made, x), predict_gsd(loaded, x)), name
        data = timm.data.resolve_model_data_config(made)
        assert data['mean'] == nano.normalisation.mean and data['input_size'] == (3, 64, 64), name
    fresh = timm.create_model('satdino_nano_patch8', num_classes=5, drop_path_rate=0.1).eval()
    assert fresh.config == NANO == vit_preset('nano', img_size=64, patch_size=8, gsd_log=True)
    assert fresh(x).shape == (2, 5) and (predict_gsd(fresh, x) > 0).all()
    assert not torch.allclose(fresh.pos_embed, loaded.pos_embed)
    other = timm.create_model('satdino_nano_patch8', pretrained=True, img_size=32, num_classes=3)
    assert other.config.img_size == 32 and other(x[..., :32, :32]).shape == (2, 3)


def test_scale_of_the_gsd_comes_with_the_weights(nano, x, tmp_path):
    "A head that was trained on logarithms is read as one, whatever the registered name says."
    file = str(tmp_path / 'data_samples' / SHIPPED['satdino-nano'])
    overlay = dict(file=file)
    made = timm.create_model(
        'satdino_tiny_patch16',
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        img_size=64,
        patch_size=8,
        embed_dim=128,
        depth=6,
        num_heads=4,
    ).eval()
    assert made.config.gsd_log and (predict_gsd(made, x) > 0).all()


def test_shipped_model_that_is_not_there(monkeypatch, tmp_path):
    def nowhere():
        raise FileNotFoundError('data_samples/manifest.csv was not found')

    advice = (
        r'satdino-nano: .*data_samples/models/satdino-nano.safetensors.*git clone.*give the path'
    )
    monkeypatch.setattr(weights, 'samples_dir', nowhere)
    for load in (
        lambda: load_satdino('satdino-nano'),
        lambda: timm.create_model('satdino_nano_patch8', pretrained=True),
    ):
        with pytest.raises(FileNotFoundError, match=advice):
            load()
    monkeypatch.setattr(weights, 'samples_dir', lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match='lacks it .git pull.*git clone'):
        load_satdino('satdino-nano')


def test_unknown_names_are_told_the_known_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    for wrong in ('satdino-nanno', 'runs/frist', 'empty', tmp_path / 'runs' / 'first'):
        with pytest.raises(FileNotFoundError) as e:
            load_satdino(wrong, **(dict(cache_dir=tmp_path) if wrong == 'runs/frist' else {}))
        for name in (str(wrong), *SHIPPED, *PUBLISHED):
            assert name in str(e.value), (wrong, name)


@torch.no_grad()
def test_the_shipped_nano(repo, x):
    file = repo / 'data_samples' / SHIPPED['satdino-nano']
    if not file.is_file():
        pytest.skip(f'{file.name} is not in data_samples/models of this copy')
    model = load_satdino('satdino-nano')
    assert model.config == NANO and not model.report.missing and file.stat().st_size < 4e6
    made = timm.create_model('satdino_nano_patch8', pretrained=True).eval()
    assert torch.equal(made(x), model(x))
    assert (predict_gsd(model, x) > 0).all()


# what timm's own model tests ask

NAMES = timm.list_models('satdino*')


def brief(name, **kw):
    "A registered model with two blocks, at four patches a side."
    side = 4 * int(name.split('_patch')[1])
    return timm.create_model(name, depth=2, img_size=side, **kw), torch.randn(2, 3, side, side)


@pytest.mark.parametrize('name', NAMES)
def test_backward_reaches_every_parameter(name):
    model, images = brief(name, num_classes=5)
    model.train()
    scores = model(images)
    scores.mean().backward()
    assert scores.shape == (2, 5) and scores.isfinite().all()
    assert not [k for k, p in model.named_parameters() if p.grad is None]
    assert not model.gsd_head.weight.grad.any()  # reached, and not moved


def test_backward_with_a_linear_head(published, x):
    "Weights that came with a classifier on CLS, and without a read-out."
    model = load_satdino(published, verbose=False).train()
    assert model.linear_head is not None and model.gsd_head is None
    model(x).sum().backward()
    assert not [k for k, p in model.named_parameters() if p.grad is None]


def test_other_heads_change_nothing(model, x):
    with torch.no_grad():
        plain = model(x)
    assert torch.equal(model(x), plain) and torch.equal(model.tokens(x).cls, plain)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(x).dtype == model.tokens(x).cls.dtype


@pytest.mark.parametrize('name', NAMES)
def test_traced_by_fx(name):
    from timm.models._features_fx import create_feature_extractor

    model, images = brief(name, num_classes=5)
    traced = torch.fx.symbolic_trace(model.eval())
    last = create_feature_extractor(model, ['head'])
    wide = images[..., : images.shape[-1] // 2]  # a size that was not traced
    for batch in (images, wide):
        assert torch.equal(traced(batch), model(batch))
        assert torch.equal(last(batch)['head'], model(batch))
    with pytest.raises(ValueError, match='normalise them first'):
        traced(images.byte())
    for _ in range(2):  # a second step finds its graph again
        traced(images).sum().backward()
    assert not [k for k, p in traced.named_parameters() if p.grad is None]
    assert traced.gsd_head.weight.grad is not None


def test_traced_by_jit(model, x):
    traced = torch.jit.trace(model, x)
    assert torch.allclose(traced(x), model(x), atol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_heads_features_and_intermediates(name):
    model, images = brief(name, num_classes=5)
    model.eval()
    width = model.num_features
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 18, width)
    assert torch.equal(model.forward_head(tokens), model(images))
    final, maps = model.forward_intermediates(images, indices=2)
    assert torch.equal(final, tokens) and [tuple(m.shape) for m in maps] == [(2, width, 4, 4)] * 2
    model.reset_classifier(3)
    assert model(images).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert model(images).shape == (2, width)
    model.reset_classifier(0, '')
    assert model(images).shape == (2, 18, width)
    cfg = model.default_cfg
    assert cfg['first_conv'] + '.weight' in model.state_dict() and cfg == model.pretrained_cfg
    features, _ = brief(name, features_only=True, out_indices=(0, 1))
    assert features.feature_info.channels() == [m.shape[1] for m in features(images)] == [width] * 2


OTHER = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def statistics_of(model):
    found = timm.data.resolve_model_data_config(model)
    assert model.default_cfg['mean'] == model.pretrained_cfg['mean'] == found['mean']
    return Normalisation(found['mean'], found['std'])


@pytest.mark.parametrize('kw', [{}, dict(features_only=True, out_indices=(1,))])
def test_statistics_of_an_overlay_file(nano, tmp_path, kw):
    nano.normalisation = OTHER
    save_satdino(nano, tmp_path / 'other.safetensors')
    overlay = dict(file=str(tmp_path / 'other.safetensors'))
    made = timm.create_model(
        'satdino_nano_patch8', pretrained=True, pretrained_cfg_overlay=overlay, **kw
    )
    assert statistics_of(made) == OTHER
    assert statistics_of(timm.create_model('satdino_nano_patch8', **kw)) == FMOW


def test_statistics_follow_the_model(nano, tmp_path):
    assert statistics_of(nano).mean == (0.4, 0.5, 0.6)
    nano.normalisation = OTHER
    assert statistics_of(nano) == OTHER and statistics_of(copy.deepcopy(nano)) == OTHER
    assert timm.get_pretrained_cfg('satdino_nano_patch8').mean == FMOW.mean
    save_satdino(nano, tmp_path / 'a.safetensors')
    assert statistics_of(load_satdino(tmp_path / 'a.safetensors')) == OTHER


@pytest.mark.parametrize(
    'config,kw,name',
    [
        (NANO, {}, 'satdino_nano_patch8'),
        (SMALL, dict(num_classes=4), 'satdino_small_patch16'),
        (ViTConfig(32, 16, 192, 12, 3), dict(in_chans=4), 'satdino_tiny_patch16'),
        (ViTConfig(64, 8, 96, 2, 3), dict(global_pool='avg', mlp_ratio=3), 'satdino_small_patch16'),
    ],
)
def test_saved_folders_open_in_timm(config, kw, name, tmp_path):
    torch.manual_seed(0)
    model = SatViT(config, OTHER, **kw).eval()
    model.save_pretrained(tmp_path / 'share')
    images = torch.randn(2, kw.get('in_chans', 3), config.img_size, config.img_size)
    made = timm.create_model(f'local-dir:{tmp_path / "share"}', pretrained=True).eval()
    assert made.config == config and statistics_of(made) == OTHER
    assert torch.equal(made(images), model(images))
    assert torch.equal(predict_gsd(made, images), predict_gsd(model, images))
    assert name in (tmp_path / 'share' / 'config.json').read_text()
    fresh = timm.create_model(f'local-dir:{tmp_path / "share"}', num_classes=7).eval()
    assert fresh(images).shape == (2, 7) and fresh.config == config


@pytest.mark.parametrize('safe', ['both', False])
def test_folders_that_timm_saved(nano, x, tmp_path, safe):
    "timm keeps no header of ours: statistics are in its config, the scale in the name's."
    model = timm.create_model('satdino_nano_patch8', pretrained=True).eval()
    timm.models.save_for_hf(model, tmp_path / 'timm', safe_serialization=safe)
    made = timm.create_model(f'local-dir:{tmp_path / "timm"}', pretrained=True).eval()
    assert torch.equal(made(x), model(x)) and statistics_of(made) == model.normalisation
    assert torch.equal(predict_gsd(made, x), predict_gsd(model, x))


def test_hub_names_of_timm(nano, x, tmp_path, monkeypatch):
    "What `push_to_hub` wrote opens by timm's `hf-hub:` name, through our reader."
    nano.normalisation = OTHER
    nano.save_pretrained(tmp_path / 'share')
    fetch = lambda repo_id, filename, **kw: str(tmp_path / 'share' / filename)
    monkeypatch.setattr(timm.models._hub, 'hf_hub_download', fetch)
    made = timm.create_model('hf-hub:you/scale', pretrained=True).eval()
    assert torch.equal(made(x), nano(x)) and statistics_of(made) == OTHER


@pytest.fixture
def hub(monkeypatch, tmp_path):
    "The hub as a folder: published names give a small checkpoint in the published form."
    torch.manual_seed(0)
    model = SatViT(ViTConfig(224, 16, 384, 1, 6)).eval()
    asked = []

    def fetch(repo_id, filename, **kw):
        asked.append((repo_id, filename))
        if repo_id not in PUBLISHED:
            raise huggingface_hub.errors.LocalEntryNotFoundError('no network')
        torch.save(
            dict(teacher=as_released(model.state_dict()), linear_head=linear(384)),
            tmp_path / filename,
        )
        return str(tmp_path / filename)

    monkeypatch.setattr(weights, 'hf_hub_download', fetch)
    monkeypatch.setattr('timm.models._hub.hf_hub_download', fetch)
    return model, asked


def test_load_by_hub_id(hub):
    model, asked = hub
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        loaded = load_satdino('strakajk/satdino-vit_small-16', verbose=False)
        assert (
            loaded.config == ViTConfig(224, 16, 384, 1, 6, pos_interp='released')
            and loaded.classes == FMOW_CLASSES
        )
        tuned = load_satdino(
            'strakajk/satdino-vit_small-16',
            filename='satdino-vit_small-16-finetune.pth',
            verbose=False,
            revision='main',
        )
        assert torch.equal(loaded(x), tuned(x))
    assert asked == [
        ('strakajk/satdino-vit_small-16', f'satdino-vit_small-16{f}.pth') for f in ('', '-finetune')
    ]


def test_create_model_pretrained(hub):
    model, asked = hub
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        made = timm.create_model('satdino_small_patch16', pretrained=True, depth=1).eval()
        assert (
            torch.allclose(made(x), model(x), atol=1e-5)
            and made.config.pos_interp == 'released'
            and made.gsd_head is None
        )
        assert made.report.reinterpreted and made.linear_head(made(x)).shape == (1, 63)
        scores = timm.create_model(
            'satdino_small_patch16.fmow_finetune', pretrained=True, depth=1, num_classes=63
        ).eval()
        assert torch.allclose(scores(x), made.linear_head(made(x)), atol=1e-5)
        other = timm.create_model(
            'satdino_small_patch16',
            pretrained=True,
            depth=1,
            num_classes=7,
            img_size=96,
            in_chans=4,
            pos_interp='timm',
        ).eval()
        assert (
            other(torch.randn(1, 4, 96, 96)).shape == (1, 7) and other.config.pos_interp == 'timm'
        )
        maps = timm.create_model(
            'satdino_small_patch16', pretrained=True, depth=1, features_only=True, out_indices=(0,)
        ).eval()
        assert torch.allclose(
            maps(x)[0],
            made.forward_intermediates(x, norm=False, intermediates_only=True)[0],
            atol=1e-5,
        )
    assert [f for _, f in asked][:2] == [
        'satdino-vit_small-16.pth',
        'satdino-vit_small-16-finetune.pth',
    ]


def test_create_model_from_a_file(published, model, x):
    made = timm.create_model(
        'satdino_small_patch8',
        pretrained=True,
        pretrained_cfg_overlay=dict(file=str(published)),
        img_size=64,
        embed_dim=128,
        depth=3,
        num_heads=2,
    ).eval()
    assert torch.allclose(made(x), model(x), atol=1e-5)


# every form of checkpoint


def test_published_form(published, model, x, capsys):
    loaded = load_satdino(published)
    assert (
        loaded.config == ViTConfig(64, 8, 128, 3, 2, pos_interp='released') and not loaded.training
    )
    with torch.no_grad():
        ours, theirs = loaded.tokens(x), model.tokens(x)
        for name in ('cls', 'gsd', 'patches'):
            assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
        assert torch.allclose(loaded.linear_head(ours.cls), F.linear(ours.cls, *linear().values()))
    assert (
        loaded.normalisation == FMOW and loaded.classes == FMOW_CLASSES and loaded.gsd_head is None
    )
    report = loaded.report
    assert (
        report.matched == len(loaded.state_dict())
        and 'gsd_head' in report.missing[0]
        and not report.unexpected
        and len(report.reinterpreted) == 2
    )
    assert 'gsd_register -> reg_token' in capsys.readouterr().out


def test_published_weights_have_no_metres(published, x):
    model = load_satdino(published, verbose=False)
    with pytest.raises(ValueError, match='fit one on images of known GSD'):
        predict_gsd(model, x)
    images = torch.randn(300, 3, 16, 16)
    with torch.no_grad():
        tokens = model.tokens(images).gsd
        truth = tokens @ torch.linspace(-1, 1, 128) + 3
        model.gsd_head = fit_gsd_head(tokens, truth, ridge=1e-6)
        assert (predict_gsd(model, images) - truth).abs().mean() < 0.05 * truth.std()
    with pytest.raises(ValueError, match='known GSDs'):
        fit_gsd_head(tokens, truth.clone().fill_(math.nan))


@pytest.mark.parametrize('which', ['teacher', 'student'])
def test_training_form(model, x, tmp_path, which, capsys):
    other = SatViT(SMALL).eval()
    training_checkpoint(model, other, tmp_path / 'checkpoint.pth', normalization='fmow')
    loaded = load_satdino(tmp_path / 'checkpoint.pth', which=which)
    with torch.no_grad():
        assert torch.allclose(loaded(x), (model if which == 'teacher' else other)(x), atol=1e-5)
    assert (
        loaded.config.pos_interp == 'released'
        and loaded.linear_head is None
        and len(loaded.report.unexpected) == 2
    )
    assert 'unexpected' in capsys.readouterr().out


def test_training_form_knows_its_statistics(model, tmp_path):
    training_checkpoint(model, model, tmp_path / 'a.pth', normalization='imagenet')
    assert load_satdino(tmp_path / 'a.pth', verbose=False).normalisation.mean == (
        0.485,
        0.456,
        0.406,
    )
    training_checkpoint(model, model, tmp_path / 'b.pth', normalization='mine')
    with pytest.raises(ValueError, match='give normalisation'):
        load_satdino(tmp_path / 'b.pth')
    mine = Normalisation((0.1,) * 3, (1.0,) * 3)
    assert load_satdino(tmp_path / 'b.pth', normalisation=mine, verbose=False).normalisation == mine


def test_numpy_numbers_under_their_old_name(model, tmp_path):
    "A checkpoint written with NumPy 1 names numpy.core."
    training_checkpoint(model, model, tmp_path / 'a.pth')
    import zipfile

    with (
        zipfile.ZipFile(tmp_path / 'a.pth') as old,
        zipfile.ZipFile(tmp_path / 'b.pth', 'w') as new,
    ):
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith('data.pkl'):
                assert b'numpy._core.multiarray' in data
                data = data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
            new.writestr(item.filename, data, zipfile.ZIP_STORED)
    assert load_satdino(tmp_path / 'b.pth', verbose=False).config.depth == 3


def test_finetuned_form(model, x, tmp_path):
    torch.save(
        dict(
            epoch=1,
            model=as_released(model.state_dict()),
            state_dict={f'module.{k}': v for k, v in linear(classes=7).items()},
            optimizer={},
            best_acc=0.5,
        ),
        tmp_path / 'checkpoint.pth.tar',
    )
    loaded = load_satdino(tmp_path / 'checkpoint.pth.tar', verbose=False)
    assert (
        torch.allclose(loaded(x), model(x), atol=1e-5)
        and loaded.linear_head(loaded(x)).shape == (2, 7)
        and len(loaded.classes) == 7
    )
    with torch.no_grad():
        assert torch.equal(
            load_satdino(tmp_path / 'checkpoint.pth.tar', num_classes=7)(x),
            loaded.linear_head(loaded(x)),
        )


def test_bare_state_dicts(model, x, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    assert torch.equal(load_satdino(tmp_path / 'timm.pth')(x), model(x))
    save_file(as_released(model.state_dict()), tmp_path / 'released.safetensors')
    assert torch.allclose(
        load_satdino(tmp_path / 'released.safetensors', verbose=False)(x), model(x), atol=1e-5
    )


def test_the_shipped_model(repo):
    model = load_satdino(repo / 'data_samples/models/satdino-nano.safetensors')
    assert not model.report.missing and not model.report.unexpected and model.gsd_head is not None
    assert load_satdino(repo / 'data_samples/models').config == model.config  # a folder


def test_own_files_keep_everything(published, x, tmp_path):
    model = load_satdino(published, verbose=False)
    model.reset_classifier(4)
    save_satdino(model, tmp_path / 'own.safetensors')
    loaded = load_satdino(tmp_path / 'own.safetensors', verbose=False)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x)) and loaded(x).shape == (2, 4)
        assert torch.equal(
            loaded.linear_head(loaded.tokens(x).cls), model.linear_head(model.tokens(x).cls)
        )
    assert (
        loaded.classes == FMOW_CLASSES and loaded.gsd_head is None and loaded.config == model.config
    )
    assert (
        load_satdino(
            tmp_path / 'own.safetensors', pos_interp='timm', verbose=False
        ).config.pos_interp
        == 'timm'
    )


def test_saved_files_have_the_usual_mode(model, tmp_path):
    before = os.umask(0o022)
    try:
        save_satdino(model, tmp_path / 'model.safetensors')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'model.safetensors').stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ['model.safetensors']


def test_other_size_channels_and_pooling(published, model, x):
    wide = load_satdino(published, img_size=128, verbose=False)
    assert wide.pos_embed.shape[1] == 2 + 16 * 16 and wide(torch.randn(1, 3, 128, 128)).shape == (
        1,
        128,
    )
    assert torch.allclose(
        wide.pos_embed,
        released_positions(load_satdino(published, verbose=False).pos_embed, (16, 16), 2),
    )
    assert load_satdino(published, in_chans=4, verbose=False)(torch.randn(1, 4, 64, 64)).shape == (
        1,
        128,
    )
    mean = load_satdino(published, global_pool='avg', verbose=False)
    assert mean(x).shape == (2, 128) and torch.allclose(mean.tokens(x).cls, model(x), atol=1e-5)


# positions


def test_released_positions_at_any_size(shared):
    model = load_satdino(shared('golden/released_p16.pth'), verbose=False)
    pos = model.pos_embed.detach()
    for h, w in ((40, 40), (14, 40), (6, 50), (64, 32), (1, 1)):
        assert released_positions(pos, (h, w), 2).shape == (1, 2 + h * w, 128)
    rows = released_positions(pos, (40, 40), 2)[:, 2:].unflatten(1, (40, 40))
    for axis, other in (
        (1, (40, 6)),
        (2, (6, 40)),
    ):  # one rule for each axis, whatever the other's size is
        crossed = released_positions(pos, other, 2)[:, 2:].unflatten(1, other)
        assert crossed.shape[axis] == rows.shape[axis]

    def profile(n):  # a smooth ramp of positions, read at every size
        ramp = torch.linspace(0, 1, 14).repeat_interleave(14)[None, :, None]
        return released_positions(torch.cat([torch.zeros(1, 2, 1), ramp], 1), (n, n), 2)[
            0, 2:, 0
        ].unflatten(0, (n, n))[:, 0]

    grids = torch.linspace(0, 1, 200)
    curves = [
        np.interp(grids, (np.arange(n) + 0.5) / n, profile(n)) for n in (36, 38, 39, 40, 41, 48)
    ]  # 576 to 768 px
    steps = [np.abs(a - b).max() for a, b in zip(curves, curves[1:])]
    assert max(steps) < 0.01  # nothing jumps where the released code stops


@torch.no_grad()
def test_features_are_continuous_over_the_released_limit(shared):
    model = load_satdino(shared('golden/released_p16.pth'), verbose=False)
    torch.manual_seed(0)
    small = torch.randn(1, 3, 28, 28)
    features = {
        s: model(F.interpolate(small, (s, s), mode='bicubic')) for s in (608, 624, 640, 656, 672)
    }
    sizes = list(features)
    steps = [F.cosine_similarity(features[a], features[b]).item() for a, b in zip(sizes, sizes[1:])]
    assert (
        min(steps[1:3]) > min(steps[0], steps[3]) - 0.02
    )  # no larger a step at 640 than between its neighbours
    assert model.tokens(torch.randn(1, 3, 640, 96)).grid == (40, 6)


def test_settling_on_a_size_keeps_the_rule(published, x):
    model, y = load_satdino(published, verbose=False), torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = model(y)
        model.set_input_size(96)
        assert (
            torch.allclose(model(y), expected, atol=1e-5)
            and model.config.img_size == 96
            and model.pos_embed.shape[1] == 146
        )
    with pytest.raises(ValueError, match='square'):
        model.set_input_size((96, 64))


# input that does not fit


def test_sizes_that_are_no_multiple(model, x):
    for hw in ((60, 64), (64, 60), (7, 7)):
        for call in (model, model.tokens, model.forward_intermediates):
            with pytest.raises(ValueError, match='not a multiple of the patch size 8'):
                call(torch.randn(1, 3, *hw))
    padded = SatViT(SMALL, dynamic_img_pad=True).eval()
    padded.load_state_dict(model.state_dict())
    with torch.no_grad():
        t = padded.tokens(x[..., :60, :41])
        assert t.grid == (8, 6) and t.patch_map.shape == (2, 128, 8, 6)
        assert torch.allclose(t.cls, model(F.pad(x[..., :60, :41], (0, 7, 0, 4))), atol=1e-5)


def test_input_that_is_no_normalised_batch(model):
    for bad, message in (
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'normalise'),
        (torch.zeros(3, 64, 64), 'batch'),
        (torch.zeros(1, 4, 64, 64), '4 channels'),
    ):
        with pytest.raises(ValueError, match=message):
            model(bad)


# bad files


def test_truncated_files(published, model, tmp_path):
    save_satdino(model, tmp_path / 'own.safetensors')
    for file in (published, tmp_path / 'own.safetensors'):
        whole = file.read_bytes()
        for n in (0, 7, 500, len(whole) // 2, len(whole) - 40):
            file.write_bytes(whole[:n])
            with pytest.raises(ValueError, match='not a whole checkpoint'):
                load_satdino(file)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_checkpoint_does_not_run(model, tmp_path, zipped):
    proof, file = tmp_path / 'proof', tmp_path / 'bad.pth'
    torch.save(
        dict(teacher=as_released(model.state_dict()), args=Malicious(proof)),
        file,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=r'refused; it asks to run \w+\.mkdir'):
        load_satdino(file)
    with pytest.raises(ValueError, match='refused'):
        timm.create_model(
            'satdino_tiny_patch16', pretrained=True, pretrained_cfg_overlay=dict(file=str(file))
        )
    assert not proof.exists()
    torch.load(file, weights_only=False)
    assert proof.exists()  # it was a working attack


def test_only_what_is_needed_is_let_through(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(
        dict(args=argparse.Namespace(a=1), lr=np.float64(1), n=np.int64(2), b=np.bool_(True)),
        tmp_path / 'good.pth',
    )
    assert read_checkpoint(tmp_path / 'good.pth')[1]['lr'] == 1
    assert set(torch.serialization.get_safe_globals()) == before  # nothing stays allowed
    for bad in (np.zeros(3), Path('a'), nn.Linear(2, 2)):
        torch.save(dict(x=bad), tmp_path / 'bad.pth')
        with pytest.raises(ValueError, match='refused'):
            read_checkpoint(tmp_path / 'bad.pth')


def test_other_files(published, model, tmp_path):
    def saved(content):
        torch.save(content, tmp_path / 'other.pth')
        return tmp_path / 'other.pth'

    released = as_released(model.state_dict())
    dino = timm.create_model('vit_tiny_patch16_224', depth=1).state_dict()
    dinov2 = timm.create_model('vit_small_patch14_reg4_dinov2', depth=1, img_size=70).state_dict()
    no_gsd = {k: v for k, v in released.items() if k != 'gsd_register'}
    cases = [
        (timm.create_model('resnet18').state_dict(), 'not the weights of a ViT: no cls_token'),
        (dino, '0 register tokens'),
        (dinov2, '4 register tokens|no reg_token'),
        (dict(epoch=1), "no 'teacher' in it; it holds epoch"),
        ({}, 'not the weights of a ViT'),
        ([1, 2], 'holds a list'),
        (dict(teacher=no_gsd), 'not a SatDINO model'),
        (
            dict(teacher={k: v for k, v in released.items() if k != 'norm.weight'}),
            r'1 names missing or unexpected \(norm.weight',
        ),
        (dict(teacher={**released, 'blocks.0.ls1.gamma': torch.ones(128)}), 'blocks.0.ls1.gamma'),
        (
            dict(teacher={**released, 'norm.bias': torch.full((128,), math.nan)}),
            'NaN or infinite weights in 1 tensors, the first norm.bias',
        ),
        (dict(teacher={**released, 'pos_embed': torch.zeros(1, 65, 128)}), 'no square grid'),
        (dict(teacher={**released, 'norm.bias': torch.zeros(64)}), 'weights of another shape'),
    ]
    for content, message in cases:
        with pytest.raises(ValueError, match=message):
            load_satdino(saved(content))
    with pytest.raises(ValueError, match="no 'student' in it; it holds teacher, linear_head"):
        load_satdino(published, which='student')
    with pytest.raises(ValueError, match='another shape'):
        load_satdino(published, embed_dim=192)
    assert load_satdino(
        saved(dict(teacher={**released, 'extra': torch.ones(1)})), strict=False, verbose=False
    ).report.unexpected == ('extra',)


def test_heads_that_cannot_be_told(tmp_path):
    torch.save(SatViT(ViTConfig(32, 8, 96, 1, 3)).state_dict(), tmp_path / 'narrow.pth')
    with pytest.raises(ValueError, match='give num_heads'):
        load_satdino(tmp_path / 'narrow.pth')
    assert load_satdino(tmp_path / 'narrow.pth', num_heads=3).config.num_heads == 3


def test_header_of_another_version(model, tmp_path):
    save_file(
        model.state_dict(),
        tmp_path / 'new.safetensors',
        metadata=dict(format='satdino_nb', config='{"rings": 3}', normalisation='{}'),
    )
    with pytest.raises(ValueError, match='not one of this version'):
        load_satdino(tmp_path / 'new.safetensors')


def test_files_that_are_not_there(tmp_path, published):
    for name in ('absent.pth', 'absent', 'a/b/c'):
        with pytest.raises(FileNotFoundError, match='no such model file'):
            load_satdino(tmp_path / name)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='holds no such model file'):
        load_satdino(tmp_path / 'empty')
    (tmp_path / 'two.pth').write_bytes(b'')
    assert load_satdino(tmp_path, filename='published.pth', verbose=False)
    with pytest.raises(FileNotFoundError, match='holds 2 checkpoints; give filename'):
        load_satdino(tmp_path)


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    advice = (
        r'could not get satdino-vit_small-16.pth .*hf download .* '
        r'resolve/main/satdino-vit_small-16.pth|hf download'
    )
    with pytest.raises(FileNotFoundError, match=advice) as e:
        load_satdino('strakajk/satdino-vit_small-16', cache_dir=tmp_path)
    assert (
        'huggingface.co/strakajk/satdino-vit_small-16/resolve/main/satdino-vit_small-16.pth'
        in str(e.value)
    )
    with pytest.raises(FileNotFoundError, match='someone/else: could not get model.safetensors'):
        load_satdino('hf-hub:someone/else', cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match='satdino_small_patch16: could not get its weights'):
        timm.create_model('satdino_small_patch16', pretrained=True, cache_dir=tmp_path)


def test_hub_cache_is_used_offline(monkeypatch, model, x, tmp_path):
    "A file in huggingface_hub's own cache is found without a network."
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    repo = tmp_path / 'models--strakajk--satdino-vit_small-16'
    commit = 'a' * 40
    (repo / 'snapshots' / commit).mkdir(parents=True)
    (repo / 'refs').mkdir()
    (repo / 'refs' / 'main').write_text(commit)
    torch.save(
        dict(teacher=as_released(model.state_dict())),
        repo / 'snapshots' / commit / 'satdino-vit_small-16.pth',
    )
    assert torch.allclose(
        load_satdino('strakajk/satdino-vit_small-16', cache_dir=tmp_path, verbose=False)(x),
        model(x),
        atol=1e-5,
    )


# sharing


def test_save_and_from_pretrained(published, x, tmp_path):
    model = load_satdino(published, verbose=False)
    model.save_pretrained(
        tmp_path / 'share',
        model_card_kwargs=dict(
            data='fMoW', gsd_range='0.3 to 4 m', recipe='200 epochs', results='kNN 85.96'
        ),
    )
    assert {p.name for p in (tmp_path / 'share').iterdir()} == {
        'README.md',
        'config.json',
        'model.safetensors',
    }
    card = (tmp_path / 'share' / 'README.md').read_text()
    for text in (
        'fMoW',
        '0.3 to 4 m',
        '200 epochs',
        'kNN 85.96',
        '0.433',
        'released',
        'apache-2.0',
    ):
        assert text in card, text
    for back in (
        SatViT.from_pretrained(tmp_path / 'share', verbose=False),
        load_satdino(tmp_path / 'share', verbose=False),
    ):
        assert (
            torch.equal(back(x), model(x))
            and back.classes == FMOW_CLASSES
            and back.config == model.config
        )
    assert (
        SatViT.from_pretrained(
            tmp_path / 'share', pos_interp='timm', verbose=False
        ).config.pos_interp
        == 'timm'
    )


def test_push_to_hub(model, monkeypatch):
    pushed = {}

    class Api:
        def __init__(self, **kw):
            pass

        def create_repo(self, repo_id, **kw):
            return argparse.Namespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **kw):
            pushed[repo_id] = sorted(p.name for p in folder_path.iterdir())

    monkeypatch.setattr(huggingface_hub.hub_mixin, 'HfApi', Api)
    model.push_to_hub('you/scale')
    assert pushed == {'you/scale': ['README.md', 'config.json', 'model.safetensors']}


# attention


def by_hand(model, x, layer):
    "Attention of a block from its input."
    seen, attn = [], model.blocks[layer].attn
    hook = attn.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(x)
    hook.remove()
    q, k, _ = (
        attn.qkv(seen[0]).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    )
    return (q @ k.mT * attn.scale).softmax(-1)


@torch.no_grad()
def test_attention_of_chosen_layers_and_heads(model, x):
    before = model(x)
    first, last = attention_maps(model, x, layers=(0, -1))
    for maps, layer in ((first, 0), (last, 2)):
        full = by_hand(model, x, layer)
        assert torch.allclose(maps.cls, full[:, :, 0, 2:], atol=1e-6) and torch.allclose(
            maps.gsd, full[:, :, 1, 2:], atol=1e-6
        )
    assert torch.equal(attention_maps(model, x, heads=(1,))[0].cls, last.cls[:, 1:])
    assert torch.equal(last_attention(model, x).gsd, last.gsd) and last.grid == (8, 8)
    assert torch.equal(model(x), before) and not model.blocks[0].attn._forward_hooks
    assert all(b.attn.fused_attn for b in model.blocks)  # the forward stays fused
    model.blocks[-1].attn.fused_attn = False
    assert torch.allclose(last_attention(model, x).cls, last.cls, atol=1e-5)


def test_attention_leaves_nothing_behind(model):
    with pytest.raises(ValueError):
        last_attention(model, torch.randn(1, 3, 60, 60))
    assert not any(b.attn._forward_hooks or b.attn._forward_pre_hooks for b in model.blocks)


@torch.no_grad()
def test_attention_of_other_networks():
    x = torch.randn(1, 3, 64, 64)
    rotary = as_backbone(
        timm.create_model('vit_small_patch16_dinov3', img_size=64, depth=2)
    )  # turns queries and keys
    a = last_attention(rotary, x)
    assert (
        a.cls.shape == (1, 6, 16)
        and a.gsd is None
        and a.grid == (4, 4)
        and (a.cls.sum(-1) <= 1).all()
    )
    with pytest.raises(ValueError, match='no blocks'):
        last_attention(as_backbone(timm.create_model('resnet18')), x)


# fast and elsewhere


@torch.no_grad()
def test_bf16_and_channels_last(model, x):
    with torch.autocast('cpu', torch.bfloat16):
        low = model.tokens(x)
    for name in ('cls', 'gsd'):
        assert (
            F.cosine_similarity(getattr(low, name).float(), getattr(model.tokens(x), name)).min()
            > 0.995
        )
    expected = model(x)
    assert torch.allclose(
        model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)),
        expected,
        atol=1e-5,
    )
    assert model.bfloat16()(x[..., :32, :32].bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize('rule', ['timm', 'released'])
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
@pytest.mark.slow
def test_compile_without_graph_breaks(rule, backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = SatViT(ViTConfig(32, 8, 64, 2, 1, pos_interp=rule)).eval()
    compiled, tokens = (
        torch.compile(model, backend=backend, fullgraph=True),
        torch.compile(model.tokens, backend=backend, fullgraph=True),
    )
    with torch.no_grad():
        for hw in ((32, 32), (48, 48), (16, 40), (64, 64)):
            x = torch.randn(2, 3, *hw)
            assert torch.allclose(compiled(x), model(x), atol=1e-5) and torch.allclose(
                tokens(x).patches, model.tokens(x).patches, atol=1e-5
            )
    model.train()
    compiled(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.patch_embed.proj.weight.grad is not None


@pytest.mark.slow
@torch.no_grad()
def test_export(model, x):
    batch = torch.export.Dim('batch', min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    for n in (1, 2, 5):
        y = torch.randn(n, 3, 64, 64)
        assert torch.allclose(program(y), model(y), atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('size', [64, 96])
def test_onnx(published, tmp_path, size):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    model, x = load_satdino(published, verbose=False), torch.randn(2, 3, size, size)
    expected = model(x)
    model.set_input_size(size)
    torch.onnx.export(model, (x,), str(tmp_path / 'model.onnx'), dynamo=True, verbose=False)
    session = runtime.InferenceSession(
        str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider']
    )
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(out), expected, atol=1e-4)


# other networks in its place


@torch.no_grad()
@pytest.mark.parametrize(
    'name,width,grid,kw',
    [
        ('vit_small_patch16_224.dino', 384, (4, 6), dict(dynamic_img_size=True)),
        ('vit_base_patch16_224.mae', 768, (4, 6), dict(dynamic_img_size=True)),
        ('vit_small_patch14_reg4_dinov2', 384, (4, 6), dict(dynamic_img_size=True, img_size=56)),
        ('vit_small_patch16_dinov3', 384, (4, 6), dict(img_size=64)),
        ('resnet18', 512, (2, 3), {}),
        ('convnext_atto', 320, (2, 3), {}),
        ('swin_tiny_patch4_window7_224', 768, (2, 3), dict(img_size=(64, 96))),
    ],
)
def test_timm_networks_as_backbones(name, width, grid, kw):
    depth = dict(depth=1) if name.startswith('vit') else {}
    network = timm.create_model(name, num_classes=0, **kw, **depth)
    peer, patch = as_backbone(network), 14 if 'patch14' in name else 16
    x = torch.rand(2, 3, 4 * patch, 6 * patch)
    t = peer.tokens(peer.normalisation(x))
    assert (
        t.cls.shape == (2, width)
        and t.gsd is None
        and t.grid == grid
        and t.patch_map.shape == (2, width, *grid)
    )
    assert torch.allclose(
        peer(peer.normalisation(x)), network(peer.normalisation(x)).flatten(1), atol=1e-4
    )
    assert (
        peer.normalisation.mean == tuple(network.pretrained_cfg['mean'])
        and peer.gsd_head is None
        and peer.config.img_size
    )
    assert next(peer.parameters()).device.type == 'cpu' and not peer.training


@torch.no_grad()
def test_hub_dino_and_plain_functions():
    class HubDINO(nn.Module):
        def forward_features(self, x):
            return dict(x_norm_clstoken=x.mean((2, 3)), x_norm_patchtokens=x.flatten(2).mT[:, :24])

        def forward(self, x):
            raise AssertionError

    t = as_backbone(HubDINO(), FMOW).tokens(torch.randn(2, 3, 64, 96))
    assert t.cls.shape == (2, 3) and t.grid == (4, 6)
    plain = as_backbone(lambda x: x.mean((2, 3)), FMOW, img_size=32)
    assert plain.config.img_size == 32 and plain(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match='no patches'):
        _ = plain.tokens(torch.randn(2, 3, 32, 32)).patch_map
    with pytest.raises(ValueError, match='give normalisation'):
        as_backbone(lambda x: x)
    with pytest.raises(ValueError, match='cannot be called'):
        as_backbone('model.pth', FMOW)


@torch.no_grad()
def test_gsd_is_passed_on():
    x, gsd = torch.randn(4, 3, 8, 8), torch.tensor([2.0, 1.0, 2.0, 3.0])
    peer = as_backbone(lambda x, gsd: x.mean((2, 3)) + gsd[:, None], FMOW)
    assert torch.allclose(peer(x, gsd), x.mean((2, 3)) + gsd[:, None])
    for unknown in (None, torch.tensor([1.0, math.nan, 1.0, 1.0])):
        with pytest.raises(ValueError, match='reads the GSD'):
            peer(x, unknown)

    class Attribute(nn.Module):
        res = 1.0

        def forward(self, x):
            return x.mean((2, 3)) + self.res

    peer = as_backbone(Attribute(), FMOW)
    assert torch.allclose(peer(x, gsd), x.mean((2, 3)) + gsd[:, None]) and peer.network.res == 1.0


@torch.no_grad()
def test_torchgeo_networks():
    models = pytest.importorskip('torchgeo.models')
    stats, x, gsd = (
        Normalisation((0.0,) * 3, (1.0,) * 3),
        torch.rand(3, 3, 32, 32),
        torch.tensor([0.5, 2.0, 0.5]),
    )
    scale = as_backbone(
        models.ScaleMAE(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2), stats
    )
    t = scale.tokens(x, gsd)
    assert (
        t.cls.shape == (3, 64)
        and t.grid == (4, 4)
        and t.patches.shape == (3, 16, 64)
        and scale.config.img_size == 32
    )
    scale.network.res = 2.0
    assert torch.allclose(scale.network.forward_features(x[1:2])[:, 1:], t.patches[1:2], atol=1e-5)
    assert not torch.allclose(scale(x, gsd), scale(x, 4 * gsd))
    with pytest.raises(ValueError, match="its 'res'"):
        scale(x)
    assert last_attention_shape(scale, x, gsd) == (3, 2, 16)
    dofa = as_backbone(
        models.DOFA(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=0),
        stats,
        wavelengths=[0.665, 0.56, 0.49],
    )
    t = dofa.tokens(x)
    assert t.cls.shape == (3, 64)


def last_attention_shape(model, x, gsd):
    return tuple(attention_maps(model, x, gsd=gsd)[0].cls.shape)


def test_satdino_models_stay_themselves(model, x):
    assert as_backbone(model) is model
    assert torch.equal(model.tokens(x, torch.ones(2)).cls, model(x))  # the same call as a peer's
