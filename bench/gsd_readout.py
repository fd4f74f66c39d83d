"""GSD read-outs on a pyramid of map tiles, whose GSD is exact.

The pyramid is a folder with z19/images, z20/images, ... of web-mercator tiles NAME-x-y-z.png.

    python bench/gsd_readout.py --pyramid path/to/pyramid --out bench/results/gsd_readout.json

Every picture is read at the same number of pixels (--size), and none is ever enlarged, so that
neither the number of pixels nor interpolation tells the scale. A place is a tile of the coarsest
zoom with all that lies in it at finer ones; each place in turn is answered by read-outs fitted on
the others.
"""

import re
import time
from pathlib import Path

import common
import numpy as np
import torch

from satdino_nb.data import Tiles
from satdino_nb.features import extract_features, untrained
from satdino_nb.gsd import map_tile_gsd
from satdino_nb.intervals import over_seeds
from satdino_nb.readout import (
    MEASURES,
    bias_table,
    cross_compare,
    gsd_difference,
    image_statistics,
    readout_inputs,
    readout_record,
    readout_table,
    risk_coverage,
)
from satdino_nb.vit import load_satdino

GEOMETRIC = 'always the mean (geometric)'


def pyramid_tiles(folder: Path, coarsest: int) -> Tiles:
    """All tiles below `folder`, with exact GSDs.

    Each tile's place is the tile of zoom `coarsest` that it lies in.
    """
    rows = []
    for path in sorted(folder.glob('z*/images/*.png')):
        found = re.search(r'(\d+)-(\d+)-(\d+)\.png$', path.name)
        if not found:
            raise ValueError(f'{path}: its name does not end in x-y-z.png')
        x, y, z = map(int, found.groups())
        rows.append((path, map_tile_gsd(z, y), f'{x >> z - coarsest}-{y >> z - coarsest}', z))
    if not rows:
        raise ValueError(f'{folder}: no tiles z*/images/*.png below it')
    paths, gsds, places, zooms = zip(*rows)
    return Tiles(paths, gsds, places=places, labels=zooms)


def crops(tiles: Tiles, least: int, most: int, seed: int = 0) -> Tiles:
    """Square crops with sides log-uniform from `least` to `most` px.

    One of each finest tile, four times as many of a tile a zoom coarser, so that zooms are even.
    """
    rng, finest, rows = np.random.default_rng(seed), max(tiles.labels), []
    for i, zoom in enumerate(tiles.labels):
        for _ in range(4 ** (finest - zoom)):
            side = round(np.exp(rng.uniform(np.log(least), np.log(most))))
            rows.append((i, (*(int(v) for v in rng.integers(0, 256 - side + 1, 2)), side, side)))
    index, boxes = zip(*rows)
    out = tiles.subset(index)
    out.boxes = list(boxes)
    return out


def results_of(tiles: Tiles, models: dict, size: int, seeds: int) -> dict:
    "`GSDResult`s by name; a list of them, one for each seed, for untrained networks."
    folds, gsd, out = len(set(tiles.places)), None, {}
    compare = lambda inputs, head=None: cross_compare(inputs, gsd, tiles.places, folds, head=head)
    only = lambda results, name: {
        f'{name}: {k}': v for k, v in results.items() if not k.startswith('always')
    }
    for k, (name, model) in enumerate(models.items()):
        f = extract_features(model, tiles, size, device='cpu')
        gsd = f.gsd.numpy()
        if not k:
            out |= compare(
                {
                    'image statistics': image_statistics(tiles, size),
                    'whole spectrum': image_statistics(tiles, size, spectrum=True),
                }
            )
        inputs = {n: x for n, x in readout_inputs(f).items() if n != 'mean of patches'}
        out |= only(compare(inputs, f.gsd_estimate), name)
    first = next(iter(models.values()))
    for seed in range(seeds):
        f = extract_features(untrained(first, seed), tiles, size, device='cpu')
        inputs = {n: x for n, x in readout_inputs(f).items() if n != 'mean of patches'}
        for n, r in only(compare(inputs), 'untrained').items():
            out.setdefault(n, []).append(r)
    return out


def table(results: dict) -> str:
    "`readout_table`, with a row of the spread over seeds where there are several."
    lines = readout_table({n: r for n, r in results.items() if not isinstance(r, list)}).split('\n')
    for name, rs in results.items():
        if not isinstance(rs, list):
            continue
        spread = [over_seeds([r.numbers[m] for r in rs]) for m in MEASURES]
        cells = [
            f'{str(s).split(" (")[0]} ({str(s).split(" (")[1].split(", sd")[0]})' for s in spread
        ]
        lines.append(f'| {name}, {len(rs)} seeds | {" | ".join(cells)} |')
    return '\n'.join(lines)


def short(numbers: dict) -> dict:
    return {k: float(f'{v:.6g}') if isinstance(v, float) else v for k, v in numbers.items()}


def report(what: str, results: dict, main: str) -> tuple[str, dict]:
    "Markdown and what to keep of one set of results; `main`: name of the first model."
    single = {n: r for n, r in results.items() if not isinstance(r, list)}
    token = single[f'{main}: GSD token']
    gaps = {
        common.gap_name('GSD token', n): gsd_difference(token, single[n])
        for n in (GEOMETRIC, 'image statistics', 'whole spectrum', f'{main}: CLS token')
    }
    gaps[common.gap_name('image statistics', GEOMETRIC)] = gsd_difference(
        single['image statistics'], single[GEOMETRIC]
    )
    curves = {
        n: risk_coverage(r.errors, r.uncertainty, r.places)
        for n, r in single.items()
        if r.uncertainty is not None
    }
    text = [
        f'### {what}',
        table(results),
        'Differences in octaves, paired:',
        '\n'.join(f'- {n}: {g}' for n, g in gaps.items()),
        'Bias in octaves:',
        bias_table({n: single[n] for n in (GEOMETRIC, 'image statistics', f'{main}: GSD token')}),
        'Abstention (mean error less area under risk over coverage, octaves):',
        '\n'.join(
            f'- {n}: area {c.area.value:.3g}, best {c.best.mean():.3g}, '
            f'random {c.risk[-1]:.3g}; gain {c.gain}'
            for n, c in curves.items()
        ),
    ]
    kept = dict(
        images=len(token.true),
        gsd=[float(token.true.min()), float(token.true.max())],
        results=readout_record(single),
        untrained={
            n: [dict(numbers=readout_record({n: r})[n]['numbers']) for r in rs]
            for n, rs in results.items()
            if isinstance(rs, list)
        },
        differences_in_octaves={n: short(vars(g)) for n, g in gaps.items()},
        abstention={
            n: dict(
                area=short(vars(c.area)),
                gain=short(vars(c.gain)),
                **short(dict(best=float(c.best.mean()), random=float(c.risk[-1]))),
            )
            for n, c in curves.items()
        },
    )
    return '\n\n'.join(text), kept


def main():
    parser = common.parser(__doc__)
    parser.add_argument('--pyramid', type=Path, required=True)
    parser.add_argument(
        '--model', nargs='+', default=[], help='more models to ask, files or repository ids'
    )
    parser.add_argument(
        '--size', type=int, default=64, help='pixels of the input, the same for all; at most 128'
    )
    parser.add_argument('--seeds', type=int, default=3, help='untrained networks')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    if args.size > 128:
        parser.error('--size: at most 128, half of a tile, so that crops can be shrunk')
    torch.set_num_threads(1)
    start, machine = time.perf_counter(), common.machine_line('one thread')
    tiles = pyramid_tiles(args.pyramid, min(int(p.name[1:]) for p in args.pyramid.glob('z*')))
    models = {'satdino-nano': load_satdino('satdino-nano', verbose=False)} | {
        Path(m).stem: load_satdino(m, verbose=False) for m in args.model
    }
    half, to = 2 * args.size, f'to {args.size} px'
    sets = {
        f'whole tiles, 256 px {to}': tiles,
        f'crops of {half} px {to}': crops(tiles, half, half),
        f'crops of {args.size}-256 px {to}': crops(tiles, args.size, 256),
        f'crops of {half}-256 px {to}': crops(tiles, half, 256),
    }
    kept = {}
    for what, these in sets.items():
        text, kept[what] = report(
            what, results_of(these, models, args.size, args.seeds), 'satdino-nano'
        )
        print(text, '\n', flush=True)
    seconds = round(time.perf_counter() - start)
    print(f'{len(tiles)} tiles, {len(set(tiles.places))} places, {seconds} s')
    if args.out:
        settings = dict(
            size=args.size,
            seeds=args.seeds,
            crop_seed=0,
            tiles=len(tiles),
            places=len(set(tiles.places)),
            folds='each place in turn',
        )
        models = ' --model ' + ' '.join(args.model) if args.model else ''
        command = f'python bench/gsd_readout.py --pyramid PATH{models} --out FILE'
        common.write_json(
            args.out,
            dict(machine=machine, command=command, settings=settings, seconds=seconds, sets=kept),
        )


if __name__ == '__main__':
    main()
