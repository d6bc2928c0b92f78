"""Arrays of other libraries as NumPy or CuPy arrays, without a copy, and back."""

import numpy as np

from . import CPU, Device, array_device, to_host, why_no_gpu


class BFloat16:
    """A matrix of bfloat16 bits, (n_rows, n_features) of uint16 of NumPy or CuPy, that gives float32 rows when sliced.

    held_on: the `Device` that holds the bits.
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
    """float32 numbers of the bits of bfloat16, which is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def unwrap(X):
    """(array, back) of a torch tensor, a CuPy array, or an array of bfloat16; (X, to_host) of anything else.

    array: of NumPy or CuPy, or a `BFloat16` of one.  back: turns a NumPy or CuPy result into an array of the kind of X,
    on the device of X.
    """
    if _is_tensor(X):
        return _of_torch(X)
    library = type(X).__module__.partition(".")[0]
    if library != "cupy" and not isinstance(X, np.ndarray):
        return X, to_host
    back = array_device(X).put if library == "cupy" else to_host
    return (BFloat16(X.view(np.uint16)) if X.dtype.name == "bfloat16" else X), back


def as_numpy(X):
    """An array-like of any library, on any device, as a NumPy array; bfloat16 as float32."""
    return to_host(as_host_array(X))


def as_host_array(X):
    """A torch tensor, a CuPy array, or an array of bfloat16 as a NumPy array; anything else as it is."""
    X = X.cpu() if _is_tensor(X) and X.device.type == "cuda" else X  # by torch, which needs no CuPy for it
    array = X if isinstance(X, BFloat16) else unwrap(X)[0]
    if isinstance(array, BFloat16):
        array = array[:]
    return to_host(array) if array_device(array) != CPU else array


def _is_tensor(X):
    return type(X).__module__.partition(".")[0] == "torch" and hasattr(X, "layout")


def _of_torch(tensor):
    """A tensor by DLPack; results go back to torch on the tensor's device."""
    import torch

    def back(result):
        return torch.from_dlpack(home.put(result)).to(tensor.device)

    if tensor.layout != torch.strided:
        raise TypeError("sparse torch tensors are not supported: pass tensor.to_dense().")
    if tensor.device.type not in ("cpu", "cuda"):
        raise TypeError(f"torch tensors on {tensor.device.type!r} are not supported: pass tensor.cpu().")
    is_bfloat16 = tensor.dtype == torch.bfloat16  # unknown to NumPy: its bits travel as integers
    source = tensor.detach()
    source = source.view(torch.int16) if is_bfloat16 else source
    home = CPU
    if tensor.device.type == "cuda":
        if reason := why_no_gpu():
            raise RuntimeError(f"X is a torch tensor on {tensor.device}, which CuPy would work on, but {reason}")
        home = Device("cuda", tensor.device.index)
    array = home.xp.from_dlpack(source)
    return (BFloat16(array.view(np.uint16)) if is_bfloat16 else array), back
