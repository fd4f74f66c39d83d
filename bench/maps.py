"""How long a map takes: the first of a process, a later one, and one that is kept.

    python bench/maps.py                      # 2,000 features of 384 dimensions, drawn
    python bench/maps.py --n 10000 --rounds 1
    python bench/maps.py --out FILE           # keeps the table as JSON

Each round starts a process for each of the two ways to call UMAP, in turns: ours, with exact
neighbours worked out beforehand, and the library's own search with otherwise the same options. A
process makes its first map (imports and compilation are part of it), a second one of other features
of the same size, PCA (also of ten times as many), and the second one again, which is kept. Reported
are medians of seconds by the clock and of processor time, and the ratios round by round; other work
on the machine disturbs processor time less.
"""

import json
import statistics
import subprocess
import sys

import common

WORKER = """
import json, sys, time
import torch
from satdino_nb.engine import layouts
n, width, ours = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'ours'
def cloud(seed, n=n):
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(10, (n,), generator=g)
    centres = torch.randn(10, width, generator=g)
    return centres[kind] + 1.5 * torch.randn(n, width, generator=g)
def plain(x):
    from umap import UMAP
    how = dict(metric='cosine', random_state=0, n_jobs=1, n_epochs=200, init='pca')
    return UMAP(**how).fit_transform(torch.nn.functional.normalize(x, dim=1).numpy())
def spent(make, x):
    start = time.perf_counter(), time.process_time()
    made = make(x)
    return [time.perf_counter() - start[0], time.process_time() - start[1]], made
first, second = cloud(0), cloud(1)
umap = layouts.umap_map if ours else plain
out = {'PCA': spent(layouts.pca_map, first)[0]}
if ours:
    out['PCA of ten times as many'] = spent(layouts.pca_map, cloud(2, 10 * n))[0]
out['first'], _ = spent(umap, first)
out['later'], made = spent(umap, second)
if ours:
    out['kept'], _ = spent(umap, second)
    out['quality'] = str(made.quality)
else:
    out['quality'] = str(layouts.map_quality(second, made))
print(json.dumps(out))
"""


def one(who: str, a) -> dict:
    "What a new process measured."
    command = [sys.executable, '-W', 'ignore', '-c', WORKER, str(a.n), str(a.width), who]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = common.parser(__doc__)
    parser.add_argument('--n', type=int, default=2000)
    parser.add_argument('--width', type=int, default=384)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out')
    a = parser.parse_args()
    rounds = [{who: one(who, a) for who in ('ours', "umap's search")} for _ in range(a.rounds)]
    machine = common.machine_line()
    print(f'{machine}; {a.n:,} x {a.width}, {a.rounds} rounds\n')
    print('| | seconds | processor seconds |\n|---|---|---|')
    table: dict = dict(machine=machine, n=a.n, width=a.width, rounds=a.rounds, seconds={})
    for who, stages in (('ours', OURS), ("umap's search", STAGES)):
        for stage in stages:
            pairs = [r[who][stage] for r in rounds]
            clock, cpu = (statistics.median(p[i] for p in pairs) for i in (0, 1))
            table['seconds'][f'{who}, {stage}'] = [clock, cpu]
            print(f'| {who}, {stage} | {clock:.3f} | {cpu:.3f} |')
    for stage in STAGES:
        theirs, mine = ([r[w][stage][1] for r in rounds] for w in ("umap's search", 'ours'))
        table[f'{stage}, times as fast by processor time'] = common.ratios(theirs, mine)
        print(f'{stage}: {common.median_ratio(theirs, mine):.2f} times as fast by processor time')
    table['quality'] = {who: rounds[0][who]['quality'] for who in rounds[0]}
    print(table['quality'])
    common.write_json(a.out, table)


STAGES = ('first', 'later')
OURS = ('PCA', 'PCA of ten times as many', *STAGES, 'kept')

if __name__ == '__main__':
    main()
