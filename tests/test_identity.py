"""Runs, caches and their folders: told by content, owned by one, named as the user named them."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2

from satdino_nb.engine.evaluation import data_of_run, tiles_of_run
from satdino_nb.engine.extraction import FeatureColumns, extract_features
from satdino_nb.engine.folders import LOCK, FolderInUseError, owned
from satdino_nb.engine.heads import DINOHead, param_groups
from satdino_nb.engine.protocols import by_name, contenders, model_name
from satdino_nb.engine.setup import initial_backbone
from satdino_nb.engine.teacher import SatDINO
from satdino_nb.engine.tiles import cache_tiles, folder_tiles
from satdino_nb.engine.weights import ViTConfig, find_weights
from satdino_nb.pretrain import PretrainConfig, load_run, pretrain, read_config
from satdino_nb.views import ViewConfig
from satdino_nb.vit import SatViT, load_satdino, save_satdino

VIT = ViTConfig(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)


def draw(folder, shift=0, n=8, seed=0):
    rng = np.random.default_rng(seed)
    for k, kind in enumerate(('field', 'water')):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            levels = rng.integers(0, 100, (24, 24, 3)) + 60 * k + shift
            Image.fromarray(levels.astype('uint8')).save(folder / kind / f'{kind}_{i}.png')
    return folder


def config(folder, **more):
    return PretrainConfig(
        data=folder / 'tiles',
        gsd=1.0,
        out=folder / 'run',
        views=ViewConfig(global_size=16, local_size=8, n_local=2),
        vit=VIT,
        batch_size=4,
        out_dim=32,
        hidden_dim=16,
        bottleneck_dim=8,
        workers=0,
        device='cpu',
        held_out=0.25,
        **{'steps': 2, **more},
    )


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    "A run of 2 of 4 steps."
    folder = tmp_path_factory.mktemp('begun')
    draw(folder / 'tiles')
    pretrain(config(folder, steps=4, save_every=2))
    shutil.rmtree(folder / 'run' / 'checkpoints' / 'step-00000004')
    return folder


@pytest.fixture
def copied(begun, tmp_path):
    shutil.copytree(begun, tmp_path / 'copy')
    return tmp_path / 'copy'


def go_on(folder, **more):
    return pretrain(config(folder, steps=4, save_every=2, resume=True, **more))


@pytest.mark.parametrize('kept_time', [False, True])
def test_changed_pixels_under_the_same_names_are_noticed(copied, kept_time):
    for file in (copied / 'tiles').rglob('*.png'):
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        Image.fromarray(np.array(Image.open(file)) // 4 + 180).save(file)
        if kept_time:
            os.utime(file, ns=times)
    with pytest.raises(ValueError, match='images: .*the same names.* content'):
        go_on(copied)
    before = load_satdino(copied / 'run' / 'model.safetensors').normalisation
    with pytest.warns(UserWarning, match='other channel statistics'):
        run = go_on(copied, allow_changes=True)
    assert run.model.normalisation == before  # those that its weights were trained with


def test_a_moved_and_renamed_folder_goes_on_exactly(begun, copied, tmp_path):
    whole = go_on(copied)
    shutil.copytree(begun / 'run', tmp_path / 'run')
    shutil.copytree(begun / 'tiles', tmp_path / 'tiles of 2024')
    for kind in ('field', 'water'):
        for f in (tmp_path / 'tiles of 2024' / kind).iterdir():
            f.rename(f.with_name('x' + f.name))
    c = config(tmp_path, steps=4, save_every=2, resume=True)
    pretrain(replace(c, data=tmp_path / 'tiles of 2024'))
    a, b = (load_file(p / 'model.safetensors') for p in (whole.out, tmp_path / 'run'))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_of_an_earlier_version_goes_on_exactly(begun, copied, tmp_path):
    "Without content and statistics in its checkpoint, and without a list of images."
    for state in (copied / 'run').rglob('state.json'):
        said = json.loads(state.read_text())
        del said['content'], said['normalisation']
        state.write_text(json.dumps(said))
    (copied / 'run' / 'images.json').unlink()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        old = go_on(copied)
    other = tmp_path / 'other'
    shutil.copytree(begun, other)
    new = go_on(other)
    a, b = (load_file(r.out / 'model.safetensors') for r in (old, new))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_statistics_live_in_the_checkpoint(begun):
    (state,) = (begun / 'run' / 'checkpoints').glob('*/state.json')
    said = json.loads(state.read_text())
    assert said['content'] and len(said['normalisation']['mean']) == 3


def test_a_changed_folder_is_evaluated_without_what_was_trained_on(begun, copied):
    run = load_run(copied / 'run')
    train, held = tiles_of_run(copied / 'run', run.config, copied / 'tiles')
    assert len(train) == 12 and len(held) == 4
    trained_names = {p.rpartition('/')[2] for p in train.paths}
    draw(copied / 'tiles' / 'new', shift=50, n=3, seed=5)  # as two flat folders
    for kind in ('field', 'water'):
        for f in (copied / 'tiles' / 'new' / kind).iterdir():
            f.rename(copied / 'tiles' / kind / f'a_{f.name}')  # first by name
        (copied / 'tiles' / 'new' / kind).rmdir()
    (copied / 'tiles' / 'new').rmdir()
    with pytest.warns(UserWarning, match='12 of 22 were trained on .* 10 were not'):
        train, held = tiles_of_run(copied / 'run', run.config, copied / 'tiles')
    assert {p.rpartition('/')[2] for p in train.paths} == trained_names and len(held) == 10


def test_the_tiles_of_a_run_are_found_or_asked_for(copied, monkeypatch):
    c = read_config(copied / 'run' / 'config.json')
    monkeypatch.chdir('/')
    (copied / 'run' / 'images.json').unlink()
    assert data_of_run(copied / 'run', replace(c, data=type(copied)('tiles'))) == copied / 'tiles'
    with pytest.raises(ValueError, match='--data'):
        data_of_run(copied / 'run', replace(c, data=type(copied)('gone')))


def test_a_folder_in_use_is_refused_and_left_as_it_is(copied):
    with owned(copied / 'run'):
        before = sorted(copied.rglob('*'))
        for more in (dict(resume=True), {}):
            with pytest.raises(FolderInUseError, match=f'process {os.getpid()} .* is writing'):
                pretrain(config(copied, **more))
        assert sorted(copied.rglob('*')) == before
    assert not (copied / 'run' / LOCK).exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        'import os\nfrom satdino_nb.engine.folders import owned\n'
        f'with owned({str(tmp_path)!r}): os.kill(os.getpid(), 9)'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    with owned(tmp_path):
        pass


def test_out_inside_of_the_data_is_refused(tmp_path):
    draw(tmp_path / 'tiles')
    with pytest.raises(ValueError, match='inside of the data'):
        pretrain(replace(config(tmp_path), out=tmp_path / 'tiles' / 'runs' / 'first'))
    assert not (tmp_path / 'tiles' / 'runs').exists()


def test_two_extractions_into_one_cache(tmp_path):
    tiles = folder_tiles(draw(tmp_path / 'tiles'), 1.0)
    model = SatViT(VIT).eval()
    true = extract_features(model, tiles).cls.clone()
    extract_features(model, tiles, cache=tmp_path / 'cache')
    (folder,) = (tmp_path / 'cache').iterdir()
    shutil.rmtree(folder)
    with owned(folder):  # another process fills it
        with pytest.warns(UserWarning, match='kept in memory'):
            got = extract_features(model, tiles, cache=tmp_path / 'cache')
        assert [p.name for p in folder.iterdir()] == [LOCK]
    assert torch.equal(got.cls, true)
    again = extract_features(model, tiles, cache=tmp_path / 'cache')
    assert torch.equal(again.cls, true)


def test_no_room_for_features_or_pixels_is_an_error(tmp_path, monkeypatch):
    def full(fd, start, size):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(OSError, match='cls.npy: needs .* are free'):
        with FeatureColumns(100, tmp_path / 'features') as columns:
            columns.add(dict(cls=torch.zeros(10, 4)))
    with pytest.raises(OSError, match='needs .* are free'):
        cache_tiles(folder_tiles(draw(tmp_path / 'tiles'), 1.0), tmp_path / 'cache')


def test_a_decoded_cache_is_of_the_pixels(tmp_path):
    tiles = folder_tiles(draw(tmp_path / 'tiles'), 1.0)
    cached = cache_tiles(tiles, tmp_path / 'cache')
    moved = folder_tiles(shutil.copytree(tmp_path / 'tiles', tmp_path / 'moved'), 1.0)
    assert cache_tiles(moved, tmp_path / 'cache').file == cached.file
    file = tmp_path / 'tiles' / 'field' / 'field_0.png'
    s = file.stat()
    data = bytearray(file.read_bytes())
    Image.fromarray(255 - np.array(Image.open(file))).save(file)
    os.utime(file, ns=(s.st_atime_ns, s.st_mtime_ns))
    assert bytes(data) != file.read_bytes()
    other = cache_tiles(tiles, tmp_path / 'cache')
    assert torch.equal(other.image(0), tiles.image(0)) and other.file != cached.file


@pytest.mark.parametrize('name', ['pixels', 'untrained', 'hand-made features'])
def test_a_model_called_like_a_baseline_keeps_its_name(name, tmp_path):
    (tmp_path / name).mkdir()
    save_satdino(SatViT(VIT), tmp_path / name / 'model.safetensors')
    who = contenders(tmp_path / name)
    names = [w.name for w in who]
    assert len(set(names)) == len(names) and names[0] == name and f'{name} (baseline)' in names
    assert isinstance(who[0].models[0], SatViT)


def test_names_of_folders_as_the_shell_completes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(by_name(['runs/a/', 'runs/b//'])) == ['a', 'b']
    assert model_name('.') == tmp_path.name and model_name('runs/a/model.safetensors') == 'a'
    assert model_name('timm:resnet18') == 'timm:resnet18'


def test_a_mistyped_folder_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    def network(*args, **kw):
        raise AssertionError('asked the Hub')

    monkeypatch.setattr('satdino_nb.engine.weights.hf_hub_download', network)
    monkeypatch.chdir(tmp_path)
    for name in ('runs/frist', 'owner/name'):
        with pytest.raises(FileNotFoundError, match=f'hf-hub:{name}'):
            find_weights(name)
    with pytest.raises(AssertionError, match='asked the Hub'):
        find_weights('hf-hub:owner/name')


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('token', [False, True])
def test_a_plain_vit_begins_a_run(wrapped, token, tmp_path):
    net = VisionTransformer(16, 8, embed_dim=32, depth=1, num_heads=2, num_classes=7 * (not token))
    state = net.state_dict()
    if wrapped:  # as DINO's training checkpoints
        state = {'teacher': {f'module.backbone.{k}': v for k, v in state.items()}}
    torch.save(state, tmp_path / 'plain.pth')
    vit = replace(VIT, gsd_token=token)
    draw(tmp_path / 'tiles')
    start = initial_backbone(tmp_path / 'plain.pth', vit, normalisation=SatViT(VIT).normalisation)
    assert torch.equal(start.blocks[0].attn.qkv.weight, net.blocks[0].attn.qkv.weight)
    c = config(tmp_path, init=str(tmp_path / 'plain.pth'), gamma=0.1 * token)
    run = pretrain(replace(c, vit=vit))
    assert run.model.config.gsd_token == token and run.model.normalisation.mean[0] < 0.5


def test_a_missing_gsd_is_said_before_images_are_read(tmp_path, monkeypatch):
    draw(tmp_path / 'tiles')
    monkeypatch.setattr('satdino_nb.engine.loading.check_images', None)  # would be a TypeError
    with pytest.raises(ValueError, match='--gsd'):
        pretrain(replace(config(tmp_path), gsd=None))


def test_a_run_says_its_processes(tmp_path, capsys):
    draw(tmp_path / 'tiles')
    pretrain(config(tmp_path))
    assert '1 process (cpu)' in capsys.readouterr().out


def test_threads_of_one_program_share_no_folder(tmp_path):
    said = []

    def second():
        try:
            with owned(tmp_path):
                said.append('in')
        except FolderInUseError:
            said.append('refused')

    with owned(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        other.join()
    assert said == ['refused']


TURNS = """
import sys, time
from pathlib import Path
from satdino_nb.engine.folders import FolderInUseError, owned
folder, log, me = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(log / f'ready {me}').touch()
while not (log / 'go').exists():
    time.sleep(0.005)
try:
    with owned(folder):
        (folder / 'begun').open('x').close()  # fails where somebody else is in
        time.sleep(0.3)
        (folder / 'begun').unlink()
except FolderInUseError as e:
    assert 'is writing there' in str(e), e
    sys.exit(3)
"""


def at_once(tmp_path, arguments):
    "Codes and errors of Python programs that begin together."
    (tmp_path / 'log').mkdir()
    running = [
        subprocess.Popen([sys.executable, '-c', *a], stderr=subprocess.PIPE, text=True)
        for a in arguments
    ]
    while len(list((tmp_path / 'log').glob('ready *'))) < len(running):
        if any(p.poll() is not None for p in running):
            break
        time.sleep(0.02)
    (tmp_path / 'log' / 'go').touch()
    said = [p.communicate(timeout=600)[1] for p in running]
    return [p.returncode for p in running], said


def test_of_processes_that_begin_together_one_writes(tmp_path):
    each = [[TURNS, str(tmp_path / 'out'), str(tmp_path / 'log'), str(i)] for i in range(4)]
    codes, said = at_once(tmp_path, each)
    assert 0 in codes and set(codes) <= {0, 3}, said
    assert list((tmp_path / 'out').iterdir()) == []


EXTRACT = """
import sys, time, warnings
from pathlib import Path
import numpy as np
from satdino_nb.engine.extraction import extract_features
from satdino_nb.engine.tiles import folder_tiles
from satdino_nb.vit import load_satdino
folder, me = Path(sys.argv[1]), sys.argv[2]
model = load_satdino(folder / 'model.safetensors', verbose=False)
tiles = folder_tiles(folder / 'tiles', 1.0)
(folder / 'log' / f'ready {me}').touch()
while not (folder / 'log' / 'go').exists():
    time.sleep(0.005)
warnings.simplefilter('ignore')
found = extract_features(model, tiles, batch_size=2, device='cpu', cache=folder / 'cache')
np.save(folder / f'{me}.npy', found.cls.numpy())
"""


@pytest.mark.slow
def test_two_processes_extract_into_one_cache(tmp_path):
    tiles = folder_tiles(draw(tmp_path / 'tiles'), 1.0)
    torch.manual_seed(0)
    save_satdino(SatViT(VIT), tmp_path / 'model.safetensors')
    codes, said = at_once(tmp_path, [[EXTRACT, str(tmp_path), str(i)] for i in range(2)])
    assert codes == [0, 0], said
    model = load_satdino(tmp_path / 'model.safetensors', verbose=False)
    true = extract_features(model, tiles, batch_size=2, device='cpu').cls
    kept = extract_features(model, tiles, device='cpu', cache=tmp_path / 'cache').cls
    assert torch.allclose(kept, true, atol=1e-5)
    for i in range(2):
        assert np.allclose(np.load(tmp_path / f'{i}.npy'), true.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits the size of files')
@pytest.mark.parametrize('what', ['features', 'pixels'])
def test_a_file_that_may_not_grow_is_a_message(what, tmp_path):
    "A limit of the system in place of a full disk: nothing ends by a signal."
    draw(tmp_path / 'tiles')
    features = "FeatureColumns(9000, 'out').add(dict(cls=torch.zeros(10, 64)))"
    pixels = "cache_tiles(folder_tiles('tiles', 1.0), 'out')"
    code = (
        'import resource, torch\n'
        'from satdino_nb.engine.extraction import FeatureColumns\n'
        'from satdino_nb.engine.tiles import cache_tiles, folder_tiles\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n'
        f'try:\n    {features if what == "features" else pixels}\n'
        "except OSError as e:\n    print('said', e)\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    assert 'said' in done.stdout and ('needs' in done.stdout or 'large' in done.stdout)


@pytest.mark.parametrize('how', ['gone', 'cut'])
def test_a_cache_whose_pixels_are_gone_is_written_anew(how, tmp_path):
    tiles = folder_tiles(draw(tmp_path / 'tiles'), 1.0)
    file = cache_tiles(tiles, tmp_path / 'cache').file
    if how == 'gone':
        file.unlink()
    else:
        os.truncate(file, 1000)
    again = cache_tiles(tiles, tmp_path / 'cache')
    last = len(tiles) - 1
    assert torch.equal(again.image(last), tiles.image(last))


def test_a_tilde_that_no_shell_has_expanded_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / 'tiles')
    for out in ('~/run', '~nobody-is-called-so/run'):
        with pytest.raises(ValueError, match='nothing expands'):
            pretrain(replace(config(tmp_path), out=type(tmp_path)(out)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['tiles']
    (tmp_path / '~').mkdir()  # somebody means it
    with owned('~/run'):
        pass


def test_a_link_to_a_folder_is_the_folder(begun, copied, tmp_path):
    (tmp_path / 'link').symlink_to(copied / 'tiles')
    run = load_run(copied / 'run')
    train, held = tiles_of_run(copied / 'run', run.config, tmp_path / 'link')
    assert len(train) == 12 and len(held) == 4
    with pytest.raises(ValueError, match='inside of the data'):
        pretrain(replace(config(copied), out=tmp_path / 'link' / 'out'))


def test_a_head_that_is_not_asked_stays_as_it_is():
    "Weight decay of timm's optimisers; of a run, whose loss trains it, it decays."
    model = SatViT(VIT)
    before = model.gsd_head.weight.clone()
    optimiser = create_optimizer_v2(model, 'adamw', lr=0.1, weight_decay=0.5)
    model(torch.zeros(2, 3, 16, 16)).square().sum().backward()
    optimiser.step()
    assert torch.equal(model.gsd_head.weight, before)
    assert 'gsd_head.weight' in model.no_weight_decay()
    student = SatDINO(SatViT(VIT), DINOHead(32, 8)).student
    groups = param_groups(student)
    (scale,) = {
        g['wd_scale'] for g in groups for p in g['params'] if p is student.backbone.gsd_head.weight
    }
    assert scale == 1.0


def test_a_run_folder_without_its_parts_is_named(copied):
    (copied / 'run' / 'metrics.jsonl').unlink()
    assert load_run(copied / 'run').metrics == []
    (copied / 'run' / 'model.safetensors').unlink()
    with pytest.raises(OSError, match='model.safetensors'):
        load_run(copied / 'run')
    (copied / 'run' / 'config.json').write_text('{"steps": 2, "stepz": 3}')
    with pytest.raises(ValueError, match="config.json: no setting 'stepz'; did you mean"):
        load_run(copied / 'run')
