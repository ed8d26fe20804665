"""A campaign of kills, wrong inputs and damage: ``make campaign``. Five minutes on two free cores.

    python tests/campaign/run.py [--seed 0] [--kills 105] [--inputs 1000] [--flips 200] [--only kills …] [--minutes 60]

Prints what was tried and what held, by kind, and leaves the folder and the logs of each trial that did not hold. The
same seed tries the same things; what kills by the clock hit depends on the machine.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing as mp
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
sys.path.insert(0, str(TESTS.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=105)
    parser.add_argument("--inputs", type=int, default=1000, help="at most: there are as many as the tables have")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--only", nargs="+", default=["inputs", "flips", "kills"], choices=["inputs", "flips", "kills"])
    parser.add_argument("--minutes", type=float, default=60.0, help="no trial begins later than this")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    parser.add_argument("--failures", type=Path, default=Path("campaign-failures"))
    options = parser.parse_args()

    import processes
    import warm  # noqa: F401
    from campaign import flips, inputs, kills
    from campaign.verdicts import Campaign

    processes.FORKSERVER = mp.get_context("fork")  # of a trial's own process, which is a fork of this warm one

    logging.getLogger("lit_recycle").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    kinds = {"inputs": (inputs, options.inputs), "flips": (flips, options.flips), "kills": (kills, options.kills)}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        campaign = Campaign(Path(name, "work"), options.failures, options.minutes * 60, options.workers)
        for kind in options.only:
            module, count = kinds[kind]
            campaign.run(module.trials(options.seed, count, Path(name, "undisturbed")))  # type: ignore[attr-defined]
            print(f"{kind}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"\nseed {options.seed}\n\n{campaign.table()}")
    if campaign.left_out:
        print(f"\nno time was left for {campaign.left_out} trials: --minutes")
    if campaign.failed:
        print(f"\nwhat did not hold: {options.failures}")
    elif options.failures.exists() and not any(options.failures.iterdir()):
        shutil.rmtree(options.failures)
    return int(campaign.failed > 0 or campaign.left_out > 0)


if __name__ == "__main__":
    sys.exit(main())
