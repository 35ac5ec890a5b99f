"""Where the time of delivered networks goes, operation by operation: `profile_delivered`.

Kept beside each card, in the form that `info FILE --profile DEVICE --json` prints. Knows cards and
devices.
"""

from __future__ import annotations

from pathlib import Path

from onceforall.devices import Target
from onceforall.errors import InputError
from onceforall.files import write_json
from onceforall.progress import say, track
from onceforall.report.folder import read_folder
from onceforall.report.networks import PROFILE, used
from onceforall.space import Arch


def profile_delivered(run: Path) -> int:
    """Times the operations of each delivered network that was not profiled yet, on its device, if
    that is here and tells what they take; returns how many. What cannot be timed is said.

    Raises:
        InputError: no such folder, or nothing of a run is in it.
    """
    folder = read_folder(run)
    missing = [place for place in folder.cards if not (run / place / PROFILE).exists()]
    done = 0
    for place in track(missing, "profiles"):
        card = folder.cards[place]
        try:
            target = Target(**used(str(card["device"])))
            why = target.known.missing()
            if why or not target.known.profiles:
                raise InputError(why or "does not tell what operations take")
            size = Arch.parse(card["arch"]).resolution
            shape = (int(card["data"]["channels"]), size, size)
            layers = target.profile(run / place / card["file"], shape)
        except (InputError, KeyError, OSError) as error:
            say(f"{run / place}: not profiled on {card['device']}: {error}")
            continue
        found = {
            "device": str(target),
            "total_ms": sum(ms for _, _, ms in layers),
            "layers": [{"name": name, "kind": kind, "ms": ms} for name, kind, ms in layers],
        }
        write_json(run / place / PROFILE, found)
        done += 1
    return done
