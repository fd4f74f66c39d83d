"""The reader of scale that ships, fitted, and what it is worth on pictures that it has not seen.

    python bench/scale_reader.py --mixture mixture --shared path/to/data \\
        --reader data_samples/models/satdino-nano.scale \\
        --out bench/results/scale_reader.json

fits on tables of `bench/mixture.py` (training lists and drawn scenes; files that are windows of one
picture are left out together) and asks about the samples, tiles of EuroSAT's training list that
were kept out (the network has seen them), the building pyramid, drawn textures without a scale, and
pictures through microscopes, which have none in metres and should get no answer. Other drawn
textures are given to the reader as examples of pictures without a scale; microscopes are not.
"""

from pathlib import Path

import common
import numpy as np

from satdino_nb.data import DatasetTiles, Tiles, open_tiles, sample_tiles
from satdino_nb.engine.extraction import extract_features, weights_hash
from satdino_nb.engine.scale_reader import fit_reader, read_scale, save_reader
from satdino_nb.readout import risk_coverage, score_gsd
from satdino_nb.scenes import scene
from satdino_nb.vit import load_satdino


def some(tiles: Tiles, n: int, seed: int = 0) -> Tiles:
    "At most `n` tiles, drawn."
    drawn = np.random.default_rng(seed).permutation(len(tiles))[:n]
    return tiles.subset(sorted(drawn.tolist()))


def textures(n: int, seed: int) -> Tiles:
    "Textures alike at every scale, 'drawn' at 0.3 to 10 m."
    gsds = np.exp(np.random.default_rng(seed).uniform(np.log(0.3), np.log(10), n))
    pictures = [scene('fractal', seed + i, g, 96).image for i, g in enumerate(gsds)]
    return DatasetTiles(pictures, gsds.tolist())


def pyramid(folder: Path) -> Tiles:
    "The building pyramid, its GSD by zoom."
    gsd = {'z19': 0.2986, 'z20': 0.1493, 'z21': 0.0746}
    files = [(f, gsd[z]) for z in gsd for f in sorted((folder / z / 'images').iterdir())]
    return Tiles([f for f, _ in files], [g for _, g in files])


def measured(reader, model, tiles: Tiles) -> dict:
    "Share answered, and where the scale is known what the answers are worth."
    f = extract_features(model, tiles, reader.size)
    answers = read_scale(reader, getattr(f, reader.token))
    out = dict(pictures=len(f), answered=float(answers.answered.mean()))
    true = f.gsd.numpy()
    if not np.isfinite(true).all():
        return out
    held = (answers.low <= true) & (true <= answers.high)
    result = score_gsd(answers.gsd, true, answers.octaves)
    yes = answers.answered
    relative = np.abs(answers.gsd / true - 1)
    out |= dict(
        intervals_that_hold=float(held.mean()),
        of_answered=float(held[yes].mean()) if yes.any() else None,
        median_relative_error=float(np.median(relative)),
        of_answered_error=float(np.median(relative[yes])) if yes.any() else None,
    )
    gain = risk_coverage(result.errors, result.uncertainty).gain
    return out | dict(gain_of_abstaining_octaves=[gain.value, gain.low, gain.high])


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--mixture', type=Path, required=True)
    parser.add_argument('--shared', type=Path, required=True)
    parser.add_argument('--model', default='satdino-nano')
    parser.add_argument('--reader', type=Path, required=True)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    model = load_satdino(args.model)
    size = model.config.img_size
    eurosat = some(open_tiles(args.mixture / 'eurosat.csv'), 3000)
    fitted = [
        eurosat.subset(range(0, len(eurosat), 2)),
        some(open_tiles(args.mixture / 'ucmerced.csv'), 2500),
        open_tiles(args.mixture / 'scenes.csv'),
    ]
    found = [extract_features(model, tiles, size) for tiles in fitted]
    tokens = np.concatenate([f.gsd_token.numpy() for f in found])
    gsd = np.concatenate([f.gsd.numpy() for f in found])
    places = [path for f in found for path in f.paths]
    blank = extract_features(model, textures(200, 90_000), size).gsd_token
    reader = fit_reader(
        tokens,
        gsd,
        places,
        scaleless=blank,
        most=2500,
        token='gsd_token',
        size=size,
        model=weights_hash(model),
    )
    save_reader(reader, args.reader)
    microscopes = sorted(
        f
        for f in (args.shared / 'microscopy').rglob('*')
        if f.suffix.lower() in ('.png', '.jpg') and 'mask' not in str(f)
    )
    sets = {
        'samples, train': sample_tiles('train'),
        'samples, test': sample_tiles('test'),
        'EuroSAT, training list, kept out': eurosat.subset(range(1, len(eurosat), 2)),
        'building pyramid': pyramid(args.shared / 'buildings_pyramid'),
        'drawn textures without a scale': textures(100, 7000),
        'microscopes': Tiles(microscopes, [None] * len(microscopes)),
    }
    rows = {name: measured(reader, model, tiles) for name, tiles in sets.items()}
    for name, row in rows.items():
        print(name, row)
    facts = dict(fitted=len(gsd), from_m=reader.readout.low, to_m=reader.readout.high)
    common.write_json(args.out, dict(reader=facts, level=reader.level, sets=rows))


if __name__ == '__main__':
    main()
