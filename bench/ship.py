"""From a finished run to the model that ships: weights in 16 bits, settings, curves and card.

    python bench/ship.py runs/nano --name satdino-nano --results bench/results/satdino-nano

writes NAME.safetensors, NAME.json and README.md (a model card) into `data_samples/models`, and the
run's log, every tenth row of it, as metrics.csv beside the results. The card's numbers are those
of `reach.py`, `gsd_scenes.py` (gsd_scenes.json) and `learning_curve.py` (curve.jsonl) in
`--results`; `--weights-only` leaves the card for later, since those need the weights.
"""

import csv
import json
import math
from pathlib import Path

import common
import torch
from safetensors import safe_open

from satdino_nb.engine.report import read_results
from satdino_nb.pretrain import read_rows
from satdino_nb.vit import load_satdino, save_satdino

REPO = Path(__file__).resolve().parents[1]
SETS = {'eurosat': 'EuroSAT, given split', 'ucmerced': 'UC Merced', 'samples': 'samples'}
ROWS = (
    ('knn', 'k 20', 'accuracy', '20 neighbours'),
    ('scales', 'mean', 'accuracy', '20 neighbours, mean of four scales'),
    ('scales', 'all crossed', 'accuracy', 'every scale with every other'),
    ('linear', 'all labels', 'accuracy', 'linear probe'),
    ('logistic', 'all labels', 'accuracy', 'logistic regression'),
    ('few', '5 a class', 'accuracy', '5 labels a class'),
)
LOCAL = ('data', 'out', 'cache', 'resume')  # of one machine, nobody else's


def shipped_config(run: Path) -> dict:
    "The run's settings without the paths of the machine."
    config = json.loads((run / 'config.json').read_text())
    return {k: v for k, v in config.items() if k not in LOCAL}


def thinned(run: Path, out: Path, every: int = 10) -> None:
    "Every `every`-th row of the run's log as a table, numbers of five digits."
    rows = read_rows(run / 'metrics.jsonl')
    names = list(dict.fromkeys(k for row in rows for k in row))
    short = lambda v: f'{v:.5g}' if isinstance(v, float) else v
    with out.open('w', newline='') as f:
        table = csv.DictWriter(f, names, lineterminator='\n')
        table.writeheader()
        for row in [r for i, r in enumerate(rows) if i % every == 0 or 'knn' in r]:
            table.writerow({k: short(v) for k, v in row.items()})


def percent(row: dict) -> str:
    "A share in percent with its interval."
    value, low, high = (100 * row[k] for k in ('value', 'low', 'high'))
    if math.isnan(value):
        return 'not defined'
    return f'{value:.1f} ({low:.1f} to {high:.1f})'


def accuracy_table(rows: list[dict], name: str) -> str:
    "Protocols by models: accuracies, then the differences to `name` on the same images."
    models = list(dict.fromkeys(r['model'] for r in rows))
    lines = ['| | ' + ' | '.join(models) + ' |', '|---' * (len(models) + 1) + '|']
    for kind, what in (('value', ''), (f'difference to {name}', f', difference to {name}')):
        for *key, text in ROWS:
            found = {
                r['model']: percent(r)
                for r in rows
                if [r['protocol'], r['setting'], r['metric']] == key and r['kind'] == kind
            }
            if found:
                cells = ' | '.join(found.get(m, '') for m in models)
                lines.append(f'| {text}{what} | {cells} |')
    return '\n'.join(lines)


def gsd_table(found: dict) -> str:
    "Median relative error of the GSD, of land uses seen in training and of others."
    parts = []
    for what, one in found.items():
        if not (isinstance(one, dict) and 'results' in one):
            continue
        parts += [f'{what}, {one["images"]} scenes:', '']
        parts += ['| read-out | median relative error, % |', '|---|---|']
        for who, record in one['results'].items():
            parts.append(f'| {who} | {percent(record["numbers"]["median relative error"])} |')
        parts.append('')
    return '\n'.join(parts)


def curve_table(path: Path, every: int = 1) -> str:
    "Accuracy on held-out training tiles against samples seen, beside the opponents."
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = sorted((r for r in rows if 'samples' in r), key=lambda r: r['samples'])
    chosen = steps[::every] + ([] if (len(steps) - 1) % every == 0 else steps[-1:])
    named = [(r['opponent'], r) for r in rows if 'opponent' in r]
    named += [(f'{r["samples"]:,} samples', r) for r in chosen]
    lines = ['| | 20 neighbours, % | logistic regression, % |', '|---|---|---|']
    lines += [f'| {n} | {100 * r["knn"]:.1f} | {100 * r["logistic"]:.1f} |' for n, r in named]
    return '\n'.join(lines)


def results_text(folder: Path, name: str) -> str:
    "The card's section of results."
    parts = ['Percent; 95 % intervals over images in brackets (untrained: range over seeds).', '']
    for key, title in SETS.items():
        if (folder / key / 'results.json').is_file():
            rows = read_results(folder / key)['results']
            parts += [f'### {title}', '', accuracy_table(rows, name), '']
    scenes = json.loads((folder / 'gsd_scenes.json').read_text())
    parts += ['### GSD of drawn scenes from worlds not seen in training', '', gsd_table(scenes)]
    parts += ['### Accuracy against samples seen', '']
    parts += ['EuroSAT, tiles of the training list that the run held out:', '']
    parts += [curve_table(folder / 'curve.jsonl')]
    if not all((folder / key).is_dir() for key in SETS):
        parts += ['', 'Test lists are asked once, when the run is done; they have not been yet.']
    return '\n'.join(parts)


def card(run: Path, name: str, folder: Path, weights: Path, **said) -> str:
    "The model card of a finished run."
    config, last = shipped_config(run), read_rows(run / 'metrics.jsonl')[-1]
    steps, views = last['step'] + 1, config['views']
    share = lambda pair: f'{100 * pair[0]:.0f} to {100 * pair[1]:.0f} %'
    return (
        Path(__file__)
        .with_name('model_card.md')
        .read_text()
        .format(
            name=name,
            vit=config['vit'],
            views=views,
            config=config,
            cost=json.loads((folder / 'cost.json').read_text()),
            megabytes=weights.stat().st_size / 1e6,
            samples=steps * config['batch_size'],
            steps=steps,
            planned=config['steps'],
            coarse=100 * config['coarse'],
            local=share(views['local_scale']),
            global_=share(views['global_scale']),
            **said,
            results=results_text(folder, name),
        )
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('run', type=Path)
    parser.add_argument('--name', default='satdino-nano')
    parser.add_argument('--results', type=Path, required=True)
    parser.add_argument('--machine', default='Two CPU cores', help='what it was trained on')
    parser.add_argument('--tiles', default='44,923', help='training tiles, as the run logged them')
    parser.add_argument('--command', type=Path, help='file with the command line that trains it')
    parser.add_argument('--weights-only', action='store_true')
    parser.add_argument('--out', type=Path, default=REPO / 'data_samples/models')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.results.mkdir(parents=True, exist_ok=True)
    weights = args.out / f'{args.name}.safetensors'
    model = load_satdino(args.run / 'model.safetensors', verbose=False)
    save_satdino(model, weights, torch.float16)
    text = json.dumps(shipped_config(args.run), indent=1)
    (args.out / f'{args.name}.json').write_text(text + '\n')
    thinned(args.run, args.results / 'metrics.csv')
    with safe_open(weights, 'pt') as f:
        print(f'{weights}: {len(f.keys())} tensors, {weights.stat().st_size / 1e6:.2f} MB')
    if not args.weights_only:
        said = dict(
            machine=args.machine,
            tiles=args.tiles,
            command=args.command.read_text().strip(),
        )
        made = card(args.run, args.name, args.results, weights, **said)
        (args.out / 'README.md').write_text(made)


if __name__ == '__main__':
    main()
