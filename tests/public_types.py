"""A program of a user that mypy checks in strict mode: the public API is typed."""

import numpy as np

import gpuica
from gpuica import FastICA, MiniBatchDictionaryLearning, Picard, fastica, metrics
from gpuica.stability import Stability, stability

X = np.zeros((100, 4))
ica: FastICA = FastICA(n_components=3, random_state=0).fit(X)
p: Picard = Picard(tol="auto").fit(X)
k, w, s = fastica(X, n_components=2)
runs, cov = ica.fit_runs(X, 3)
st: Stability = stability(ica, X)
d: float = metrics.amari_distance(np.eye(2), np.eye(2))
m: MiniBatchDictionaryLearning = MiniBatchDictionaryLearning(3).fit(X)
f: float = m.score(X)
negentropies: np.ndarray = gpuica.metrics.negentropy(X)
