"""The explorer without a front end: every model on every kind of source.

What a user of a notebook gets of each pair is asked as the browser asks it, and held against a
computation that knows no explorer.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Tile, sample_tiles
from satdino_nb.engine.patches import patch_similarity
from satdino_nb.engine.rendered import scene_tile
from satdino_nb.engine.tile_answers import look_at
from satdino_nb.explorer import CropState, Explorer, network_input
from satdino_nb.views import ViewConfig
from satdino_nb.vit import load_satdino, predict_gsd

pytest.importorskip('ipywidgets')

OUT, BOX, GSD = 64, (40, 60, 160, 160), 0.5


@pytest.fixture(scope='module')
def models():
    "None, the one that ships, and a plain timm ViT of the same input size, untrained."
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    shape = dict(img_size=OUT, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    plain = timm.create_model('vit_tiny_patch16_224', **shape).eval()
    return dict(none=None, nano=load_satdino('satdino-nano', verbose=False), timm=plain)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    "By kind: what is given to `Explorer`, further arguments, and the pixels and GSD behind it."
    folder = tmp_path_factory.mktemp('sources')
    picture = sample_tiles('place')[1].image[:, :300, :400].contiguous()
    pixels = picture.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / 'own.png')
    Image.fromarray(pixels).save(folder / 'photo.jpg', quality=95)
    (folder / 'table.csv').write_text(f'path,gsd\nown.png,{GSD}\n')
    drawn = scene_tile('residential', 3, gsd=GSD, size=300)
    made = dict(
        scene=(drawn, {}, drawn.image),
        png_of_a_table=(folder / 'table.csv', {}, picture),
        jpeg_with_gsd_given=(folder / 'photo.jpg', dict(gsd=GSD), read(folder / 'photo.jpg')),
        tile_in_memory=({'own': Tile(picture, GSD)}, {}, picture),
    )
    try:
        import rasterio
    except ImportError:
        return made
    where = rasterio.transform.from_origin(3e5, 1e5, GSD, GSD)
    shape = dict(driver='GTiff', width=400, height=300, count=3, dtype='uint8')
    with rasterio.open(folder / 'a.tif', 'w', crs='EPSG:32636', transform=where, **shape) as file:
        file.write(picture.numpy().clip(1))
    return made | dict(geotiff=(folder / 'a.tif', {}, picture.clamp(min=1)))


def read(path):
    "A picture's pixels, uint8 `(3, H, W)`."
    return torch.tensor(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)


def resampled(pixels, box):
    "A crop as torch resizes it, float `(3, OUT, OUT)`, 0 to 1."
    top, left, h, w = box
    part = pixels[None, :, top : top + h, left : left + w].float()
    made = torch.nn.functional.interpolate(part, size=OUT, mode='bicubic', antialias=True)
    return made[0].clamp(0, 255) / 255


KINDS = ('scene', 'png_of_a_table', 'jpeg_with_gsd_given', 'tile_in_memory', 'geotiff')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['none', 'nano', 'timm'])
def test_every_model_on_every_source(name, kind, models, sources, tmp_path):
    if kind not in sources:
        pytest.skip('rasterio is not installed')
    source, more, pixels = sources[kind]
    model = models[name]
    explorer = Explorer(source, model, out=OUT, **more)
    answers, state = explorer.answers, explorer.state
    state.box = BOX
    crop = dict(place=state.name, box=list(BOX), out=OUT)
    told, (raw,) = answers.answer(dict(kind='input', **crop))
    gsd = GSD * BOX[2] / OUT
    assert told['gsd'] == pytest.approx(gsd, rel=2e-3) == state.now.gsd
    assert told['footprint'] == pytest.approx([80, 80], rel=2e-3) and not told['upsampled']
    assert f'effective GSD {state.now.gsd:.3g} m/px' in told['caption']
    assert '160 x 160 px -> 64 x 64 px' in told['caption']
    x = network_input(state.now.tile, state.now.crop)
    exact = np.frombuffer(raw, np.uint8).reshape(OUT, OUT, 3)
    wanted = resampled(pixels, BOX)
    assert torch.allclose(x, wanted, atol=1e-5)
    assert np.abs(exact / 255 - x.permute(1, 2, 0).numpy()).max() < 0.51 / 255
    views, _ = answers.answer(dict(kind='views', place=state.name, seed=5))
    for how in ('uniform', 'random'):
        assert len(views[how]) == ViewConfig().n_global + ViewConfig().n_local == 12
        for view in views[how]:
            top, left, h, w = view['box']
            assert 0 <= top and top + h <= pixels.shape[1]
            assert 0 <= left and left + w <= pixels.shape[2]
            assert view['gsd'] == pytest.approx(
                GSD * 2 / (view['out'] / h + view['out'] / w), rel=2e-3
            )
    assert views['uniform'] != views['random']
    told_again = eval(told['code'], dict(CropState=CropState, tiles=state.tiles))
    assert told_again == state.now
    assert torch.equal(network_input(told_again.tile, told_again.crop), x)
    picture = explorer.picture_bundle()
    assert picture['text/plain'] == told['caption'] and len(picture['image/jpeg']) > 5000
    ask_the_model(answers, name, model, crop, x)
    answers.folder = tmp_path
    saved, _ = answers.answer(dict(kind='save', **crop))
    with Image.open(saved['path']) as file:
        assert float(file.text['gsd']) == pytest.approx(state.now.gsd, rel=1e-8)
        assert file.tobytes() == raw
    explorer.close()


def ask_the_model(answers, name, model, crop, x):
    "Estimate or refusal, attention and likeness of patches; `x`: the network's input."
    question = dict(kind='model', token='none', layer=-1, head=-1, mass=0.0, patch=[], **crop)
    if name == 'none':
        assert answers.setup['model'] is None
        with pytest.raises(ValueError, match='no model to ask'):
            answers.answer(question)
        return
    told, _ = answers.answer(question)
    assert told['truth'] == pytest.approx(1.25, rel=2e-3) and told['grid'] == [8, 8]
    tokens = answers.setup['model']['tokens']
    if name == 'timm':
        assert told['estimate'] is None and 'no GSD head' in told['why']
        assert tokens == ['cls'] and not answers.setup['model']['answers_gsd']
    else:
        assert tokens == ['cls', 'gsd']
        said = told['estimate']
        assert said['low'] < said['gsd'] < said['high'] and said['level'] == 0.9
        head = predict_gsd(model, model.normalisation(x[None])).item()
        assert look_at(model, x).gsd == pytest.approx(head, rel=1e-4)
        assert said['gsd'] == pytest.approx(head, rel=0.5)  # of a reader that is fitted to it
        small = dict(question, box=[40, 60, 30, 30])
        told, _ = answers.answer(small)  # enlarged: it abstains
        assert told['estimate'] is None and '30 px are enlarged to 64' in told['why']
    for token in tokens:
        told, (raw,) = answers.answer(question | dict(token=token))
        assert len(raw) == 64 and told['range'][0] < told['range'][1]
        assert token.upper() in told['caption']
    told, (raw,) = answers.answer(question | dict(token='similarity', patch=[2, 5]))
    with torch.inference_mode():
        known = answers.model.tokens(answers.model.normalisation(x[None]))
    wanted = patch_similarity(known, 2, 5)[0].numpy()
    low, high = told['range']
    got = low + np.frombuffer(raw, np.uint8).reshape(8, 8) / 255 * (high - low)
    assert np.abs(got - wanted).max() < 0.004 * (high - low) + 1e-4
    assert got[2, 5] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('name', ['photo.jpg', 'own.png'])
def test_a_picture_without_gsd_is_refused_by_name_and_says_what_to_give(sources, tmp_path, name):
    picture = Image.fromarray(sources['tile_in_memory'][2].permute(1, 2, 0).numpy())
    picture.save(tmp_path / name)
    with pytest.raises(ValueError, match=rf'{name[:-4]}: its GSD is not known.*gsd=0\.5'):
        Explorer(tmp_path / name)


def test_the_still_picture_is_of_the_crop(sources):
    "The picture without widgets is of this crop, at any source."
    for kind, (source, more, _) in sources.items():
        explorer = Explorer(source, out=OUT, **more)
        stills = []
        for box in (BOX, (0, 0, 90, 90)):
            explorer.state.box = box
            picture = explorer.still()
            buffer = io.BytesIO()
            picture.save(buffer, 'PNG')
            stills.append(buffer.getvalue())
        assert stills[0] != stills[1], kind
