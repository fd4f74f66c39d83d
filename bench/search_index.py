"""Neighbours in 200,000 features: the exact search, and three libraries' indexes.

    python bench/search_index.py --out bench/results/search_index.json
    python bench/search_index.py --rows 20000 --queries 200      # a tenth of it

Features are drawn about real ones: each is a mixture of the features that `satdino-nano` has of
two sample tiles, with noise of their covariance. Reported are seconds to build, seconds and
milliseconds of a query for all queries at once, and recall@10: which share of the ten true
neighbours is found. Each index is asked at several efforts. One thread, unless `--threads` says
otherwise.
"""

import os
import time

import common
import numpy as np
import torch
from torch.nn import functional as F

from satdino_nb.data import sample_tiles
from satdino_nb.engine.neighbours import nearest
from satdino_nb.features import extract_features
from satdino_nb.vit import load_satdino


def drawn(real, n, seed):
    "`n` features of length 1 about `real` ones, `(N, D)`."
    g = torch.Generator().manual_seed(seed)
    pick = torch.randint(len(real), (2, n), generator=g)
    share = torch.rand(n, 1, generator=g)
    mixed = share * real[pick[0]] + (1 - share) * real[pick[1]]
    spread = torch.linalg.cholesky(torch.cov(real.T) + 1e-5 * torch.eye(real.shape[1]))
    noise = torch.randn(n, real.shape[1], generator=g) @ spread.T
    return F.normalize(mixed + 0.3 * noise, dim=1)


def real_features():
    "Those of the shipped model on the shipped tiles, `(360, D)`."
    model = load_satdino('satdino-nano', verbose=False)
    return torch.cat([extract_features(model, sample_tiles(s)).cls for s in ('train', 'test')])


def with_hnswlib(x, threads):
    "Built graph; how it is asked."
    import hnswlib

    index = hnswlib.Index('ip', x.shape[1])
    index.init_index(len(x), ef_construction=100, M=16, random_seed=0)
    index.add_items(x, num_threads=threads)

    def ask(q, k, effort):
        index.set_ef(effort)
        return index.knn_query(q, k, num_threads=threads)[0]

    return ask


def with_faiss_hnsw(x, threads):
    "Built graph; how it is asked."
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(x.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(x)

    def ask(q, k, effort):
        index.hnsw.efSearch = effort
        return index.search(q, k)[1]

    return ask


def with_faiss_ivf(x, threads):
    "Built lists; how they are asked."
    import faiss

    faiss.omp_set_num_threads(threads)
    lists = int(4 * len(x) ** 0.5)
    quantiser = faiss.IndexFlatIP(x.shape[1])
    index = faiss.IndexIVFFlat(quantiser, x.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 10
    index.cp.seed = 0
    index.train(x[:: max(1, len(x) // (40 * lists))])
    index.add(x)

    def ask(q, k, effort):
        index.nprobe = effort
        return index.search(q, k)[1]

    ask.kept = quantiser
    return ask


def with_usearch(x, threads):
    "Built graph; how it is asked."
    from usearch.index import Index

    index = Index(ndim=x.shape[1], metric='ip', dtype='f32', connectivity=16, expansion_add=100)
    index.add(np.arange(len(x)), x, threads=threads)

    def ask(q, k, effort):
        index.expansion_search = effort
        return index.search(q, k, threads=threads).keys

    return ask


LIBRARIES = {
    'faiss IVF': (with_faiss_ivf, (8, 16, 32)),
    'faiss HNSW': (with_faiss_hnsw, (32, 64, 128)),
    'hnswlib': (with_hnswlib, (32, 64, 128)),
    'usearch': (with_usearch, (32, 64, 128)),
}


def recall(found, true):
    "Share of the true neighbours that are found."
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true)]))


def timed(call):
    "What a call gives, and its seconds."
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def exact(x, q, k, search):
    "The row of the table for our own search, and what it found."
    (_, index), seconds = timed(
        lambda: nearest(torch.from_numpy(x), torch.from_numpy(q), k, search=search)
    )
    return index.numpy(), dict(build=0.0, query=seconds)


def main():
    p = common.parser(__doc__)
    p.add_argument('--rows', type=int, default=200_000)
    p.add_argument('--queries', type=int, default=1000)
    p.add_argument('--k', type=int, default=10)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--libraries', nargs='*', default=list(LIBRARIES))
    p.add_argument('--out')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    real = F.normalize(real_features(), dim=1)
    x, q = (drawn(real, n, s).numpy() for n, s in ((args.rows, 0), (args.queries, 1)))
    true, first = exact(x, q, args.k, 'fp32')
    rows = [dict(method='exact', effort='', **first, recall=1.0)]
    found, second = exact(x, q, args.k, 'bf16')
    rows.append(dict(method='exact, bf16', effort='', **second, recall=recall(found, true)))
    for name in args.libraries:
        build, efforts = LIBRARIES[name]
        ask, seconds = timed(lambda: build(x, args.threads))
        for effort in efforts:
            found, asked = timed(lambda: ask(q, args.k, effort))
            row = dict(method=name, effort=effort, build=seconds, query=asked)
            rows.append(row | dict(recall=recall(found, true)))
    for r in rows:
        r |= dict(ms_per_query=1000 * r['query'] / args.queries)
        print(
            f'{r["method"]:12} {r["effort"]!s:4} build {r["build"]:7.2f} s  query '
            f'{r["query"]:7.3f} s  {r["ms_per_query"]:7.3f} ms each  recall {r["recall"]:.4f}'
        )
    result = dict(
        machine=common.machine_line(f'{args.threads} threads'),
        load_average=round(os.getloadavg()[0], 2),
        rows=args.rows,
        queries=args.queries,
        dims=x.shape[1],
        k=args.k,
        results=rows,
    )
    common.write_json(args.out, result)


if __name__ == '__main__':
    main()
