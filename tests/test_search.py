"An index by one process and by several, killed and taken up again; the commands that ask it."

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Tiles, open_tiles, sample_tiles, samples_dir
from satdino_nb.engine.index import write_subset
from satdino_nb.search import SatDINOFeatures, embed_tiles, find_neighbours, near_copies, open_index

pytest.importorskip('pyarrow', reason="Parquet needs pyarrow: pip install 'satdino_nb[tables]'")
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'}
MANIFEST = samples_dir() / 'manifest.csv'
EMBED = ['-m', 'satdino_nb', 'embed', str(MANIFEST), '--workers', '0', '--device', 'cpu']
EMBED += ['--part', '25', '--batch-size', '7']


def satdino(*words, cwd=None):
    return subprocess.run(
        [sys.executable, '-m', 'satdino_nb', *map(str, words)],
        text=True,
        capture_output=True,
        cwd=cwd,
        env=ENV,
        timeout=600,
    )


def start(out, rank, world):
    "One process of several, without a launcher."
    env = {**ENV, 'RANK': str(rank), 'WORLD_SIZE': str(world)}
    words = [sys.executable, *EMBED, '--out', str(out)]
    return subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp('alone') / 'features.parquet'
    tiles = open_tiles(MANIFEST)
    return embed_tiles(tiles, out, part=25, batch_size=7, device='cpu')


def assert_same(index, other):
    "The same rows in the same order, to the bit, and the same note."
    a, b = index.features, other.features
    assert a.paths == b.paths and torch.equal(a.cls, b.cls) and torch.equal(a.labels, b.labels)
    assert torch.equal(a.patch_mean, b.patch_mean) and torch.equal(a.gsd_token, b.gsd_token)
    assert torch.equal(a.tile_gsd, b.tile_gsd) and index.note == other.note


LAUNCHERS = {
    'torchrun, two': ['torch.distributed.run', '--standalone', '--nproc-per-node', '2'],
    'torchrun, three': ['torch.distributed.run', '--standalone', '--nproc-per-node', '3'],
    'accelerate, two': ['accelerate.commands.launch', '--cpu', '--num_processes', '2'],
}


@pytest.mark.slow
@pytest.mark.parametrize('launcher', LAUNCHERS)
def test_launched_processes_make_the_rows_of_one(alone, tmp_path, launcher):
    words = ['-m', *LAUNCHERS[launcher], *EMBED, '--out', str(tmp_path / 'f.parquet')]
    done = subprocess.run(
        [sys.executable, *words], text=True, capture_output=True, env=ENV, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('satdino-nano') == 1, 'the first process prints'
    assert_same(open_index(tmp_path / 'f.parquet'), alone)
    left = [p.name for p in tmp_path.iterdir() if not p.name.startswith('.')]
    assert left == ['f.parquet'], 'parts are gone'


def test_an_index_is_a_table_of_tiles_too(alone):
    tiles, before = open_tiles(alone.path), open_tiles(MANIFEST)
    assert tiles.paths == before.paths and tiles.gsds == before.gsds and tiles.boxes == alone.boxes
    names = [[t.classes[y] for y in t.labels] for t in (tiles, before)]
    assert names[0] == names[1] == alone.classes


@pytest.mark.slow
def test_each_process_writes_parts_that_a_manifest_joins(alone, tmp_path):
    out = tmp_path / 'parts'
    processes = [start(out, rank, 2) for rank in range(2)]
    assert [p.wait(600) for p in processes] == [0, 0]
    said = json.loads((out / 'manifest.json').read_text())
    assert {p['rank'] for p in said['parts']} == {0, 1} and said['rows'] == len(alone)
    files = [p['file'] for p in said['parts']]
    assert sorted(p.name for p in out.iterdir()) == ['manifest.json', *files]
    assert_same(open_index(out), alone)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='sends SIGKILL')
def test_the_part_of_a_killed_process_is_taken_up_by_others(alone, tmp_path):
    out = tmp_path / 'f.parquet'
    folder = tmp_path / 'f.parquet.parts'
    last = start(out, 2, 3)
    mine = 2 * 15 // 3  # the first part of the third of three, of 15
    lock, mark = (folder / f'part-{mine:05}{end}' for end in ('.lock', '.json'))
    deadline = time.monotonic() + 600
    while not lock.exists() and last.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(last.pid, signal.SIGSTOP)  # it holds its part, and its lock
    assert lock.exists() and not mark.exists()
    others = [start(out, rank, 3) for rank in range(2)]
    rest = lambda: sum(p.suffix == '.json' and p.name.startswith('part') for p in folder.iterdir())
    while rest() < 14 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rest() == 14 and not out.exists() and all(p.poll() is None for p in others)
    last.kill()
    last.wait(600)
    assert [p.wait(600) for p in others] == [0, 0]
    assert_same(open_index(out), alone)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='sends SIGKILL')
def test_a_killed_run_is_taken_up_again(alone, tmp_path):
    out, folder = tmp_path / 'f.parquet', tmp_path / 'f.parquet.parts'
    first = start(out, 0, 1)
    deadline = time.monotonic() + 600
    marks = lambda: sorted(folder.glob('part-*.json')) if folder.exists() else []
    while len(marks()) < 3 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    first.kill()
    first.wait(600)
    before = {p: p.stat().st_mtime_ns for p in marks()}
    assert 3 <= len(before) < 15 and not out.exists()
    kept = shutil.copytree(folder, tmp_path / 'kept')
    (second := start(out, 0, 1)).wait(600)
    said = second.stderr.read()
    assert second.returncode == 0 and f'{25 * len(before)} of 366 tiles are done' in said, said
    assert len(list(kept.glob('part-*.parquet'))) >= len(before)
    assert_same(open_index(out), alone)


def test_a_changed_tile_is_not_taken_for_the_one_before(tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for i, p in enumerate(paths):
        Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)).save(p)
    tiles = Tiles(paths, [1.0] * 3)
    first = embed_tiles(tiles, tmp_path / 'f.npz', device='cpu')
    assert embed_tiles(tiles, tmp_path / 'f.npz', device='cpu').note == first.note
    Image.fromarray(np.full((32, 33, 3), 200, np.uint8)).save(paths[1])
    with pytest.raises(ValueError, match='f.npz: already there'):
        embed_tiles(tiles, tmp_path / 'f.npz', device='cpu')
    second = embed_tiles(tiles, tmp_path / 'g.npz', device='cpu')
    assert second.note.content != first.note.content
    assert not torch.allclose(second.vectors[1], first.vectors[1], atol=1e-3)


def test_any_backbone_gives_an_index(tmp_path):
    import timm

    model = timm.create_model('resnet18', num_classes=0)
    tiles = sample_tiles('test').subset(range(0, 90, 10))
    index = embed_tiles(tiles, tmp_path / 'f.npz', model, size=64, pooling='cls+mean', device='cpu')
    assert index.note.model == 'ResNet' and index.note.size == 64 and len(index.note.content) == 16
    assert index.vectors.shape == (9, 1024)
    assert find_neighbours(index, tiles.subset([3]), 1, model, device='cpu').found.row.tolist() == [
        [3]
    ]


def test_geotiffs_become_geoparquet_through_parts_and_subsets(tmp_path):
    rasterio = pytest.importorskip('rasterio', reason='footprints need satdino_nb[geo]')
    geopandas = pytest.importorskip('geopandas', reason='footprints need satdino_nb[geo]')
    place = np.asarray(Image.open(samples_dir() / 'places' / 'harbour.jpg'))
    grid = rasterio.transform.from_origin(500_000, 5_500_000, 0.5, 0.5)
    hw = dict(width=place.shape[1], height=place.shape[0], count=3, dtype='uint8')
    with rasterio.open(tmp_path / 'a.tif', 'w', crs='EPSG:32633', transform=grid, **hw) as f:
        f.write(place.transpose(2, 0, 1))
    tiles = open_tiles(tmp_path / 'a.tif')
    index = embed_tiles(tiles, tmp_path / 'f.parquet', part=4, device='cpu')
    frame = geopandas.read_parquet(tmp_path / 'f.parquet')
    assert len(frame) == len(tiles) and frame.crs == 'EPSG:4326'
    side = frame.geometry.to_crs(32633).area ** 0.5
    assert np.allclose(side, 128, atol=0.5)  # 256 pixels of half a metre
    assert index.boxes == [tuple(b) for b in tiles.boxes] and index.gsds == tiles.gsds
    assert torch.equal(index.tiles([5]).image(0), tiles.image(5))
    write_subset(index, [7, 2], tmp_path / 'two.parquet')
    two = geopandas.read_parquet(tmp_path / 'two.parquet')
    assert two.geometry.tolist() == [frame.geometry[7], frame.geometry[2]]
    found = find_neighbours(open_index(tmp_path / 'two.parquet'), [0], device='cpu')
    assert found.found.row.tolist() == [[1]]


def test_the_transformer_works_where_scikit_learn_puts_it():
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    tiles = sample_tiles('train').subset(range(0, 270, 3))
    steps = Pipeline(
        [('features', SatDINOFeatures(device='cpu')), ('head', LogisticRegression(max_iter=500))]
    )
    search = GridSearchCV(clone(steps), {'features__pooling': ['cls', 'cls+mean']}, cv=2)
    search.fit(tiles.paths, tiles.labels)
    assert search.best_score_ > 3 / len(tiles.classes)
    assert {'cls', 'cls+mean'} >= {search.best_params_['features__pooling']}
    again = clone(search.best_estimator_)
    assert not hasattr(again['features'], 'network_')


@pytest.mark.slow
def test_neighbours_of_pictures_rows_and_an_index(alone, tmp_path):
    index = alone.path
    pictures = [alone.features.paths[i] for i in (10, 200)]
    done = satdino(
        'neighbours', index, '--query', *pictures, '--k', 4, '--out', 'pictures', cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert 'searched exactly' in done.stdout and 'neighbours.png' in done.stdout
    with (tmp_path / 'pictures' / 'neighbours.csv').open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 8 and [rows[0]['row'], rows[4]['row']] == ['10', '200']
    assert float(rows[0]['distance']) < 1e-5 and [r['rank'] for r in rows[:4]] == list('1234')
    gaps = [float(r['distance']) for r in rows[:4]]
    assert gaps == sorted(gaps) and all(r['gsd'] and r['class'] for r in rows)
    with Image.open(tmp_path / 'pictures' / 'neighbours.png') as sheet:
        assert sheet.width == 5 * 156
    done = satdino('neighbours', index, '--query', 10, 200, '--k', 3, '--out', 'rows', cwd=tmp_path)
    with (tmp_path / 'rows' / 'neighbours.csv').open() as f:
        own = [r['row'] for r in csv.DictReader(f)]
    assert own == [r['row'] for r in rows if r['rank'] != '1'], 'a row does not find itself'
    write_subset(alone, [10, 200], tmp_path / 'two.parquet')
    words = ['--query', 'two.parquet', '--k', 4, '--out', 'index']
    done = satdino('neighbours', index, *words, cwd=tmp_path)
    with (tmp_path / 'index' / 'neighbours.csv').open() as f:
        assert [r['row'] for r in csv.DictReader(f)] == [r['row'] for r in rows], done.stderr


@pytest.mark.slow
def test_duplicates_are_listed_and_left_out(tmp_path):
    folder = tmp_path / 'tiles'
    shutil.copytree(samples_dir() / 'scenes' / 'forest', folder)
    first, second = sorted(folder.iterdir())[:2]
    shutil.copy(first, folder / 'z1.jpg')
    Image.open(second).resize((100, 100)).resize((128, 128)).save(folder / 'z2.png')
    words = ['embed', 'tiles', '--gsd', 2, '--out', 'f.npz', '--workers', 0]
    done = satdino(*words, cwd=tmp_path)
    assert done.returncode == 0 and '| tiles | 26 |' in done.stdout, done.stderr
    words = ['--duplicates', '--threshold', '0.001', '--without', 'less.npz', '--out', 'found']
    done = satdino('neighbours', 'f.npz', *words, cwd=tmp_path)
    assert done.returncode == 0 and 'without them 24 of 26' in done.stdout, done.stderr
    with (tmp_path / 'found' / 'copies.csv').open() as f:
        rows = [(r['group'], r['kept'], Path(r['path']).name) for r in csv.DictReader(f)]
    assert rows == [
        ('0', 'yes', first.name),
        ('0', 'no', 'z1.jpg'),
        ('1', 'yes', second.name),
        ('1', 'no', 'z2.png'),
    ]
    assert f'| {Path("tiles") / "z1.jpg"} |' in done.stdout
    assert (tmp_path / 'found' / 'copies.png').is_file()
    with Image.open(tmp_path / 'found' / 'copies.png') as sheet:
        assert sheet.getpixel((20, 20)) != (128, 128, 128), 'its pictures were found'
    less = open_index(tmp_path / 'less.npz')
    assert len(less) == 24 and not [p for p in less.features.paths if Path(p).name[0] == 'z']
    assert not near_copies(less, 0.001).groups
    assert all(Path(p).is_absolute() for p in less.features.paths), (
        'from whatever folder it is asked'
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    'words,says',
    [
        (['neighbours', 'absent.npz', '--query', 0], 'absent.npz: no such index'),
        (['neighbours', 'F', '--k', 3], '--query'),
        (['neighbours', 'F', '--query', 'notes.txt'], 'notes.txt'),
        (['neighbours', 'F', '--query', 0, 'notes.txt'], 'not several kinds'),
        (['neighbours', 'F', '--query', 999], 'no row 999'),
        (['neighbours', 'F', '--query', 'bare.parquet'], 'bare.parquet'),
        (['neighbours', 'bare.parquet', '--query', 0], 'no features in it'),
        (['neighbours', 'mixed.parquet', '--query', 0], '2 and 3 dimensions'),
        (['neighbours', 'F', '--query', 0, '--k', 0], '--k'),
        (['neighbours', 'F', '--query', 'TILE', '--model', 'OTHER'], 'two models'),
        (['neighbours', 'F', '--query', 'other.npz'], 'two models'),
        (['neighbours', 'F', '--query', 0, '--without', 'x.parquet'], '--duplicates'),
        (['neighbours', 'F', '--duplicates', '--threshold', 3], '--threshold'),
        (['neighbours', 'one.npz', '--query', 0], 'one tile alone'),
        (['embed', 'absent', '--out', 'f.npz'], 'absent'),
        (['embed', 'MANIFEST', '--out', 'f.tif'], 'f.tif'),
        (['embed', 'MANIFEST', '--size', 32, '--out', 'F'], 'already there'),
        (['embed', 'MANIFEST', '--model', 'absent', '--out', 'f.npz'], 'absent'),
        (['embed', 'broken', '--out', 'f.npz'], 'b.jpg'),
    ],
    ids=lambda v: ' '.join(map(str, v)) if isinstance(v, list) else None,
)
def test_bad_input_is_a_line(alone, tmp_path, words, says):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from satdino_nb.features import untrained
    from satdino_nb.vit import load_satdino, save_satdino

    (tmp_path / 'notes.txt').write_text('no picture')
    pq.write_table(pa.table({'words': ['a']}), tmp_path / 'bare.parquet')
    mixed = {'path': ['a', 'b'], 'label': [0, 0], 'cls': [[1.0, 2.0], [1.0, 2.0, 3.0]]}
    pq.write_table(pa.table(mixed), tmp_path / 'mixed.parquet')
    tile = sample_tiles('test').subset([0])
    if 'one.npz' in words:
        embed_tiles(tile, tmp_path / 'one.npz', device='cpu')
    other = untrained(load_satdino('satdino-nano', verbose=False))
    save_satdino(other, tmp_path / 'other.safetensors')
    if 'other.npz' in words:
        embed_tiles(tile, tmp_path / 'other.npz', other, device='cpu')
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'b.jpg').write_bytes(b'\xff\xd8\xff\xe0 not much of a picture')
    named = dict(F=alone.path, TILE=tile.paths[0], OTHER='other.safetensors', MANIFEST=MANIFEST)
    done = satdino(*(named.get(w, w) for w in words), cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert last.startswith('error: ') and says in last, last


@pytest.mark.slow
def test_without_any_gsd_everything_works(tmp_path):
    words = ['--out', 'f.npz', '--workers', 0]
    done = satdino('embed', samples_dir() / 'scenes' / 'sea', *words, cwd=tmp_path)
    assert done.returncode == 0 and '| GSD | unknown |' in done.stdout, done.stderr
    done = satdino('neighbours', 'f.npz', '--query', 0, '--k', 2, cwd=tmp_path)
    assert done.returncode == 0 and 'unknown' in done.stdout, done.stderr
