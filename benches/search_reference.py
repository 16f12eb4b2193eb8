#!/usr/bin/env python3
"""Top-20 search in 200,000 vectors of 512 numbers: usearch and faiss (exact and HNSW) beside adir's exact scan, in turns.

  python3 benches/search_reference.py --scan target/release/deps/retrieval_scan-HASH [--vectors 200000] [--rounds 3]

`--scan` is the binary that `cargo bench --bench retrieval_scan --no-run` names. Milliseconds a query, one query at a
time, medians; recall against float64. Vectors: 200 clusters, unit length, queries near clusters too.
"""
import argparse, os, re, statistics, subprocess, time
import numpy as np

ap = argparse.ArgumentParser()
ap.add_argument("--scan", required=True); ap.add_argument("--vectors", type=int, default=200_000); ap.add_argument("--rounds", type=int, default=3)
a = ap.parse_args()
import faiss
from usearch.index import Index, MetricKind, search

D, K, threads = 512, 20, os.cpu_count()
faiss.omp_set_num_threads(threads)
rng = np.random.default_rng(0)
centres = rng.normal(size=(200, D)).astype(np.float32)
draw = lambda n: (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))(centres[rng.integers(0, 200, n)] + 0.8 * rng.normal(size=(n, D)).astype(np.float32))
x, queries = draw(a.vectors), draw(50)
half = x.astype(np.float16)
exact = np.argsort(-(queries.astype(np.float64) @ x.T.astype(np.float64)), axis=1)[:, :K]
recall = lambda found: np.mean([len(set(f) & set(e)) / K for f, e in zip(found, exact)])
methods, built = {}, {}


def timed(name, build):
    start = time.perf_counter(); methods[name] = build(); built[name] = time.perf_counter() - start


def flat():
    index = faiss.IndexFlatIP(D); index.add(x); return lambda q: index.search(q[None], K)[1][0]


def flat_half():
    index = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT); index.train(x[:1000]); index.add(x); return lambda q: index.search(q[None], K)[1][0]


def hnsw():
    index = faiss.IndexHNSWFlat(D, 32, faiss.METRIC_INNER_PRODUCT); index.hnsw.efSearch = 64; index.add(x); return lambda q: index.search(q[None], K)[1][0]


def usearch_hnsw():
    index = Index(ndim=D, metric=MetricKind.Cos, dtype="f16"); index.add(np.arange(len(x)), x, threads=threads); return lambda q: index.search(q, K).keys


timed("faiss flat f32", flat); timed("faiss flat f16", flat_half); timed("faiss HNSW 32, ef 64", hnsw)
timed("usearch exact f16", lambda: lambda q: search(half, q.astype(np.float16), K, MetricKind.Cos, exact=True, threads=threads).keys)
timed("usearch HNSW f16", usearch_hnsw)
times, found = {n: [] for n in methods}, {}
ours, reading = [], []
for _ in range(a.rounds):
    out = subprocess.run([a.scan, "--bench", str(a.vectors), str(D)], check=True, capture_output=True, text=True).stdout
    ours.append(float(re.search(r"search of 20\s+([\d.]+) ms", out).group(1))); reading.append(float(re.search(r"reading\s+([\d.]+) ms", out).group(1)))
    for name, run in methods.items():
        answers = []
        for q in queries:
            start = time.perf_counter(); answers.append(run(q)); times[name].append((time.perf_counter() - start) * 1e3)
        found[name] = answers
print(f"{a.vectors} vectors of {D}, {threads} threads\n\n| method | ms a query | recall@20 | build, s |\n|---|---|---|---|")
print(f"| reading the f16 vectors once | {statistics.median(reading):.1f} | | |\n| adir, exact, f16 | {statistics.median(ours):.1f} | 1.000 (tests/retrieve_search.rs) | |")
for name in methods: print(f"| {name} | {statistics.median(times[name]):.1f} | {recall(found[name]):.3f} | {built[name]:.0f} |")
