"""An explorer's answers by heart, and a browser's page that asks them: what its tests share.

Its pixels are real, those of two places, and its model is known.
It says 1.1 times the true GSD, attends to one patch, and finds nothing to say about GSDs
where `plain`. Each question is noted in `asked`; a collection is under way for `computing` more
questions.
"""

import base64
import io
import json
from dataclasses import replace

import numpy as np

from satdino_nb.engine.crop_pictures import caption, network_input, shrink
from satdino_nb.engine.crop_state import (
    CropState,
    gsd_histogram,
    histogram_words,
    sample_crops,
    state_code,
)
from satdino_nb.engine.tile_answers import packed_picture
from satdino_nb.views import ViewConfig

GRID = (8, 8)
SPOT = (2, 5)  # the patch that the CLS token attends to
NEAR = [3, 7, 11]  # rows of the neighbours
LABELS = ['<img src=x onerror=alert(1)>', 'port', 'town']  # names stay text


def encoded(picture, kind='JPEG', **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class Canned:
    "Has `answer(request)`, as the explorer's view asks it, and `setup`."

    def __init__(self, tiles, model=True, collection=True, plain=False):
        self.tiles, self.plain, self.asked, self.broken = tiles, plain, [], set()
        self.computing, self.layouts = 0, ['grid']
        names = list(tiles)
        self.rows = [(names[i % len(names)], i) for i in range(12)]
        self.setup = dict(
            version=1,
            least=8,
            outs=[16, 448],
            places=[self.place(name, scene=i == 0) for i, name in enumerate(names)],
            config=dict(global_size=224, local_size=96, n_global=2, n_local=10),
            model=dict(
                name='known model',
                answers_gsd=not plain,
                gsd_range=[0.1, 10],
                tokens=['cls'] if plain else ['cls', 'gsd'],
                layers=12,
                heads=3,
                grid=list(GRID),
            )
            if model
            else None,
            collection=dict(n=12, method='grid', params='4 x 3', caption='a grid')
            if collection
            else None,
        )

    def place(self, name, scene):
        tile = self.tiles[name]
        why = '' if scene else 'a photograph'
        return dict(name=name, hw=list(tile.image.shape[-2:]), gsd=tile.gsd, scene=scene, why=why)

    def state(self, place, box, out, **_):
        return CropState(self.tiles[place], tuple(box), out, name=place)

    def answer(self, request):
        self.asked.append(dict(request))
        args = dict(request)
        kind = args.pop('kind')
        if kind in self.broken:
            return dict(kind='error', message=f'{kind} <b>failed</b> on purpose'), []
        return getattr(self, kind)(**args)

    def overview(self, place, most):
        picture = shrink(self.tiles[place], most)
        return dict(hw=[picture.height, picture.width]), [encoded(picture, quality=88)]

    def input(self, **args):
        state = self.state(**args)
        hw, packed = packed_picture(network_input(state.tile, state.crop))
        return dict(hw=hw, caption=caption(state), gsd=state.gsd, code=state_code(state)), [packed]

    def views(self, place, seed):
        tile = self.tiles[place]
        hw = tuple(tile.image.shape[-2:])
        reply = {}
        for how in ('uniform', 'random'):
            crops = sample_crops(hw, ViewConfig(sampling=how), seed)
            reply[how] = [
                dict(
                    box=[c.top, c.left, c.height, c.width],
                    out=c.out_hw[0],
                    gsd=c.gsd(tile.gsd),
                    kind='local' if i > 1 else 'global',
                )
                for i, c in enumerate(crops)
            ]
        return reply, []

    def histogram(self, place, seed):
        state = self.state(place, [0, 0, SIDE, SIDE], 16)
        edges, counts = gsd_histogram(replace(state, seed=seed))
        return dict(edges=edges, words=histogram_words(counts, seed), **counts), []

    def model(self, token, layer, head, mass, patch, **args):
        truth = self.state(**args).gsd
        estimate = dict(gsd=1.1 * truth, low=0.8 * truth, high=1.5 * truth, level=0.8)
        reply = dict(truth=truth, estimate=estimate, grid=list(GRID), caption='by heart')
        if self.plain:
            reply |= dict(estimate=None, why='a plain ViT has no GSD head')
        if token == 'none':
            return reply, []
        row, column = patch if token == 'similarity' else SPOT
        y, x = np.mgrid[: GRID[0], : GRID[1]]
        values = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 6)
        reply |= dict(range=[0.0, 0.2], unit='cosine' if token == 'similarity' else 'attention')
        return reply, [(255 * values).round().astype(np.uint8).tobytes()]

    def rendered(self, **args):
        reply, _ = self.input(**args)
        return reply, [bytes([0x44, 0x77, 0x55]) * args['out'] ** 2]

    def under_way(self):
        "Words while the collection is computed."
        self.computing -= self.computing > 0
        return f'features of {8 - self.computing} of 12 tiles' if self.computing else ''

    def neighbours(self, place, box, out, k):
        if pending := self.under_way():
            return dict(rows=[], pending=pending), []
        rows = [
            dict(i=i, name=f'tile {i}', gsd=0.5 * n, distance=0.01 * n, label=LABELS[i % 3])
            for n, i in enumerate(NEAR, 1)
        ]
        return dict(rows=rows, here=[0.5, 0.5]), [self.picture(i) for i in NEAR]

    def map(self, have=''):
        if pending := self.under_way():
            return dict(n=12, method='', pending=pending), []
        method = self.layouts[0]
        if method == have and len(self.layouts) > 1:
            method = self.layouts.pop(0) and self.layouts[0]  # a better one, meanwhile
        pending = 'a better one' if len(self.layouts) > 1 else ''
        if method == have:
            return dict(n=12, method=method, pending=pending), []
        xy = np.array([[i % 4, i // 4] for i in range(12)], float)
        xy = (xy / 3 + [0, 1 / 6]) * 65535
        codes = np.array([i % 3 for i in range(12)], np.uint8).tobytes()
        caption = 'a grid; distances mean nothing'
        reply = dict(n=12, method=method, pending=pending, caption=caption, classes=LABELS)
        return reply, [xy.round().astype('<u2').tobytes(), codes]

    def picture(self, i):
        name, _ = self.rows[i]
        return encoded(shrink(self.tiles[name], 96))

    def thumb(self, i):
        return dict(name=f'tile {i}', gsd=0.5, label=LABELS[i % 3]), [self.picture(i)]

    def place_of(self, i):
        name, _ = self.rows[i]
        return dict(name=name, box=[10 * i, 20, 120, 120], out=64), []

    def save(self, place, box, out):
        return dict(path=f'{place}.png'), []


def big_file(path):
    "A georeferenced file of 10,000 x 10,000 pixels at 0.5 m, 300 MB when decoded."
    import rasterio

    rows, columns = np.mgrid[:500, :500] // 4
    pattern = np.stack([rows, columns, rows + columns]).astype(np.uint8) + 1
    where = rasterio.transform.from_origin(3e5, 1e5, 0.5, 0.5)
    shape = dict(driver='GTiff', width=10_000, height=10_000, count=3, dtype='uint8')
    how = dict(tiled=True, blockxsize=512, blockysize=512, compress='deflate', zlevel=1)
    with rasterio.open(path, 'w', crs='EPSG:32636', transform=where, **shape, **how) as out:
        block = np.pad(pattern, ((0, 0), (0, 12), (0, 12)), mode='wrap')
        for _, window in out.block_windows(1):
            out.write(block[:, : window.height, : window.width], window=window)
    return path


PAGE = """<!doctype html><meta charset="utf-8"><style>body{{margin:8px}}{css}</style>
<div id="here"></div>
<script type="module">{js}
const state = {state};
const listeners = [];
window.setFromKernel = (changes) => {{
  Object.assign(state, changes);
  listeners.forEach((f) => f(Object.keys(changes)));
}};
window.pageState = state;
window.end = mount(document.getElementById('here'), {{
  setup: {setup},
  live: true,
  get: (name) => structuredClone(state[name]),
  set: (changes) => Object.assign(state, changes),
  onChange: (f) => {{ listeners.push(f); return () => {{}}; }},
  ask: async (kind, args) => {{
    const [reply, buffers] = await window.askPython({{ kind, ...args }});
    return {{ reply, buffers: buffers.map(decoded) }};
  }},
}});
</script>"""


def plain_page(page, answers, state):
    "Show the explorer in a page without Jupyter; `answers` are asked in this process."
    from satdino_nb.engine.explorer_view import explorer_js, static_text

    def ask(request):
        reply, buffers = answers.answer(request)
        if reply.get('kind') == 'error':
            reply = dict(error=reply['message'])
        return [reply, [base64.b64encode(b).decode() for b in buffers]]

    page.expose_function('askPython', ask)
    text = dict(css=static_text('explorer.css'), js=explorer_js())
    more = dict(state=json.dumps(state), setup=json.dumps(answers.setup).replace('<', '\\u003c'))
    page.set_content(PAGE.format(**text, **more))
    page.wait_for_function("() => document.querySelector('.satdino-x')?.dataset.shown")


SIDE = 200  # of the crop, in pixels of the source
START = dict(
    place='field',
    box=[150, 200, SIDE, SIDE],
    out=64,
    sampling='none',
    seed=0,
    square=True,
    token='none',
    layer=-1,
    head=-1,
    mass=0.0,
    opacity=0.6,
    patch=[],
)
GSD = 0.5


def two_tiles():
    "Two places that are told apart: 500 x 600 pixels at 0.5 m/px, 300 x 400 at 2 m/px."
    import torch

    from satdino_nb.data import Tile

    y, x = torch.meshgrid(torch.arange(500), torch.arange(600), indexing='ij')
    image = torch.stack([40 + 120 * ((x // 40 + y // 40) % 2), y // 2, x // 3]).byte()
    return {'field': Tile(image, GSD), 'town': Tile(image[:, :300, :400].flip(0).contiguous(), 2.0)}


def data(page):
    "What the explorer says of itself."
    return page.locator('.satdino-x').evaluate('e => ({...e.dataset})')


def until(page, name, value):
    "Wait until the explorer says so."
    script = "([k, v]) => document.querySelector('.satdino-x').dataset[k] === v"
    page.wait_for_function(script, arg=[name, str(value)])


def box(page):
    return [int(v) for v in data(page)['box'].split()]


def settled(page):
    "Wait until the input that is shown, and the answer if there is a model, are of this box."
    # what was done just now is written into the page in the next frame
    page.evaluate('() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))')
    page.wait_for_function(
        """() => { const d = document.querySelector('.satdino-x').dataset;
             return d.overview === d.place && d.shown === d.box && !d.computing
                    && (!('answered' in d) || d.answered === d.box)
                    && d.drawn === d.seed && d.histogram === d.seed }"""
    )


def at(page, top, left, width=None):
    "Where a pixel of the source, so many pixels wide, is on the page, in the overview."
    stage = page.get_by_role('application', name='crop frame')
    stage.scroll_into_view_if_needed()
    b = stage.bounding_box()
    scale = b['width'] / (width or (600 if data(page)['place'] == 'field' else 400))
    return b['x'] + left * scale, b['y'] + top * scale


def drag(page, start, end, steps=8):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=steps)
    page.mouse.up()
