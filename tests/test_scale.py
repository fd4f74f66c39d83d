"""Reading the GSD of pictures, and advice on the GSD to show: by function and by command."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from satdino_nb.data import DatasetTiles, sample_tiles
from satdino_nb.engine.extraction import as_tiles
from satdino_nb.engine.scale_reader import (
    ScaleAnswers,
    disagreements,
    fit_reader,
    load_reader,
    save_reader,
)
from satdino_nb.engine.tiles import samples_dir
from satdino_nb.scale import advise_command, find_reader, fitted, gsd_command, read_gsd
from satdino_nb.scenes import scene
from satdino_nb.vit import SatViT, ViTConfig, as_backbone, load_satdino, save_satdino


@pytest.fixture(scope='module')
def tests():
    return sample_tiles('test')


def test_the_shipped_reader_is_of_the_shipped_weights():
    model = load_satdino('satdino-nano')
    assert find_reader('satdino-nano', model).size == 64
    with torch.no_grad():
        model.cls_token += 1
    with pytest.raises(ValueError, match='other weights'):
        find_reader('satdino-nano', model)
    with pytest.raises(ValueError, match='--fit'):
        find_reader('timm:resnet18', model)


def test_estimates_are_of_the_tiles_own_pixels(tests):
    report = read_gsd(tests)
    truth = np.array(tests.gsds)
    assert np.median(np.abs(report.answers.gsd / truth - 1)) < 0.25  # 17 % when it was fitted
    held = (report.answers.low <= truth) & (truth <= report.answers.high)
    assert held.mean() > 0.75 and report.answers.answered.mean() > 0.6
    assert (report.answers.low < report.answers.gsd).all()


def test_no_answer_without_a_scale_or_without_pixels():
    gsds = [0.5, 1.0, 2.0, 4.0]
    textures = [scene('fractal', 40 + i, g, 96).image for i, g in enumerate(gsds)]
    small = [scene('residential', 40 + i, g, 32).image for i, g in enumerate(gsds)]
    for images, why in ((textures, 'no scale'), (small, '32 px are enlarged to 64')):
        found = read_gsd(DatasetTiles(images, gsds))
        assert not found.answers.answered.any() and not found.flags
        assert sum(why in w for w in found.answers.why) >= 3


def test_a_wrong_number_is_flagged_and_an_unknown_one_is_not():
    one = np.ones(4)
    answers = ScaleAnswers(2 * one, one, 4 * one, np.array([True, True, True, False]), [''] * 4)
    found = disagreements(answers, [0.25, None, 2.0, 0.25])
    assert [d.index for d in found] == [0] and 'says 0.25 m, looks like 2 m' in found[0].words
    assert disagreements(answers, [0.8, 5.0, 2.0, 2.0]) == []  # within half an octave
    with pytest.raises(ValueError, match='3 stated GSDs for 4'):
        disagreements(answers, [1, 2, 3])


def test_a_reader_refuses_what_it_cannot_be_fitted_on(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 4))
    with pytest.raises(ValueError, match='50 or more'):
        fit_reader(x[:20], np.arange(1, 21))
    with pytest.raises(ValueError, match='one GSD only'):
        fit_reader(x, np.ones(60))
    with pytest.raises(ValueError, match='level'):
        fit_reader(x, np.arange(1, 61), level=90)
    path = save_reader(fit_reader(x, np.arange(1, 61)), tmp_path / 'r.safetensors')
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match='r.safetensors'):
        load_reader(path)
    with pytest.raises(ValueError, match='no tiles'):
        read_gsd(sample_tiles().subset([]))


def test_gsd_command_writes_every_tile(tmp_path, tests):
    folder = tmp_path / 'tiles'
    folder.mkdir()
    for i in range(0, 30, 5):
        image = tests[i].image.permute(1, 2, 0).numpy()
        Image.fromarray(image).save(folder / f'{i:02}.png')
    out = tmp_path / 'gsd.csv'
    words = [sys.executable, '-m', 'satdino_nb', 'gsd', folder, '--out', out, '--workers', '0']
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 6 and {r['stated'] for r in rows} == {''}
    for row, truth in zip(rows, tests.gsds[:30:5]):
        assert row['file'].endswith('.png') and row['answered'] in ('yes', 'no')
        assert 1 / 4 < float(row['gsd']) / truth < 4
    assert 'of 6 answered' in done.stdout
    with pytest.raises(ValueError, match='--fit makes others'):
        gsd_command(folder, level=0.5, out=out, workers=0)


def test_gsd_command_fits_a_reader_for_a_model_without_one(tmp_path):
    data, out = samples_dir() / 'manifest.csv', tmp_path / 'gsd.csv'
    model = tmp_path / 'm.safetensors'
    save_satdino(load_satdino('satdino-nano'), model)
    with pytest.raises(ValueError, match='no reader of scale lies beside'):
        gsd_command(data, model=str(model), out=out, workers=0)
    gsd_command(data, model=str(model), fit=data, level=0.8, out=out, workers=0)
    rows = list(csv.DictReader(out.open()))
    ratio = [float(r['gsd']) / float(r['stated']) for r in rows if r['stated']]
    assert len(ratio) > 300 and np.median(np.abs(np.log2(ratio))) < 0.3


def test_advise_command_says_shows_and_lists(tmp_path):
    out = tmp_path / 'advice'
    data = samples_dir() / 'manifest.csv'
    advise_command(data, models=['satdino-nano'], sizes=[64, 32], k=5, out=out, workers=0)
    text = (out / 'advice.md').read_text()
    assert '## satdino-nano' in text and '64 px' in text and '(chosen)' in text
    assert (out / 'advice.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize('model', ['no token', 'timm'])
def test_a_model_without_a_gsd_token_says_so_or_is_fitted(tmp_path, model):
    "Without a reader it is refused with what to do; --fit reads from what the model has."
    if model == 'timm':
        spec = as_backbone(timm.create_model('resnet18', num_classes=0))
    else:
        spec = SatViT(ViTConfig(64, 8, 32, 1, 2, gsd_token=False)).eval()
    with pytest.raises(ValueError, match='--fit'):
        read_gsd(sample_tiles('test'), spec)
    reader = fitted(spec, sample_tiles(), 0.8, dict(device='cpu'))
    assert reader.token != 'gsd_token'
    report = read_gsd(sample_tiles('test').subset(range(8)), spec, reader)
    assert np.isfinite(report.answers.gsd).all()


@pytest.mark.parametrize(
    'words,says',
    [
        (['advise', 'ONE'], '1 tile(s): advice needs'),
        (['advise', 'MANIFEST', '--sizes', '64'], 'leaves nothing to choose'),
        (['advise', 'MANIFEST', '--models', 'absent'], 'absent'),
        (['gsd', 'absent'], 'absent'),
        (['gsd', 'MANIFEST', '--fit', 'SEA'], 'GSD'),
        (['gsd', 'MANIFEST', '--model', 'absent'], 'absent'),
    ],
    ids=lambda v: ' '.join(v) if isinstance(v, list) else None,
)
def test_bad_input_of_scale_is_a_line(tmp_path, words, says):
    one = tmp_path / 'ONE'
    one.mkdir()
    first = sorted((samples_dir() / 'scenes' / 'sea').iterdir())[0]
    (one / first.name).write_bytes(first.read_bytes())
    named = dict(MANIFEST=samples_dir() / 'manifest.csv', SEA=samples_dir() / 'scenes' / 'sea')
    done = subprocess.run(
        [sys.executable, '-m', 'satdino_nb', *(str(named.get(w, w)) for w in words)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert last.startswith('error: ') and says in last, last


def test_advice_without_any_gsd(tmp_path):
    "Sizes are compared all the same; nothing is said in metres."
    scenes, tiles = samples_dir() / 'scenes', tmp_path / 'tiles'
    for name in ('sea', 'forest'):
        shutil.copytree(scenes / name, tiles / name)
    out = tmp_path / 'advice'
    advise_command(tiles, models=['satdino-nano'], sizes=[64, 32], k=3, out=out, workers=0)
    text = (out / 'advice.md').read_text()
    assert '64 px' in text and 'm/px' not in text.split('##')[1].splitlines()[2]


class Counted(torch.utils.data.Dataset):
    "Pictures in memory, and how often each was taken."

    def __init__(self, tiles, gsds):
        self.images = [tiles[i].image for i in range(len(tiles))]
        self.gsds, self.taken = gsds, [0] * len(tiles)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.taken[i] += 1
        return self.images[i], 0


def test_a_data_set_is_read_once(tests):
    few = tests.subset(range(12))
    data = Counted(few, [None, *few.gsds[1:]])
    tiles = as_tiles(data)
    data.taken = [0] * len(few)
    report = read_gsd(tiles)
    assert data.taken == [2] + [1] * 11, 'the one of unknown GSD is asked for its size'
    same = read_gsd(few)
    assert np.allclose(report.answers.gsd, same.answers.gsd, rtol=1e-3)
    assert (report.answers.answered == same.answers.answered).all()
