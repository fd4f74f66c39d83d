"""Weighted nearest neighbours: seconds of ours, of the released loop, and of scikit-learn.

Also a search in a gallery too large for memory.

    python bench/knn.py                       # 21,600 training features x 5,400 queries x 384, k 20
    python bench/knn.py --features FILE.npz   # real ones: train_x, train_y, test_x, test_y
    python bench/knn.py --small               # 1,000 x 1,000 x 192, as a run looks at itself
    python bench/knn.py --large               # 1,000,000 in a file x 100,000 queries
    python bench/knn.py --large --queries 10000 --search bf16     # a tenth of it

`--small` is against the plain product in one piece.

The methods take turns within one run; reported are the median seconds and the median of the
rounds' ratios to the first, by the clock and by processor time, which other work on the machine
disturbs less (with `--threads 1`; threads that wait for each other count too). The features are
drawn: ten near clusters and a strong common component, so that cosines are about 0.68 and some
85 % of the classes are found. `--out FILE` keeps the table as JSON.
"""

import os
import platform
import re
import statistics
import tempfile
import threading
import time
from pathlib import Path

import common
import numpy as np
import torch
from torch.nn import functional as F

from satdino_nb.pretrain import knn_predict, knn_vote, nearest, settle_search

K, TEMPERATURE, CLASSES = 20, 0.07, 10


def machine(threads):
    "What the numbers were measured on."
    flags = (common.cpu_info('flags') or '').split()
    has = [f for f in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if f in flags]
    return dict(
        cpu=common.cpu_info('model name') or platform.processor(),
        cores=os.cpu_count(),
        flags=has,
        threads=threads,
        torch=torch.__version__,
        blas=re.search(r'BLAS_INFO=(\w+)', torch.__config__.show())[1],
        load_average=round(os.getloadavg()[0], 2),
    )


class Clusters:
    "Draws features `(n, dims)` of unit length in near clusters, and their classes."

    def __init__(self, dims, seed=0, near=0.2, common=1.5):
        self.g = torch.Generator().manual_seed(seed)
        self.common, self.centres = common * self.unit(1, dims), near * self.unit(CLASSES, dims)

    def unit(self, *shape):
        return F.normalize(torch.randn(*shape, generator=self.g), dim=1)

    def __call__(self, n):
        y = torch.randint(CLASSES, (n,), generator=self.g)
        return F.normalize(
            self.common + self.centres[y] + self.unit(n, self.centres.shape[1]), dim=1
        ), y


def released(train, y, test, classes):
    """Class scores as the published evaluation has them.

    A hundredth of the queries at a time, votes through a one-hot table.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    per, scores = len(test) // 100, []
    for a in range(0, len(test), per):
        similarity = torch.mm(test[a : a + per], train.T)
        cosine, index = similarity.topk(K, largest=True, sorted=True)
        votes = torch.gather(y.view(1, -1).expand(len(index), -1), 1, index)
        hot = (
            torch.zeros(votes.numel(), classes)
            .scatter_(1, votes.view(-1, 1), 1)
            .view(len(index), K, classes)
        )
        scores.append((hot * cosine.div(TEMPERATURE).exp()[:, :, None]).sum(1))
    return torch.cat(scores)


def one_piece(train, y, test, classes):
    "The whole table of similarities at once."
    cosine, index = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).topk(K, dim=1)
    return torch.zeros(len(test), classes).scatter_add_(1, y[index], (cosine / TEMPERATURE).exp())


def sklearn(train, y, test, classes):
    """scikit-learn's brute-force classifier with the same weights.

    Probabilities, whose largest is its prediction.
    """
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(
        K, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / TEMPERATURE)
    ).fit(train.numpy(), y.numpy())
    scores = torch.zeros(len(test), classes, dtype=torch.float64)
    scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(
        model.predict_proba(test.numpy())
    ).double()
    return scores


def compare(a):
    "Seconds and predictions of each method on the same features."
    if a.features:
        with np.load(a.features) as f:
            x, y, test, truth = (
                torch.from_numpy(f[n]) for n in ('train_x', 'train_y', 'test_x', 'test_y')
            )
        x, test, y, truth = x.float(), test.float(), y.long(), truth.long()
    else:
        sizes = (1000, 1000, 192) if a.small else (a.gallery or 21_600, a.queries or 5400, 384)
        draw = Clusters(sizes[2])
        (x, y), (test, truth) = draw(sizes[0]), draw(sizes[1])
    classes = int(max(y.max(), truth.max())) + 1
    ours = lambda search: lambda: knn_predict(x, y, test, K, TEMPERATURE, classes, search=search)
    plain = (
        {'one piece': lambda: one_piece(x, y, test, classes)}
        if a.small
        else {'released loop': lambda: released(x, y, test, classes)}
    )
    methods = plain | {
        'ours': ours('fp32'),
        'ours, bf16 search': ours('bf16'),
        'scikit-learn': lambda: sklearn(x, y, test, classes),
    }
    seconds, scores, first = (
        common.alternate(methods, a.rounds, rotate=True),
        {name: m() for name, m in methods.items()},
        next(iter(methods)),
    )
    found = [nearest(x, test, K, search=s)[1] for s in ('fp32', 'bf16')]
    same = (found[0][:, :, None] == found[1][:, None]).any(2)
    size = f'{len(x):,} x {len(test):,} x {x.shape[1]}, k {K}, {a.rounds} rounds'
    out = dict(size=size, neighbours_found_by_bf16=same.double().mean().item(), methods={})
    print(
        f"{size}\n\n| | seconds | times the {first}'s speed | the same by processor time "
        '| accuracy | same prediction as ours |\n|---|---|---|---|---|---|'
    )
    for name, s in seconds.items():
        ratios, of_cpu = (
            common.ratios([p[i] for p in seconds[first]], [q[i] for q in s]) for i in (0, 1)
        )
        row = dict(
            seconds=statistics.median(w for w, _ in s),
            cpu_seconds=statistics.median(c for _, c in s),
            speed=statistics.median(ratios),
            speed_range=[min(ratios), max(ratios)],
            speed_by_cpu=statistics.median(of_cpu),
            accuracy=(scores[name].argmax(1) == truth).double().mean().item(),
            same=(scores[name].argmax(1) == scores['ours'].argmax(1)).double().mean().item(),
        )
        out['methods'][name] = row
        print(
            f'| {name} | {row["seconds"]:.4f} '
            f'| {row["speed"]:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) '
            f'| {row["speed_by_cpu"]:.2f} '
            f'| {100 * row["accuracy"]:.2f} % | {100 * row["same"]:.2f} % |'
        )
    print(
        f'\nbf16 search finds {100 * out["neighbours_found_by_bf16"]:.3f} % of the {K} neighbours'
    )
    return out


class Memory:
    """Watches this process's memory from a thread.

    Keeps the largest of each of the kernel's counts, in MiB, less what it was at the beginning.
    """

    COUNTS = 'RssAnon', 'RssFile', 'VmRSS'

    def now(self):
        text = Path('/proc/self/status').read_text()
        return {n: int(re.search(rf'{n}:\s+(\d+)', text)[1]) / 1024 for n in self.COUNTS}

    def __enter__(self):
        self.start, self.done = self.now(), threading.Event()
        self.peak, self.thread = dict(self.start), threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.02):
            self.peak = {n: max(v, self.peak[n]) for n, v in self.now().items()}

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def growth(self):
        return {n: round(self.peak[n] - self.start[n]) for n in self.COUNTS}


def large(a):
    """A gallery that lies in a file.

    Seconds, memory, and whether the neighbours are the right ones for a few queries.
    """
    size, queries, dims, draw = a.gallery or 1_000_000, a.queries or 100_000, 384, Clusters(384)
    a.search = settle_search(a.search, 'cpu', min(65_536, size), K)
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        path, labels = Path(folder) / 'gallery.f32', []
        with path.open('wb') as f:
            for n in range(0, size, 50_000):
                x, y = draw(min(50_000, size - n))
                f.write(x.numpy().tobytes()), labels.append(y)
        y, (test, truth) = torch.cat(labels), draw(queries)
        del x, labels
        gallery = torch.from_numpy(np.memmap(path, np.float32, mode='c', shape=(size, dims)))
        nearest(gallery[:2000], test[:300], K, search=a.search)  # warm-up
        with Memory() as memory:
            start, cpu = time.perf_counter(), time.process_time()
            cosine, index = nearest(gallery, test, K, search=a.search)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        some = torch.arange(0, queries, max(1, queries // 100))
        plain = torch.cat([test[some] @ g.T for g in gallery.split(100_000)], 1).topk(K)
        found = (index[some][:, :, None] == plain.indices[:, None]).any(2).double().mean().item()
        accuracy = (
            (knn_vote(cosine, index, y, K, TEMPERATURE, CLASSES).argmax(1) == truth)
            .double()
            .mean()
            .item()
        )
    growth, products = memory.growth(), 2 * size * queries * dims
    out = dict(
        size=f'{size:,} x {queries:,} x {dims}, k {K}',
        search=a.search,
        seconds=seconds,
        cpu_seconds=cpu,
        gflops=products / seconds / 1e9,
        memory_growth_mib=growth,
        table_gb=4 * size * queries / 1e9,
        gallery_gb=4 * size * dims / 1e9,
        accuracy=accuracy,
        neighbours_found=found,
        checked_queries=len(some),
    )
    print(
        f'{out["size"]}, search in {a.search}: {seconds:.0f} s ({cpu:.0f} s of processor time), '
        f'{out["gflops"]:.0f} GFLOP/s, accuracy {100 * accuracy:.2f} %\n'
        f'memory grew by {growth["RssAnon"]} MiB of its own (RssAnon), '
        f'{growth["RssFile"]} MiB of pages of files, which the system may drop (RssFile); '
        f'the table of similarities would be {out["table_gb"]:.0f} GB, '
        f'the gallery is {out["gallery_gb"]:.2f} GB\n'
        f'{100 * found:.2f} % of the neighbours of {len(some)} queries '
        'are those of the plain product'
    )
    return out


def main():
    parser = common.parser(__doc__)
    parser.add_argument('--features', type=Path)
    parser.add_argument('--small', action='store_true')
    parser.add_argument('--large', action='store_true')
    parser.add_argument('--gallery', type=int), parser.add_argument('--queries', type=int)
    parser.add_argument(
        '--search', choices=('auto', 'fp32', 'bf16'), default='fp32', help='for --large'
    )
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument(
        '--folder',
        type=Path,
        help='where --large puts its gallery, 1.5 GB; '
        "the system's folder for temporary files unless given",
    )
    parser.add_argument('--out', type=Path)
    a = parser.parse_args()
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    torch.set_num_threads(a.threads)
    with threadpool_limits(a.threads):
        hardware = machine(a.threads)
        print(', '.join(f'{k} {v}' for k, v in hardware.items()) + '\n')
        result = (large if a.large else compare)(a)
    common.write_json(a.out, dict(hardware, result=result))


if __name__ == '__main__':
    main()
