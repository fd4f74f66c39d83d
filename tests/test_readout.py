"""GSD read-outs.

What they refuse, what they recover, and that no test image has a part in its own answer.
"""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from satdino_nb.data import collate, sample_tiles
from satdino_nb.features import extract_features
from satdino_nb.readout import (
    HEAD,
    MEASURES,
    compare_readouts,
    cross_compare,
    cross_predicted,
    fit_readout,
    fold_numbers,
    gsd_difference,
    image_statistics,
    install_readout,
    log_gsd,
    neighbour_uncertainty,
    readout_record,
    readout_table,
    risk_coverage,
    score_gsd,
)
from satdino_nb.views import centre_view
from satdino_nb.vit import SatViT, ViTConfig, load_satdino, predict_gsd, save_satdino, vit_preset

N, WIDTH = 240, 12


@pytest.fixture(scope='module')
def made():
    """Tokens of which log GSD is a linear function with a little noise.

    Their units differ by a thousand.
    """
    rng = np.random.default_rng(3)
    tokens, weight = rng.normal(1, 1, (N, WIDTH)), rng.normal(0, 0.3, WIDTH)
    gsd = np.exp(tokens @ weight + 0.5 + rng.normal(0, 0.01, N))
    units = 10.0 ** rng.integers(-2, 2, WIDTH)
    return tokens * units, gsd, weight / units


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(tokens=np.full((N, WIDTH), np.nan)), 'NaN or infinite features in 240 of 240'),
        (dict(gsd=np.ones(N)), 'one GSD'),
        (dict(gsd=np.ones(N - 1)), '240 tokens for 239 GSDs'),
        (dict(gsd=np.r_[np.nan, np.ones(N - 1)]), '1 of 240 images have no known GSD'),
        (dict(gsd=np.r_[0.0, np.ones(N - 1)]), 'above 0'),
        (dict(tokens=np.ones(N)), r'tokens \(N, D\)'),
        (dict(folds=N + 1), '241 folds for 240 images'),
        (dict(folds=1), 'at least 2 folds'),
        (dict(groups=[0, 1] * (N // 2)), '5 folds for 2 groups'),
        (dict(groups=[0]), '1 groups for 240 images'),
    ],
)
@pytest.mark.parametrize('function', [fit_readout, cross_predicted])
def test_a_fit_that_is_impossible_is_refused(made, function, change, words):
    with pytest.raises(ValueError, match=words):
        function(**{**dict(tokens=made[0], gsd=made[1]), **change})


def test_scores_that_are_impossible_are_refused(made):
    a, b = score_gsd([1, 2.0], [1, 2.0], resamples=20), score_gsd([1, 2.0], [1, 2.5], resamples=20)
    for call, words in [
        (lambda: score_gsd([1.0], [1, 2]), '1 answers for 2'),
        (lambda: score_gsd([1, -0.5], [1, 2]), 'not positive'),
        (lambda: score_gsd([1, np.nan], [1, 2]), 'not positive'),
        (lambda: score_gsd([], []), 'no answers'),
        (lambda: score_gsd([1, 2.0], [1, 2], uncertainty=[1]), '1 uncertainties'),
        (lambda: score_gsd([1, 2.0], [1, 2], places=['a']), '1 groups for 2'),
        (lambda: gsd_difference(a, b), 'same images'),
        (lambda: gsd_difference(a, a, 'accuracy'), 'no measure'),
        (lambda: risk_coverage([1, 2.0], [1.0]), '1 uncertainties for 2'),
        (lambda: risk_coverage([1, 2.0], [1, np.nan]), 'NaN'),
        (lambda: neighbour_uncertainty(made[0], made[1], made[0], k=N + 1), 'neighbours'),
        (lambda: log_gsd([]), 'no images'),
        (lambda: image_statistics(sample_tiles('test'), 8), 'too few'),
        (lambda: fit_readout(*made[:2]).predict(made[0][:, 1:]), 'for a read-out of'),
        (lambda: fit_readout(*made[:2]).predict(made[0] * np.inf), 'NaN'),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_one_gsd_only_has_errors_and_no_r_squared():
    r = score_gsd(np.linspace(5, 20, 30), np.full(30, 10.0), resamples=100)
    assert set(MEASURES) - set(r.numbers) == {
        'R2 of log GSD'
    } and '(one GSD only)' in readout_table({'x': r})
    assert readout_record({'x': r})['x']['numbers']['mean absolute error']['n'] == 30
    with pytest.raises(ValueError, match='more than one GSD'):
        gsd_difference(r, r, 'R2 of log GSD')


def test_a_linear_relation_is_recovered(made):
    tokens, gsd, weight = made
    readout = fit_readout(tokens[:160], gsd[:160])
    assert np.allclose(readout.weight * tokens.std(0), weight * tokens.std(0), atol=0.01)
    assert (
        score_gsd(readout.predict(tokens[160:]), gsd[160:], resamples=50)
        .numbers['median relative error']
        .value
        < 0.02
    )
    assert np.allclose(readout.predict(torch.tensor(tokens)), readout.predict(tokens))
    assert np.allclose(
        fit_readout(tokens, 100 * gsd).predict(tokens),
        100 * fit_readout(tokens, gsd).predict(tokens),
    )  # in logs no unit is special


def test_random_features_are_no_better_than_the_mean(made):
    noise = np.random.default_rng(0).normal(0, 1, (N, 50))
    results = cross_compare({'noise': noise, 'tokens': made[0]}, made[1], resamples=300)
    mean = results['always the mean (geometric)']
    assert (
        gsd_difference(results['noise'], mean).high > 0
        and results['noise'].numbers['R2 of log GSD'].value < 0.05
    )
    assert (
        gsd_difference(results['tokens'], mean).high < 0
        and results['tokens'].numbers['R2 of log GSD'].value > 0.99
    )


def test_a_held_out_image_has_no_part_in_its_answer(made):
    tokens, gsd, _ = made
    groups = np.arange(N) // 8
    plain = cross_predicted(tokens, gsd, groups)
    for f in range(5):
        other = gsd.copy()
        other[plain.fold == f] *= np.random.default_rng(f).uniform(0.2, 5, (plain.fold == f).sum())
        again = cross_predicted(tokens, other, groups)
        held = again.fold == f
        assert (
            np.array_equal(held, plain.fold == f)
            and np.array_equal(again.gsd[held], plain.gsd[held])
            and np.array_equal(again.uncertainty[held], plain.uncertainty[held])
        )
        assert not np.allclose(again.gsd[~held], plain.gsd[~held])


def test_the_strength_is_chosen_across_places_inside_of_each_fold():
    """Tokens that tell the place by heart and the scale faintly.

    Folds without places would choose a weak ridge, which learns the places.
    """
    rng, place = np.random.default_rng(5), np.repeat(np.arange(20), 12)
    log = rng.normal(0, 1, 20)[place]
    tokens = np.c_[
        rng.normal(0, 1, (20, 30))[place] + rng.normal(0, 0.05, (N, 30)), log + rng.normal(0, 2, N)
    ]
    by_place, by_image = (
        fit_readout(tokens, np.exp(log), groups=place),
        fit_readout(tokens, np.exp(log)),
    )
    assert by_place.alpha > 100 * by_image.alpha
    crossed = cross_predicted(tokens, np.exp(log), place)
    for f in range(5):
        fit = crossed.fold != f
        expected = fit_readout(tokens[fit], np.exp(log[fit]), groups=place[fit]).predict(
            tokens[~fit]
        )
        assert np.allclose(crossed.gsd[~fit], expected) and not set(place[fit]) & set(place[~fit])


def test_bias_is_kept_by_octave():
    true = np.r_[np.full(10, 0.7), np.full(10, 3.0), 20.0]
    r = score_gsd(true * np.r_[np.full(10, 2), np.full(10, 0.5), 1], true, resamples=50)
    assert [(b.low, b.images, round(b.bias.value, 6)) for b in r.bias] == [
        (0.5, 10, 1),
        (2, 10, -1),
        (16, 1, 0),
    ]
    assert np.isnan(r.bias[2].bias.low) and not np.isnan(r.bias[0].bias.low)


def test_risk_coverage_between_the_best_and_random_order():
    error = np.random.default_rng(0).exponential(1, 120)
    uncertainty = np.round(error + np.random.default_rng(1).normal(0, 1, 120))  # with ties
    by_hand = lambda order: np.array([error[order[:k]].mean() for k in range(1, 121)])
    best, constant = (
        risk_coverage(error, error, resamples=50),
        risk_coverage(error, np.zeros(120), resamples=50),
    )
    assert (
        np.allclose(best.risk, best.best)
        and np.allclose(best.risk, by_hand(error.argsort()))
        and np.isclose(best.area.value, best.best.mean())
    )
    shuffled = np.mean(
        [by_hand(np.random.default_rng(s).permutation(120)).mean() for s in range(400)]
    )
    assert (
        np.allclose(constant.risk, error.mean())
        and abs(constant.area.value - shuffled) < 0.02
        and abs(constant.gain.value) < 1e-9
    )
    ties = np.mean(
        [
            by_hand(np.lexsort((np.random.default_rng(s).random(120), uncertainty)))
            for s in range(400)
        ],
        axis=0,
    )
    assert np.allclose(risk_coverage(error, uncertainty, resamples=50).risk, ties, atol=0.1)


@pytest.mark.slow
def test_the_samples_scale_is_in_the_gsd_token():
    model = load_satdino('satdino-nano')
    train, test = (
        extract_features(model, sample_tiles(s), device='cpu') for s in ('train', 'test')
    )
    results = compare_readouts(
        train,
        test,
        *(image_statistics(sample_tiles(s), 64) for s in ('train', 'test')),
        resamples=200,
    )
    assert gsd_difference(results['GSD token'], results['always the mean (geometric)']).high < 0
    assert gsd_difference(results['GSD token'], results['image statistics']).high < 0
    assert (
        HEAD in results
        and results[HEAD].uncertainty is results['GSD token'].uncertainty
        and results['always the mean (geometric)'].uncertainty is None
    )
    without = [replace(f, gsd_token=None, gsd_estimate=None) for f in (train, test)]
    assert set(compare_readouts(*without, resamples=20)) == {
        'always the mean (geometric)',
        'always the mean (arithmetic)',
        'CLS token',
        'mean of patches',
    }
    unknown = replace(test, gsd=torch.where(torch.arange(len(test.gsd)) == 4, torch.nan, test.gsd))
    with pytest.raises(ValueError, match=test.paths[4]):
        compare_readouts(train, unknown)
    with pytest.raises(ValueError, match='of both'):
        compare_readouts(train, test, np.ones((270, 3)))


def test_published_weights_gain_a_read_out(shared, tmp_path):
    model, tiles = (
        load_satdino(shared('golden/released_p16.pth'), verbose=False),
        sample_tiles('test'),
    )
    features = extract_features(model, tiles, 64, device='cpu')
    assert features.gsd_estimate is None and model.gsd_head is None
    readout = fit_readout(features.gsd_token, features.gsd)
    x, _ = centre_view(collate([tiles[i] for i in range(6)]), 64)
    x = model.normalisation(x)
    with pytest.raises(ValueError, match='no read-out'):
        predict_gsd(model, x)
    assert install_readout(model, readout) is model
    save_satdino(model, tmp_path / 'model.safetensors')
    with torch.inference_mode():
        said, again = (
            predict_gsd(model, x).numpy(),
            predict_gsd(load_satdino(tmp_path / 'model.safetensors'), x).numpy(),
        )
        assert np.allclose(said, readout.predict(model.tokens(x).gsd), rtol=1e-4) and np.allclose(
            said, again, rtol=1e-6
        )
    assert np.allclose(
        extract_features(model, tiles, 64, device='cpu').gsd_estimate,
        readout.predict(features.gsd_token),
        rtol=1e-4,
    )


def test_a_read_out_is_installed_only_where_it_fits(made):
    readout = fit_readout(*made[:2])
    with pytest.raises(ValueError, match='12 numbers for tokens of 96'):
        install_readout(SatViT(vit_preset('micro', img_size=32)), readout)
    with pytest.raises(ValueError, match='no GSD token'):
        install_readout(SatViT(ViTConfig(32, 16, 12, 1, 1, gsd_token=False)), readout)


@pytest.fixture(scope='module')
def bench(repo):
    spec = importlib.util.spec_from_file_location(
        'gsd_readout_bench', repo / 'bench' / 'gsd_readout.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_building_pyramid(shared, bench):
    tiles = bench.pyramid_tiles(shared('data/buildings_pyramid'), 19)
    assert (
        len(tiles) == 147
        and sorted(set(np.round(tiles.gsds, 4))) == [0.0746, 0.1493, 0.2986]
        and len(set(tiles.places)) == 7
    )
    cut = bench.crops(tiles, 64, 256)
    boxes = np.array(cut.boxes)
    assert (boxes[:, :2] + boxes[:, 2:] <= 256).all() and boxes[
        :, 2
    ].min() >= 64  # never enlarged to 64 px
    assert [cut.labels.count(z) for z in (19, 20, 21)] == [112] * 3
    features = extract_features(load_satdino('satdino-nano'), cut, 64, device='cpu')
    assert np.allclose(features.gsd, np.array(cut.gsds) * boxes[:, 2] / 64)
    fold = fold_numbers(len(cut), 7, cut.places)
    assert all(
        len({f for f, p in zip(fold, cut.places) if p == place}) == 1 for place in set(cut.places)
    )
    results = cross_compare(
        {'GSD token': features.gsd_token, 'image statistics': image_statistics(cut, 64)},
        features.gsd,
        cut.places,
        7,
        resamples=300,
    )
    for name in ('GSD token', 'image statistics'):
        assert gsd_difference(results[name], results['always the mean (geometric)']).high < 0, name
    whole = extract_features(load_satdino('satdino-nano'), tiles, 64, device='cpu')
    with pytest.raises(ValueError, match='one GSD'):
        fit_readout(whole.gsd_token[-20:], whole.gsd[-20:].mean().expand(20))
