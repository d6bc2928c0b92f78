"""Conversion of arrays of other libraries to NumPy or CuPy arrays, without a copy, and back."""

import numpy as np

from . import CPU, Device, array_device, to_host, why_no_gpu


class BFloat16:
    """A bfloat16 matrix (n_rows, n_features), whose slices are float32 arrays.

    bits: a uint16 array of NumPy or CuPy.  held_on: the `Device` of the bits.
    """

    dtype = np.dtype(np.float32)
    ndim = property(lambda self: self.bits.ndim)
    shape = property(lambda self: self.bits.shape)
    held_on = property(lambda self: array_device(self.bits))

    def __init__(self, bits):
        self.bits = bits

    def __len__(self):
        return len(self.bits)

    def __getitem__(self, rows):
        return bfloat16_to_float32(self.bits[rows])


def bfloat16_to_float32(bits):
    """Bits of bfloat16, the upper half of a float32 → float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def unwrap(X):
    """(array, back) for a torch tensor, a CuPy array, or a bfloat16 array; (X, to_host) for anything else.

    array: an array of NumPy or CuPy, or a `BFloat16` of one, which shares its memory with X.  back: a function that
    converts a NumPy or CuPy result to the array type and the device of X.
    """
    if _is_tensor(X):
        return _of_torch(X)
    library = type(X).__module__.partition(".")[0]
    if library != "cupy" and not isinstance(X, np.ndarray):
        return X, to_host
    back = array_device(X).put if library == "cupy" else to_host
    return (BFloat16(X.view(np.uint16)) if X.dtype.name == "bfloat16" else X), back


def as_numpy(X):
    """An array-like of any library and device as a NumPy array; bfloat16 as float32."""
    return to_host(as_host_array(X))


def as_host_array(X):
    """A torch tensor, a CuPy array, or a bfloat16 array as a NumPy array; anything else unchanged."""
    X = X.cpu() if _is_tensor(X) and X.device.type == "cuda" else X  # torch copies without CuPy
    array = X if isinstance(X, BFloat16) else unwrap(X)[0]
    if isinstance(array, BFloat16):
        array = array[:]
    return to_host(array) if array_device(array) != CPU else array


def _is_tensor(X):
    return type(X).__module__.partition(".")[0] == "torch" and hasattr(X, "layout")


def _of_torch(tensor):
    """`unwrap` of a torch tensor, by DLPack."""
    import torch

    def back(result):
        return torch.from_dlpack(device.put(result)).to(tensor.device)

    if tensor.layout != torch.strided:
        raise TypeError("sparse torch tensors are not supported: pass tensor.to_dense().")
    if tensor.device.type not in ("cpu", "cuda"):
        raise TypeError(f"torch tensors on {tensor.device.type!r} are not supported: pass tensor.cpu().")
    is_bfloat16 = tensor.dtype == torch.bfloat16  # NumPy lacks this dtype: the bits are passed as integers
    source = tensor.detach()
    source = source.view(torch.int16) if is_bfloat16 else source
    device = CPU
    if tensor.device.type == "cuda":
        if reason := why_no_gpu():
            raise RuntimeError(f"X is a torch tensor on {tensor.device}, which needs CuPy, but {reason}")
        device = Device("cuda", tensor.device.index)
    array = device.xp.from_dlpack(source)
    return (BFloat16(array.view(np.uint16)) if is_bfloat16 else array), back
