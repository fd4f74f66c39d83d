"""An explorer's answers by heart: real pixels of two places, and a model that is known.

The model says 1.1 times the true GSD, attends to one patch, and finds nothing to say about GSDs
where `plain`. Each question is noted in `asked`.
"""

import io

import numpy as np
from PIL import Image

from satdino_nb.engine.crop_pictures import as_picture, caption, network_input, shrink
from satdino_nb.engine.crop_state import CropState, sample_crops, state_code
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
        return dict(name=name, hw=list(tile.image.shape[-2:]), gsd=tile.gsd, scene=scene)

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
        picture = as_picture(network_input(state.tile, state.crop))
        reply = dict(caption=caption(state), gsd=state.gsd, code=state_code(state))
        return reply, [encoded(picture, 'PNG', compress_level=1)]

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
        picture = Image.new('RGB', (args['out'],) * 2, '#447755')
        return reply, [encoded(picture, 'PNG')]

    def neighbours(self, place, box, out, k):
        rows = [
            dict(i=i, name=f'tile {i}', gsd=0.5 * n, distance=0.01 * n, label=LABELS[i % 3])
            for n, i in enumerate(NEAR, 1)
        ]
        return dict(rows=rows), [self.picture(i) for i in NEAR]

    def map(self):
        xy = np.array([[i % 4, i // 4] for i in range(12)], float)
        xy = (xy / 3 + [0, 1 / 6]) * 65535
        codes = np.array([i % 3 for i in range(12)], np.uint8).tobytes()
        reply = dict(n=12, caption='a grid; distances mean nothing', classes=LABELS)
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
