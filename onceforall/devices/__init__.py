"""Devices: where networks run, and how long they take there.

`table` lists them; each opens the file of a network (a file of its own in this room). A `Target`
is a device and how it is used; `measuring` times networks on one, in turns, by the one loop in
`timing`. Devices know an `nn.Module` or a file, never an arch.
"""

from onceforall.devices.circumstances import provenance
from onceforall.devices.energy import tells_energy
from onceforall.devices.measuring import TOGETHER, VISITS, disturbed, measure, measure_many
from onceforall.devices.table import MODULE, Device, device_named, devices, names
from onceforall.devices.target import Target
from onceforall.devices.timing import ENERGY, Latency, time_calls

__all__ = [
    "ENERGY",
    "MODULE",
    "TOGETHER",
    "VISITS",
    "Device",
    "Latency",
    "Target",
    "device_named",
    "devices",
    "disturbed",
    "measure",
    "measure_many",
    "names",
    "provenance",
    "tells_energy",
    "time_calls",
]
