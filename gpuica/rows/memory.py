"""Rows of an array in memory, processed on the host or on a device."""

from ..device import CPU
from .device import DeviceRows
from .host import HostRows


def memory_rows(array, *, device=CPU, **settings):
    """`HostRows` or `DeviceRows` of an array (n_rows, n_features), by the device that processes its chunks."""
    return HostRows(array, **settings) if device == CPU else DeviceRows(array, device=device, **settings)
