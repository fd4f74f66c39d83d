"""What the source says of its images arrives, or is said to be lost.

Heads and separators of tables, labels of data sets, masks, splits, places, copies, batches, and
exports that are read back as an index.
"""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from satdino_nb.data import Tiles, audit, check_images, open_tiles, split_tiles
from satdino_nb.engine.audits import audit_findings
from satdino_nb.engine.copies import shared_tiles, without_shared
from satdino_nb.engine.datasets import DatasetTiles
from satdino_nb.engine.exports import load_features, save_features
from satdino_nb.engine.extraction import Features
from satdino_nb.engine.loading import run_parts
from satdino_nb.engine.recipe import DataConfig, PretrainConfig, read_config, save_config
from satdino_nb.engine.tables import read_index
from satdino_nb.engine.tiles import (
    Batch,
    cache_tiles,
    folder_tiles,
    given_parts,
    mask_tiles,
    table_tiles,
)


def picture(path, seed=0, size=24):
    "A picture of blocks, other ones for each seed."
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), 'uint8')
    Image.fromarray(blocks.repeat(size // 4, 0).repeat(size // 4, 1)).save(path)
    return path


@contextmanager
def said():
    "The warnings as one text, in a list."
    text = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        yield text
    text.append(' '.join(str(w.message) for w in found))


SPELLINGS = {
    'blanks': 'file , gsd , class , split\na.png , 0.5 , sea , test\n',
    'capitals': 'FILE,GSD,CLASS,SPLIT\na.png,0.5,sea,TEST\n',
    'units': 'Image Path,GSD (m/px),Category,Subset\na.png,0.5,sea,Testing\n',
    'semicolons': '\ufeffpath;gsd_m;label;split\na.png;0,5;sea;test\n',
    'tabs': 'filename\tgsd\tclass name\tpartition\na.png\t0.5\tsea\ttest\n',
    'bars': 'file|gsd|class|split\na.png|0.5|sea|test\n',
    'sep line': 'sep=;\nfile;gsd;class;split\na.png;0.5;sea;test\n',
    'dot path': 'file,gsd,class,split\n.\\a.png,0.5,sea,test\n',
}


@pytest.mark.parametrize('name', SPELLINGS)
def test_tables_as_spreadsheets_write_them(tmp_path, name):
    picture(tmp_path / 'a.png')
    (tmp_path / 'i.csv').write_text(SPELLINGS[name], encoding='utf-8')
    with said():
        tiles = table_tiles(tmp_path / 'i.csv')
    assert (tiles.gsds, tiles.classes, tiles.labels, tiles.splits) == (
        [0.5],
        ('sea',),
        [0],
        ['test'],
    )


def test_a_column_that_is_not_used_is_named_once(tmp_path):
    picture(tmp_path / 'a.png')
    (tmp_path / 'i.csv').write_text('file,gsd,klass,camera\na.png,0.5,sea,x\n')
    with said() as text:
        table_tiles(tmp_path / 'i.csv')
    assert "'klass' (meant: class?)" in text[0] and text[0].count("'camera'") == 1


def test_columns_that_are_one_are_refused_and_ragged_rows_named(tmp_path):
    picture(tmp_path / 'a.png')
    (tmp_path / 'i.csv').write_text('file,gsd,GSD\na.png,0.5,2\n')
    with pytest.raises(ValueError, match="'gsd' and 'GSD' are the same"):
        table_tiles(tmp_path / 'i.csv')
    (tmp_path / 'i.csv').write_text('file,gsd\na, b.png,0.5\na.png,1\n')
    with pytest.raises(ValueError, match='line 2: 3 cells, but 2 heads'):
        table_tiles(tmp_path / 'i.csv')


def test_labels_of_a_table_are_numbered_as_numbers(tmp_path):
    picture(tmp_path / 'a.png')
    (tmp_path / 'i.csv').write_text('file,label\n' + ''.join(f'a.png,{k}\n' for k in (10, 2, -1)))
    tiles = table_tiles(tmp_path / 'i.csv')
    assert tiles.classes == ('2', '10') and tiles.labels == [1, 0, None]


def features_of(tiles):
    n = len(tiles)
    gsd = torch.tensor(tiles.gsds, dtype=torch.float64)
    labels = torch.tensor(tiles.labels)
    return Features(
        torch.rand(n, 4), None, None, None, 2 * gsd, labels, tiles.paths, tiles.classes, gsd
    )


@pytest.mark.parametrize('ending', ['npz', 'parquet'])
def test_an_export_opens_as_an_index(tmp_path, ending, monkeypatch):
    if ending == 'parquet':
        pytest.importorskip('pyarrow')
    for i in range(3):
        picture(tmp_path / 't' / f'{i}.png', i)
    monkeypatch.chdir(tmp_path)
    boxes = [(0, 0, 8, 8), None, (4, 4, 8, 8)]
    places = ['x', None, 'y']
    paths = [f't/{i}.png' for i in range(3)]
    tiles = Tiles(paths, [0.5, 1, 2], [0, 1, 0], ('sea', 'town'), boxes=boxes, places=places)
    file = save_features(features_of(tiles), tmp_path / f'f.{ending}', tiles)
    with said() as text:
        again = open_tiles(file)
    assert 'not used' not in text[0]
    for name in ('gsds', 'labels', 'classes', 'boxes', 'places'):
        assert getattr(again, name) == getattr(tiles, name), name
    assert [Path(p).resolve() for p in again.paths] == [Path(p).resolve() for p in paths]
    kept = load_features(file)
    assert kept.gsd.tolist() == [1, 2, 4] and kept.tile_gsd.tolist() == [0.5, 1, 2]


class Dictionaries(Dataset):
    "Items as torchgeo and Hugging Face give them; labels by a function."

    def __init__(self, label, n=6):
        self.label, self.n = label, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError
        return dict(image=np.full((8, 8, 3), i, 'uint8'), label=self.label(i))


@pytest.mark.parametrize(
    'label',
    [
        lambda i: i % 2,
        lambda i: torch.tensor(i % 2),
        lambda i: np.int64(i % 2),
        lambda i: 'ab'[i % 2],
    ],
)
def test_labels_of_dictionaries_subsets_and_concatenations(label):
    whole = Dictionaries(label)
    for data, right in (
        (whole, [0, 1, 0, 1, 0, 1]),
        (Subset(whole, [1, 2]), [1, 0]),
        (Subset(Subset(whole, [1, 2, 4]), [2, 0]), [0, 1]),
        (ConcatDataset([whole, Subset(whole, [3])]), [0, 1, 0, 1, 0, 1, 1]),
    ):
        tiles = DatasetTiles(data, gsd=1, classes=('a', 'b'))
        assert tiles.labels == right == [t.label for t in (tiles[i] for i in range(len(tiles)))]


def test_a_subset_of_a_listed_data_set_keeps_its_paths_and_reads_nothing():
    class Listed(Dictionaries):
        samples = [(f'{i}.png', i % 3) for i in range(6)]
        classes = ('a', 'b', 'c')

        def __getitem__(self, i):
            raise AssertionError('read')

    tiles = DatasetTiles(Subset(Listed(None), [5, 1]))
    assert tiles.paths == ['5.png', '1.png'] and tiles.labels == [2, 1]
    assert tiles.classes == ('a', 'b', 'c')


def test_masks_pair_by_their_place_and_by_a_name_only_where_it_is_one(tmp_path):
    for area in ('Rural', 'Urban'):
        picture(tmp_path / 'images' / area / '0.png')
        (tmp_path / 'masks' / area).mkdir(parents=True)
        Image.new('L', (24, 24)).save(tmp_path / 'masks' / area / '0.tif')
    tiles = mask_tiles(tmp_path / 'images', tmp_path / 'masks', 1)
    assert [Path(m).parent.name for m in tiles.masks] == ['Rural', 'Urban']
    flat = tmp_path / 'flat'
    flat.mkdir()
    Image.new('L', (24, 24)).save(flat / '0.png')
    with pytest.raises(ValueError, match='2 of 2'):  # which of the two is it of?
        mask_tiles(tmp_path / 'images', flat, 1)
    (tmp_path / 'images' / 'Urban' / '0.png').rename(tmp_path / 'images' / 'Urban' / '1.png')
    Image.new('L', (24, 24)).save(flat / '1.png')
    assert [Path(m).name for m in mask_tiles(tmp_path / 'images', flat, 1).masks] == [
        '0.png',
        '1.png',
    ]


def test_a_class_of_which_nothing_is_left_is_said(tmp_path):
    picture(tmp_path / 'sea' / 'a.png')
    (tmp_path / 'town').mkdir()
    (tmp_path / 'town' / 'b.png').write_bytes(b'none')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'c.xcf').write_bytes(b'none')
    with said() as text:
        check_images(folder_tiles(tmp_path, 1), on_error='skip')
    assert "no image is left of the classes 'town'" in text[0]
    assert "folder 'other' is no class" in text[0] and '1 x .xcf' in text[0]


@pytest.mark.parametrize('names', [('train', 'val', 'test'), ('Training', 'validation')])
def test_folders_of_a_split_are_no_classes(tmp_path, names):
    for k, part in enumerate(names):
        for c in ('sea', 'town')[: 2 - (k == 1)]:
            for i in range(2):
                picture(tmp_path / part / c / f'{i}.png', 10 * k + i)
    tiles = folder_tiles(tmp_path, 1)
    assert tiles.classes == ('sea', 'town') and None not in tiles.labels
    assert set(given_parts(tiles)) == {'train', 'val', 'test'} & {*names, 'train', 'val'}
    rest, held = split_tiles(tiles)
    assert set(rest.splits) == {'train'} and len(set(held.splits)) == 1


def test_a_class_that_is_called_like_a_part_is_said(tmp_path):
    for c in ('train', 'ship', 'plane'):
        picture(tmp_path / c / '0.png')
    with said() as text:
        tiles = folder_tiles(tmp_path, 1)
    assert tiles.classes == ('plane', 'ship', 'train') and "'train' beside 2 other" in text[0]


def test_a_run_leaves_the_test_rows_alone_and_watches_those_of_val():
    parts = ['train'] * 6 + ['val'] * 2 + ['test'] * 2
    tiles = Tiles([f'{i}.png' for i in range(10)], [1] * 10, [0] * 10, splits=parts)
    train, held, test = run_parts(DataConfig(held_out=0.5), tiles)
    assert [set(p.splits) for p in (train, held, test)] == [{'train'}, {'val'}, {'test'}]
    train, held, _ = run_parts(DataConfig(held_out=0.5), tiles.subset([0, 1, 2, 3, 8, 9]))
    assert set(train.splits) == set(held.splits) == {'train'} and len(held) == 2


def test_a_run_draws_places_and_an_old_run_images(tmp_path):
    places = [f'{i // 4}' for i in range(40)]
    tiles = Tiles(
        [f'{i}.png' for i in range(40)], [1] * 40, [i // 20 for i in range(40)], places=places
    )
    train, held, _ = run_parts(DataConfig(), tiles)
    assert set(train.places).isdisjoint(held.places) and set(held.labels) == {0, 1}
    with said() as text:
        _, drawn, _ = run_parts(DataConfig(split='image'), tiles)
    assert 'both sides' in text[0]
    save_config(PretrainConfig(data=tmp_path), tmp_path / 'c.json')
    assert read_config(tmp_path / 'c.json').split == 'auto'
    text = (tmp_path / 'c.json').read_text()
    (tmp_path / 'c.json').write_text(text.replace('"split": "auto",', ''))
    assert read_config(tmp_path / 'c.json').split == 'image'


def test_own_outputs_are_no_tiles(tmp_path):
    for c in ('sea', 'town'):
        picture(tmp_path / c / '0.png')
    run = tmp_path / 'runs' / 'first'
    picture(run / 'evaluation' / 'knn.png')
    (run / 'config.json').write_text('{}')
    (run / 'metrics.jsonl').write_text('')
    picture(tmp_path / 'sea' / 'confusion.png')  # a report in a class folder
    (tmp_path / 'sea' / 'report.md').write_text('![confusion](confusion.png)')
    (tmp_path / 'sea' / 'results.json').write_text('{}')
    picture(tmp_path / 'contact_sheet.jpg')  # an audit of the folder in the folder itself
    (tmp_path / 'report.md').write_text('# report')
    (tmp_path / 'files.csv').write_text('path\n')
    with said() as text:
        tiles = folder_tiles(tmp_path, 1)
    assert tiles.classes == ('sea', 'town') and len(tiles) == 2
    assert '3 outputs of satdino_nb' in text[0]
    found = audit(tmp_path, 1)
    assert len(found.files) == 2 and found.others['output of satdino_nb'] == 3


def test_a_loader_gives_batches_with_labels_to_learn_from(tmp_path):
    paths = [picture(tmp_path / f'{i}.png', i) for i in range(6)]
    tiles = Tiles(paths, [1, None] * 3, [0, 1, None, 0, 1, 1])
    net = torch.nn.Linear(3 * 24 * 24, 2)
    for data in (tiles, cache_tiles(tiles, tmp_path / 'cache')):
        batches = list(DataLoader(data, batch_size=4))
        assert [type(b) for b in batches] == [Batch] * 2
        assert torch.cat([b.labels for b in batches]).tolist() == [0, 1, -1, 0, 1, 1]
        out = net(batches[0].images.flatten(1).float())
        torch.nn.functional.cross_entropy(out, batches[0].labels, ignore_index=-1).backward()
        assert net.weight.grad.abs().sum() > 0


def test_copies_are_found_by_content(tmp_path):
    train = [picture(tmp_path / 'a' / f'{i}.png', i) for i in range(3)]
    Image.open(train[1]).save(tmp_path / 'other.bmp')
    test = [tmp_path / 'other.bmp', picture(tmp_path / 'b' / '0.png', 9)]
    sides = Tiles(train, [1] * 3), Tiles(test, [2] * 2)
    assert shared_tiles(*sides) == {0: 1}
    with said() as text:
        assert without_shared(*sides).paths == [str(test[1])]
    assert '1 of 2 test tiles' in text[0] and 'other.bmp = ' in text[0]
    with pytest.raises(ValueError, match='2 of 2'):
        without_shared(sides[1], sides[1])


def test_audit_reports_near_copies(tmp_path):
    for i in range(4):
        blocks = np.random.default_rng(i).integers(0, 255, (5, 5, 3), 'uint8')
        smooth = Image.fromarray(blocks).resize((64, 64), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / f'{i}.png')
    Image.open(tmp_path / '2.png').resize((50, 50)).save(tmp_path / 'small.jpg', quality=80)
    groups = audit_findings(audit(tmp_path, 1))['nearly the same picture (perceptual hash)']
    assert len(groups) == 1 and '2.png' in groups[0] and 'small.jpg' in groups[0]


def test_equal_cells_of_an_index_are_one_object(tmp_path):
    (tmp_path / 'i.csv').write_text('file,class\n' + 'a.png,a long name of a class\n' * 100)
    assert len({id(c) for c in read_index(tmp_path / 'i.csv').columns['class']}) == 1


@pytest.mark.parametrize('word', ['nan', 'NaN', '<NA>', 'NaT'])
@pytest.mark.parametrize('ending', ['csv', 'parquet'])
def test_what_is_not_known_is_no_class_and_no_place(tmp_path, word, ending):
    "As pandas and NumPy write it in words: all tiles of no place would be of one, 'nan'."
    rows = [('a.png', 'sea', word), ('b.png', word, 'x'), ('c.png', 'land', word)]
    for name, *_ in rows:
        picture(tmp_path / name)
    path = tmp_path / f'index.{ending}'
    if ending == 'csv':
        lines = ['file,class,place', *(','.join(r) for r in rows)]
        path.write_text('\n'.join(lines))
    else:
        parquet = pytest.importorskip('pyarrow.parquet')
        columns = dict(zip(('file', 'class', 'place'), map(list, zip(*rows))))
        parquet.write_table(pytest.importorskip('pyarrow').table(columns), path)
    with pytest.warns(UserWarning, match="3 cells 'nan' are read as empty"):
        tiles = table_tiles(path)
    assert tiles.places == [None, 'x', None]
    assert tiles.classes == ('land', 'sea') and tiles.labels == [1, None, 0]


@pytest.mark.parametrize(
    'labels,classes',
    [
        (['2.0', '10.0', '-1.0'], ('2', '10')),  # as pandas writes them where some are missing
        (['2', '10', '-1'], ('2', '10')),
        (['002', '010', ''], ('002', '010')),  # codes stay as they are
        (['2', '10a', '-1'], ('-1', '10a', '2')),  # names
        (['', '10', '10'], ('10',)),
    ],
)
def test_labels_that_are_numbers(tmp_path, labels, classes):
    for name in 'abc':
        picture(tmp_path / f'{name}.png')
    rows = [f'{n}.png,{y}' for n, y in zip('abc', labels)]
    (tmp_path / 'index.csv').write_text('\n'.join(['file,label', *rows]))
    assert table_tiles(tmp_path / 'index.csv').classes == classes


@pytest.mark.parametrize('labels', [('001', '1'), ('1', '01'), ('0', '-0')])
def test_one_number_in_two_spellings_is_refused(tmp_path, labels):
    for name in 'ab':
        picture(tmp_path / f'{name}.png')
    rows = [f'{n}.png,{y}' for n, y in zip('ab', labels)]
    (tmp_path / 'index.csv').write_text('\n'.join(['file,label', *rows]))
    with pytest.raises(ValueError, match='the same number'):
        table_tiles(tmp_path / 'index.csv')


@pytest.mark.parametrize('name', ['./a.png', 'sub//../a.png', 'sub/../a.png', '../DIR/a.png'])
def test_a_path_is_the_one_that_a_folder_makes_of_it(tmp_path, name):
    (tmp_path / 'sub').mkdir()
    picture(tmp_path / 'a.png')
    name = name.replace('DIR', tmp_path.name)
    (tmp_path / 'index.csv').write_text(f'file\n{name}\n')
    assert table_tiles(tmp_path / 'index.csv').paths == [str(tmp_path / name)]


@pytest.mark.parametrize(
    'names', ['Train VALIDATION Test', 'training dev TESTING', 'train Val test']
)
def test_parts_in_any_spelling(tmp_path, names):
    parts = names.split()
    for name in 'abc':
        picture(tmp_path / f'{name}.png')
    rows = [f'{n}.png,{s}' for n, s in zip('abc', parts)]
    (tmp_path / 'index.csv').write_text('\n'.join(['file,Subset', *rows]))
    tiles = table_tiles(tmp_path / 'index.csv')
    assert tiles.splits == ['train', 'val', 'test']


def test_a_quoted_line_break_and_a_row_twice(tmp_path):
    picture(tmp_path / 'a.png')
    text = 'file,class,note\na.png,"sea\nand land","x"\na.png,"sea\nand land",y\n'
    (tmp_path / 'index.csv').write_text(text)
    with pytest.warns(UserWarning, match="columns not used: 'note'"):
        tiles = table_tiles(tmp_path / 'index.csv')
    assert tiles.classes == ('sea\nand land',) and len(tiles) == 2


def test_paths_of_another_machine_are_named(tmp_path):
    (tmp_path / 'index.csv').write_text('file\n/home/someone/else/a.png\nC:\\data\\b.png\n')
    with pytest.raises(ValueError, match='(?s)2 of 2 .*/home/someone/else/a.png.*no such file'):
        table_tiles(tmp_path / 'index.csv')


def test_relative_paths_stay_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / 'a.png')
    Path('index.csv').write_text('file\na.png\n')
    assert table_tiles('index.csv').paths == ['a.png']


@pytest.mark.parametrize('parts', [('0', '1'), ('trian', 'test'), ('fold 1', 'fold 2')])
def test_parts_that_mean_nothing_are_said(tmp_path, parts):
    for name in 'ab':
        picture(tmp_path / f'{name}.png')
    rows = [f'{n}.png,{s}' for n, s in zip('ab', parts)]
    (tmp_path / 'index.csv').write_text('\n'.join(['file,split', *rows]))
    with pytest.warns(UserWarning, match=f"parts .*'{parts[0]}'.* no split is taken"):
        split_tiles(table_tiles(tmp_path / 'index.csv'), 0.5)


def test_a_file_of_several_classes_is_said(tmp_path):
    for name in 'ab':
        picture(tmp_path / f'{name}.png')
    (tmp_path / 'index.csv').write_text('file,class\na.png,x\na.png,y\nb.png,y\nb.png,y\n')
    with pytest.warns(UserWarning, match='1 files are in rows of several classes.*a.png'):
        assert len(table_tiles(tmp_path / 'index.csv')) == 4


@pytest.mark.parametrize('two', [('caf\u00e9', 'cafe\u0301'), ('sea  ice', 'sea ice'), ('A', 'a')])
def test_classes_that_look_the_same_are_refused(tmp_path, two):
    for name in 'ab':
        picture(tmp_path / f'{name}.png')
    rows = [f'{n}.png,{c}' for n, c in zip('ab', two)]
    text = '\n'.join(['file,class', *rows])
    (tmp_path / 'index.csv').write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match='differ only'):
        table_tiles(tmp_path / 'index.csv')


def test_cells_of_parquet_that_are_no_names(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    table = pytest.importorskip('pyarrow').table
    picture(tmp_path / 'a.png')
    path = tmp_path / 'index.parquet'
    parquet.write_table(table({'file': [b'a.png'], 'class': [b'sea']}), path)
    assert table_tiles(path).classes == ('sea',)
    parquet.write_table(table({'file': ['a.png'], 'label': [[1, 2]]}), path)
    with pytest.raises(ValueError, match='several values'):
        table_tiles(path)


def test_a_part_without_a_split_is_learnt_from(tmp_path):
    "Beside a part that says what is for training, one that says nothing is not left out."
    for name in ('stated', 'plain'):
        for k in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new('RGB', (16, 16), (40 * k, 0, 9)).save(tmp_path / name / f'{k}.png')
    rows = [f'stated/{k}.png,{s}' for k, s in enumerate(('train', 'train', 'val', 'test'))]
    (tmp_path / 'stated.csv').write_text('path,split\n' + '\n'.join(rows))
    parts = [{'data': 'stated.csv'}, {'data': 'plain'}]
    (tmp_path / 'mixture.json').write_text(json.dumps(parts))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = given_parts(open_tiles(tmp_path / 'mixture.json'))
    assert {p: len(t) for p, t in found.items()} == {'train': 6, 'val': 1, 'test': 1}


def test_a_file_with_a_class_and_without_one_is_of_one_class(tmp_path):
    picture(tmp_path / 'a.png')
    (tmp_path / 'index.csv').write_text('file,class\na.png,field\na.png,\n')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert open_tiles(tmp_path / 'index.csv').labels == [0, None]


def test_a_blank_cell_of_parquet_is_empty_without_a_word(tmp_path):
    pandas = pytest.importorskip('pandas')
    pytest.importorskip('pyarrow')
    pandas.DataFrame({'file': ['a.png'], 'class': ['  ']}).to_parquet(tmp_path / 'index.parquet')
    index = read_index(tmp_path / 'index.parquet')
    assert index.columns['class'] == [None] and index.notes == []


def test_whole_numbers_name_one_class_and_one_place_however_they_are_written(tmp_path):
    for name in 'abcd':
        Image.new('RGB', (8, 8), (ord(name), 120, 60)).save(tmp_path / f'{name}.png')
    rows = (('a', '1.0', '7'), ('b', '2', '7.0'), ('c', '1', ''), ('d', '2.0', '10'))
    text = ''.join(f'{n}.png,1,{c},{place}\n' for n, c, place in rows)
    (tmp_path / 'i.csv').write_text('file,gsd,class,place\n' + text)
    tiles = open_tiles(tmp_path / 'i.csv')
    assert tiles.places == ['7', '7', None, '10']
    assert list(tiles.classes) == ['1', '2'] and tiles.labels == [0, 1, 0, 1]
    # names that only look so, as of versions or levels, stay as they are
    (tmp_path / 'i.csv').write_text('file,gsd,class\na.png,1,1.0\nb.png,1,1.5\nc.png,1,2.0\n')
    assert list(open_tiles(tmp_path / 'i.csv').classes) == ['1.0', '1.5', '2.0']
