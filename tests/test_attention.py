"""Pictures of attention: same weights whatever is drawn, nothing changed behind the caller."""

import random
import warnings

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure

from satdino_nb.attention import (
    attention_figure,
    attention_maps,
    attention_mass,
    class_attention,
    colours_figure,
    heads_figure,
    last_attention,
    patch_figure,
)
from satdino_nb.engine.attention_classes import attention_by_class, class_attention_figure
from satdino_nb.engine.attention_figures import layers_figure, map_figure, tile_input, tile_map
from satdino_nb.engine.attention_maps import attention_map, attention_rollout, relative
from satdino_nb.engine.attention_windows import attention_windows
from satdino_nb.engine.backbone import as_backbone
from satdino_nb.engine.images import Normalisation
from satdino_nb.engine.land import make_world, scene, somewhere
from satdino_nb.engine.tiles import Tile, sample_tiles
from satdino_nb.engine.what_moves import (
    CHANGES,
    enlarged,
    moves_figure,
    scales_figure,
    statistics_estimator,
    token_estimator,
    what_moves,
)
from satdino_nb.vit import load_satdino


@pytest.fixture(scope='module')
def model():
    return load_satdino('satdino-nano')


@pytest.mark.slow
def test_figures_leave_the_process_alone(model):
    import sklearn.decomposition  # noqa: F401  (its import sets warning filters, once a process)

    place = sample_tiles('place')[0]

    def state():
        numbers = str(np.random.get_state()), torch.get_rng_state().tolist()
        return *numbers, random.getstate(), list(warnings.filters), torch.is_grad_enabled()

    before = state()
    for draw in (attention_figure, heads_figure, patch_figure):
        assert draw(model, place, size=64).axes
    assert colours_figure(model, [place, place], size=64).axes
    assert state() == before
    assert not any(b.attn._forward_hooks or b.attn._forward_pre_hooks for b in model.blocks)


def test_drawn_weights_are_those_of_last_attention(model):
    place = sample_tiles('place')[2]
    cls, gsd = attention_figure(model, place, size=128).axes[1:3]
    a = last_attention(model, tile_input(model, place, 128)[1])
    for ax, token in ((cls, 'cls'), (gsd, 'gsd')):
        weights = a.map(token)[0]
        assert np.allclose(ax.images[1].get_array(), weights / weights.mean(), atol=1e-6)


def test_degenerate_pictures_are_drawn(model):
    "A constant picture, one patch, an unknown GSD; sizes that are no multiple of the patch do not."
    flat = Tile(torch.full((3, 64, 64), 7, dtype=torch.uint8))
    for size in (8, 64):
        for draw in (attention_figure, heads_figure, layers_figure, patch_figure):
            images = [i for ax in draw(model, flat, size=size).axes for i in ax.images]
            assert all(np.isfinite(np.asarray(i.get_array(), float)).all() for i in images)
    with pytest.raises(ValueError, match='not a multiple of the patch size 8'):
        attention_figure(model, flat, size=60)


def test_mass_and_classes_agree_with_hand_counts():
    weights = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    assert attention_mass(weights.flatten(), 0.7).tolist() == [True, False, True, False]
    mask = torch.tensor([[0, 1], [0, 1]])
    assert torch.allclose(class_attention(weights, mask, 2), torch.tensor([1.4, 0.6]))
    with pytest.raises(ValueError, match='keep=0'):
        attention_mass(weights, 0)


WAYS = (None, 'max', 'rollout', 0)


def small(name, **kw):
    "A network of timm with two blocks for 32 pixels, behind our face."
    torch.manual_seed(0)
    return as_backbone(timm.create_model(name, img_size=32, **kw).eval())


@pytest.mark.parametrize(
    'name, kw',
    [
        ('vit_tiny_patch16_224', dict(depth=2)),
        ('vit_tiny_patch16_224', dict(depth=2, reg_tokens=4)),
        ('deit_tiny_distilled_patch16_224', dict(depth=2)),
        ('beit_base_patch16_224', dict(depth=2, embed_dim=96, num_heads=3)),
        ('eva02_tiny_patch14_224', dict(depth=2, patch_size=16)),
    ],
)
@torch.no_grad()
def test_peers_with_registers_and_biases_fused_or_not(name, kw):
    "What the kernel was given is what the slow way writes down, for every prefix and bias."
    net = small(name, **kw)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    if name.startswith('beit'):
        for b in net.network.blocks:
            b.attn.relative_position_bias_table.normal_()
    fused = attention_maps(net, x, (0, -1)), attention_rollout(net, x)
    assert fused[0][0].grid == (2, 2) and fused[0][0].gsd is None
    for b in net.network.blocks:
        assert b.attn.fused_attn
        b.attn.fused_attn = False
    slow = attention_maps(net, x, (0, -1)), attention_rollout(net, x)
    for a, b in zip([*fused[0], fused[1]], [*slow[0], slow[1]]):
        assert torch.allclose(a.cls, b.cls, atol=1e-5) and a.cls.std() > 0
    tile = sample_tiles('place')[0]
    assert len(attention_figure(net, tile, size=32, control=small(name, **kw)).axes) == 5
    with pytest.raises(ValueError, match='no GSD token'):
        tile_map(net, tile, 32, 'gsd')


@pytest.mark.parametrize(
    'name, kw, word',
    [
        ('resnet18', {}, 'no blocks with attention'),
        ('efficientnet_b0', {}, 'no blocks with attention'),
        ('mixer_s32_224', dict(img_size=32), 'no blocks with attention'),
        (
            'vit_base_patch16_siglip_224',
            dict(img_size=32, depth=1, embed_dim=48, num_heads=3),
            'no CLS',
        ),
    ],
)
def test_networks_without_such_attention_are_refused(name, kw, word):
    net = as_backbone(timm.create_model(name, **kw).eval())
    tile = sample_tiles('place')[0]
    with pytest.raises(ValueError, match=word):
        last_attention(net, torch.zeros(1, 3, 32, 32))
    for draw in (attention_figure, heads_figure, layers_figure):
        with pytest.raises(ValueError, match=word):
            draw(net, tile, size=32)
    with pytest.raises(ValueError, match='wrap a network by as_backbone'):
        last_attention(net.network, torch.zeros(1, 3, 32, 32))


class Reads(timm.models.vision_transformer.VisionTransformer):
    "Reads the GSD: pixels are multiplied by it."

    def forward_features(self, x, gsd):
        self.told = gsd.tolist()
        return super().forward_features(x * gsd[:, None, None, None])


def test_peers_that_read_the_gsd_are_told_that_of_their_input():
    torch.manual_seed(0)
    net = Reads(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    peer = as_backbone(net, Normalisation((0.4,) * 3, (0.2,) * 3))
    assert peer.gsd_name == 'gsd'
    tile = sample_tiles('place')[0]  # 640 pixels
    for draw in (attention_figure, heads_figure, layers_figure):
        draw(peer, tile, size=32)
        assert net.told == pytest.approx([tile.gsd * 640 / 32])
    window = tile.image[:, :64, :64]
    for way in WAYS:
        near = attention_windows(peer, window, head=way, gsd=0.5, window=32)
        assert net.told == pytest.approx([0.5] * 9)
        assert not torch.allclose(
            near, attention_windows(peer, window, head=way, gsd=2.0, window=32)
        )
    with pytest.raises(ValueError, match='reads the GSD'):
        attention_figure(peer, Tile(tile.image), size=32)


def test_pictures_told_different_gsds_are_asked_one_by_one_and_joined():
    torch.manual_seed(0)
    net = Reads(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    peer = as_backbone(net, Normalisation((0.4,) * 3, (0.2,) * 3))
    x = torch.rand(3, 3, 32, 32)
    gsd = torch.tensor([0.5, 2.0, 0.5])
    for ask in (attention_rollout, lambda *a: attention_maps(a[0], a[1], gsd=a[2])[0]):
        together = ask(peer, x, gsd).map('cls')
        alone = torch.cat([ask(peer, x[i : i + 1], gsd[i : i + 1]).map('cls') for i in range(3)])
        assert together.shape == (3, 4, 4) and torch.allclose(together, alone, atol=1e-6)
        same = ask(peer, x, torch.full((3,), 0.5)).map('cls')
        assert torch.allclose(together[[0, 2]], same[[0, 2]], atol=1e-6)
        assert not torch.allclose(together[1], same[1], atol=1e-6)


@pytest.mark.parametrize('way', WAYS)
def test_a_picture_that_fits_a_window_is_taken_whole(model, way):
    image = sample_tiles('place')[1].image[:, :96, :120]
    for token in ('cls', 'gsd'):
        whole = attention_map(model, model.normalisation(image[None]), token, way)[0]
        assert torch.allclose(
            attention_windows(model, image, token, way), relative(whole), atol=1e-5
        )


def jump(found, seams):
    "Mean step of the log map at the edges of windows, in multiples of its mean step anywhere."
    step = found.log().diff(dim=1).abs().mean(0)
    return (step[seams].mean() / step.mean()).item()


def test_windows_are_blended_without_seams(model):
    """Where windows end, a map steps no more than elsewhere; side by side windows do.

    Windows see less than the whole picture, so their map is another, but one like it.
    """
    image = sample_tiles('place')[0].image[:, 100:292, 100:292]
    whole = attention_windows(model, image, window=192)
    maps = {o: attention_windows(model, image, window=96, overlap=o) for o in (0.0, 0.5)}
    like = {o: np.corrcoef(m.log().flatten(), whole.log().flatten())[0, 1] for o, m in maps.items()}
    assert jump(maps[0.5], [5, 11, 17]) < 1.2 and like[0.5] > like[0.0]
    assert like[0.5] > 0.5
    assert maps[0.5].shape == whole.shape == (24, 24)


def test_any_size_any_constant(model):
    for hw in ((5, 7), (64, 64), (65, 300), (300, 17)):
        for value in (0, 7, 255):
            flat = torch.full((3, *hw), value, dtype=torch.uint8)
            found = attention_windows(model, flat, 'gsd', window=64)
            assert found.shape == (-(-hw[0] // 8), -(-hw[1] // 8))
            assert found.isfinite().all() and abs(found.mean() - 1) < 1e-4
    ax = map_figure(flat, found, 0.5)
    assert all(np.isfinite(np.asarray(i.get_array(), float)).all() for i in ax.images)


@pytest.mark.parametrize('draw', [attention_figure, heads_figure, layers_figure])
def test_what_is_no_tile_is_refused(model, draw, tmp_path):
    for wrong, word in (
        ('scene.tif', "'scene.tif' is a path"),
        (tmp_path, 'is a path, but a tile'),
        (sample_tiles('place'), 'one tile is meant'),
        (torch.zeros(3, 64, 64), 'pixels alone are no tile'),
        (None, 'one tile is meant, got NoneType'),
    ):
        with pytest.raises(ValueError, match=word) as e:
            draw(model, wrong)
        assert '\n' not in str(e.value)


def test_scenes_are_refused_in_one_line(model, tmp_path):
    drawn = scene('harbour', 0, 1.0, 32)
    wrong = [
        (lambda: attention_by_class(model, tmp_path, seeds=1), 'scenes with masks are needed'),
        (lambda: attention_by_class(model, [], seeds=1), 'scenes with masks are needed'),
        (lambda: attention_by_class(model, drawn, seeds=1), 'scenes with masks are needed'),
        (lambda: class_attention_figure([]), 'no class to draw'),
        (lambda: what_moves({}, tmp_path), 'scenes .land use, number, m/px. are needed'),
        (lambda: what_moves({}, []), 'scenes .land use, number, m/px. are needed'),
        (lambda: enlarged(torch.rand(1, 3, 8, 8), 0.5), 'factor=0.5 must be 1 or more'),
    ]
    larger = scene('harbour', 0, 1.0, 64)
    wrong += [(lambda: attention_by_class(model, [drawn, larger], seeds=1), 'scenes of one size')]
    for ask, words in wrong:
        with pytest.raises(ValueError, match=words) as e:
            ask()
        assert '\n' not in str(e.value)


def test_constant_pictures_have_an_estimate_each_way():
    pictures = torch.stack([scene('suburb', k, g, 32).image for k in range(4) for g in (0.5, 2.0)])
    ask = statistics_estimator(pictures / 255, [0.5, 2.0] * 4)
    flat = torch.stack([torch.full((3, 32, 32), v) for v in (0.0, 0.5, 1.0)])
    for change in CHANGES:
        shown = flat if change.apply is None else change.apply(flat)
        assert np.isfinite(ask(shown)).all(), change.name


def test_figures_draw_on_given_axes_in_print_quality(model, tmp_path):
    place = sample_tiles('place')[0]
    mine = Figure(figsize=(9, 6), layout='constrained')
    top, below = mine.subfigures(2, 1)
    attention_figure(model, place, size=64, axes=top.subplots(1, 3))
    heads_figure(model, place, size=64, axes=below.subplots(1, 5))
    mine.savefig(tmp_path / 'both.pdf')
    assert (tmp_path / 'both.pdf').stat().st_size > 1000
    bars = [ax.get_ylabel() for ax in mine.axes if 'times the mean' in ax.get_ylabel()]
    assert len(bars) == 2  # one for each
    with pytest.raises(ValueError, match='6 axes are needed, 2 x 3; got 3'):
        attention_figure(model, place, size=64, control=True, axes=Figure().subplots(1, 3))


def test_trained_attention_differs_from_untrained_by_class(model):
    scenes = [scene('harbour', k, 1.0, 64) for k in range(10)]
    rows = attention_by_class(model, scenes, seeds=3, resamples=200)
    assert any(r.excess.low > 0 or r.excess.high < 0 for r in rows)
    for r in rows:
        assert r.control.high - r.control.low < 0.5  # an even spread, nearly
    own = Figure().subplots()
    assert class_attention_figure(rows, ax=own) is own


@pytest.mark.slow
def test_what_moves_the_shipped_model(model):
    "Enlarging moves both estimators to finer; the token alone is asked about things."
    recipes = [('parking', k, 0.4) for k in range(12)]
    train = [
        scene(u, k, g, 64) for k in range(6) for u in ('parking', 'suburb') for g in (0.3, 1, 3)
    ]
    pictures = torch.stack([s.image for s in train]) / 255
    estimators = {
        'GSD token': token_estimator(model),
        'image statistics': statistics_estimator(pictures, [s.gsd for s in train]),
    }
    chosen = [c for c in CHANGES if c.name in ('middle enlarged by 2', 'without vehicles')]
    rows = what_moves(estimators, recipes, chosen, resamples=200)
    found = {(m.change, m.estimator): m.octaves for m in rows}
    assert all(found['nothing', name].value == 0 for name in estimators)
    assert all(found['middle enlarged by 2', name].high < 0 for name in estimators)
    assert (
        found['without vehicles', 'GSD token'].n == found['without vehicles', 'image statistics'].n
    )
    assert moves_figure(rows).get_xlabel().startswith('how far')
    world = make_world('residential', 2)
    fig = scales_figure(model, world, somewhere(world), gsds=(0.5, 2.0))
    assert len(fig.axes) == 7
