"Numbers of a report: stable votes, any order of rows, intervals that hold, files that are JSON."

import csv
import json

import numpy as np
import pytest
import torch

from satdino_nb.data import sample_tiles
from satdino_nb.engine.calibration import calibration
from satdino_nb.engine.neighbours import check_temperature
from satdino_nb.engine.probes import linear_classifier, logistic_classifier
from satdino_nb.engine.protocols import PROTOCOLS, Setup, random_crops
from satdino_nb.evaluate import knn_predict, main


def blobs(n=60, classes=3, width=5, seed=0):
    "Features of overlapping classes and their numbers."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(n, width, generator=g) + y[:, None].float(), y


@pytest.mark.parametrize('temperature', [1e-4, 0.001, 0.01, 0.07, 1.0, 100.0])
def test_votes_are_a_softmax_at_any_temperature(temperature):
    x, y = blobs()
    q, _ = blobs(20, seed=1)
    votes = knn_predict(x, y, q, 7, temperature, 3).double()
    a, b = (torch.nn.functional.normalize(v.double(), dim=1) for v in (x, q))
    cosines, index = (b @ a.T).topk(7)
    weights = torch.softmax(cosines / temperature, 1)
    true = torch.zeros(20, 3, dtype=torch.double).scatter_add_(1, y[index], weights)
    share = votes / votes.sum(1, keepdim=True)
    assert torch.allclose(share, true, atol=0.02 if temperature < 0.001 else 2e-3)
    assert votes.isfinite().all()


@pytest.mark.parametrize('temperature', [0, 0.0, -0.07, float('nan'), float('-inf')])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match='temperature'):
        check_temperature(temperature)


@pytest.mark.parametrize('classifier', [linear_classifier, logistic_classifier])
@pytest.mark.parametrize('seed', [0, 1])
def test_probes_do_not_depend_on_the_order_of_rows(classifier, seed):
    x, y = blobs()
    test, _ = blobs(30, seed=1)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    one = classifier(x, y, test, 3)
    other = classifier(x[order], y[order], test, 3)
    assert torch.allclose(one.scores, other.scores, atol=1e-6) and one.setting == other.setting


def test_two_strengths_are_enough_to_tune():
    "A strength so weak that it answers with the common class loses, though none is nearer to 0.1."
    torch.manual_seed(0)
    y = (torch.arange(200) % 5 == 0).long()
    x = torch.randn(200, 3) + 2 * y[:, None]
    for strengths in ((1e-4, 1e4), (1e4, 1e-4)):
        p = logistic_classifier(x, y, x, 2, strengths=strengths)
        assert p.setting == 'C 10000' and p.tuned.startswith('tuned on')


def test_a_rare_class_ends_no_tuning_and_what_is_given_is_taken():
    x, y = blobs()
    y = y.clone()
    y[0] = 3  # a class of one tile
    p = logistic_classifier(x, y, x, 4)
    assert p.tuned.startswith('tuned on') and '1 of 4 classes have too few' in p.tuned
    assert logistic_classifier(x, y, x, 4, strengths=(7.0,)).setting == 'C 7'
    assert linear_classifier(x, y, x, 4, sweep=(('adamw', 0.002),), epochs=3).setting.startswith(
        'adamw, learning rate 0.002, 3 epochs'
    )


@pytest.mark.slow
def test_intervals_of_calibration_hold_the_number_and_the_truth():
    "Confidences that are `shift` too high: the true error is `shift`; 95 % of intervals hold it."
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.1):
        held = 0
        for _ in range(40):
            p = rng.uniform(0.6, 0.95, 150)
            right = rng.random(150) < p - shift
            scores = torch.tensor(np.stack([p, 1 - p], 1))
            c = calibration(scores, torch.tensor(1 - right.astype(int)), bins=5)
            assert c.ece.low <= c.ece.value <= c.ece.high
            held += c.ece.low - 1e-9 <= shift <= c.ece.high
        assert held >= 34, f'{held} of 40 hold {shift}'


def test_a_number_that_is_missing_fails_the_command(tmp_path, monkeypatch):
    def fails(model, s):
        raise ValueError('this one cannot')

    monkeypatch.setitem(PROTOCOLS, 'retrieval', fails)
    tiles = sample_tiles('test')
    path = tmp_path / 'odd.csv'
    with path.open('w', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(['file', 'class', 'gsd'])
        rows.writerows(zip(tiles.paths, (tiles.classes[y] for y in tiles.labels), tiles.gsds))
    out = tmp_path / 'report'
    words = [
        '--models',
        'satdino-nano',
        '--data',
        path,
        '--protocols',
        'knn',
        'retrieval',
        '--k',
        3,
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words), '--no-baselines', '--workers', '0', '--out', str(out)])
    assert 'no number of satdino-nano, retrieval' in str(stopped.value)

    def strict(name):
        raise AssertionError(f'{name} is no JSON')

    whole = json.loads((out / 'results.json').read_text(), parse_constant=strict)
    assert whole['missing'] == ['satdino-nano, retrieval']
    assert 'this one cannot' in whole['problems'][0]
    assert '**Missing:** satdino-nano, retrieval' in (out / 'report.md').read_text()


def test_crops_of_one_scale_are_those_that_were_published():
    "Training and test tiles are cut by different seeds, and by the same ones in every release."
    tiles = sample_tiles('test').subset(range(5))
    cut = Setup(tiles, tiles).crops()
    assert cut.train.boxes == random_crops(tiles, 0).boxes
    assert cut.test.boxes == random_crops(tiles, 1).boxes != cut.train.boxes
