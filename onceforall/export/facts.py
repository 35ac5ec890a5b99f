"""What a file says of the network in it, beside the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as files hold them: a text as it is, all else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
