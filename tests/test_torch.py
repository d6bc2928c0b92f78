"""torch tensors in, torch tensors out, without a copy."""

import numpy as np
import pytest

from gpuica import FastICA, fastica, spool
from gpuica.device import arrays

from .problems import mixture

pytestmark = pytest.mark.torch
X0, _ = mixture(3000, 4)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int16"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensors(torch, dtype, device):
    tensor = torch.tensor(X0 * 50).to(getattr(torch, dtype)).to(device)
    work = np.float32 if dtype in ("float32", "float16", "bfloat16") else np.float64
    same = tensor.cpu().to(torch.float64).numpy().astype(work)
    ours, numpy = FastICA(random_state=0), FastICA(random_state=0)
    sources, expected = ours.fit_transform(tensor), numpy.fit_transform(same)
    assert isinstance(sources, torch.Tensor)
    assert sources.device == tensor.device
    assert sources.cpu().numpy().dtype == expected.dtype == work
    tolerance = 0 if device == "cpu" else 1e-3
    np.testing.assert_allclose(sources.cpu().numpy(), expected, atol=tolerance)
    np.testing.assert_allclose(ours.components_, numpy.components_, atol=tolerance)
    assert isinstance(ours.components_, np.ndarray)
    back = ours.inverse_transform(ours.transform(tensor))
    assert back.device == tensor.device
    np.testing.assert_allclose(back.cpu().numpy(), same, atol=1e-3 * np.abs(same).max())


def test_no_copy(torch):
    for tensor in (torch.tensor(X0), torch.tensor(X0, requires_grad=True), torch.tensor(X0, dtype=torch.bfloat16)):
        array = arrays.unwrap(tensor)[0]
        memory = array.bits if isinstance(array, arrays.BFloat16) else array
        assert memory.__array_interface__["data"][0] == tensor.data_ptr()


def test_strided_and_transposed_tensors(torch):
    base = torch.tensor(np.ascontiguousarray(X0.T))
    a = FastICA(random_state=0).fit(base.T)
    b = FastICA(random_state=0).fit(X0)
    np.testing.assert_allclose(a.components_, b.components_, rtol=1e-7)


def test_the_function(torch):
    K, W, S = fastica(torch.tensor(X0), random_state=0)
    assert isinstance(S, torch.Tensor)
    np.testing.assert_allclose(S.numpy(), (X0 - X0.mean(0)) @ K.T @ W.T, atol=1e-8)


def test_bad_tensors(torch):
    with pytest.raises(TypeError, match=r"sparse torch tensors are not supported: pass tensor.to_dense"):
        FastICA().fit(torch.tensor(X0).to_sparse())
    with pytest.raises(TypeError, match=r"on 'meta' are not supported: pass tensor.cpu"):
        FastICA().fit(torch.empty(5, 3, device="meta"))
    with pytest.raises(ValueError, match="NaN"):
        FastICA().fit(torch.full((5, 3), torch.nan))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_data_loaders_and_lists_of_tensors(torch, dtype, tmp_path):
    X = torch.tensor(mixture(3000, 4)[0]).to(getattr(torch, dtype))
    expected = FastICA(random_state=0, tol=1e-3).fit(X)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.zeros(3000)), batch_size=700)
    spooled = spool((X[i : i + 999] for i in range(0, 3000, 999)), tmp_path / "s")
    for rows in (loader, [X[:1000], X[1000:]], spooled):
        ica = FastICA(random_state=0, tol=1e-3, memory_limit=1000).fit(rows)
        np.testing.assert_allclose(ica.components_, expected.components_, rtol=1e-3, atol=1e-5)
