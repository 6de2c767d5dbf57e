"""How long the unit and contract tests take together: people run them all the time only while they are quick."""

import subprocess
import sys
import time

from hack.bench.figures import Figure, finish
from hack.bench.world import TOP


def main() -> int:
    begun = time.monotonic()
    for target in ("test-unit", "test-contract"):
        subprocess.run(["make", "--no-print-directory", target], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    return finish("quick-tests", [Figure("unit and contract tests", time.monotonic() - begun, "s", 60.0)])


if __name__ == "__main__":
    sys.exit(main())
