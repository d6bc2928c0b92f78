"""
Stability of independent components
===================================

ICA returns ``n_components`` components, whether or not the data have as many independent sources.  Icasso fits
the same data from several starting points and clusters the components of all runs: a component that every run finds has
a stability index near 1, an arbitrary direction a low one.

Needs matplotlib: ``pip install 'gpuica[bench]'``.
"""

# %%
# The data
# --------
# Eight Laplace sources and eight Gaussian ones, mixed.  Gaussian sources can be rotated arbitrarily without a change of
# their distribution, so ICA cannot identify them.
import matplotlib.pyplot as plt
import numpy as np

from gpuica import Picard
from gpuica.stability import stability

rng = np.random.default_rng(0)
sources = np.hstack([rng.laplace(size=(5_000, 8)), rng.normal(size=(5_000, 8))])
X = sources @ rng.normal(size=(16, 16)).T

# %%
# Twenty runs
# -----------
# All runs share each pass over the rows.  With ``bootstrap=True`` each run would also resample the rows.
result = stability(Picard(), X, n_runs=20, random_state=0)
print("stability index:", result.index.round(2))

# %%
# Left: the index of each cluster.  Right: the absolute correlation of all components of all runs, sorted by cluster:
# those of the Laplace sources form separate blocks, the others overlap.
order = np.argsort(result.labels.ravel(), kind="stable")
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=(1.4, 1))
left.bar(np.arange(len(result.index)), result.index, color="#4a6fa5")
left.set(xlabel="cluster, the most stable first", ylabel="stability index")
shown = right.imshow(result.similarity[np.ix_(order, order)], vmin=0, vmax=1, cmap="magma")
right.set(xticks=[], yticks=[], title="|correlation|")
figure.colorbar(shown, ax=right)

# %%
# The stable components are the Laplace sources.
stable = result.components[result.index > 0.8]
estimated = (X - X.mean(axis=0)) @ stable.T
correlation = np.abs(np.corrcoef(estimated.T, sources[:, :8].T)[: len(stable), len(stable) :])
print(f"{len(stable)} stable components; |correlation| with the nearest source: {correlation.max(axis=1).round(3)}")
plt.show()
