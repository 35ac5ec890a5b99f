"""Commands about one network: `info`."""

from onceforall.cli.common import Json, Net


def info(net: Net, as_json: Json = False) -> None:
    """Shows an arch, its layers and what it costs.

    Example: onceforall info ofa_mbv3_w1.0:largest
    """
    raise NotImplementedError
