"""`gpu-standby run | mover | version`."""

import argparse

from gpu_standby import __version__


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu-standby", description="A CPU standby for a rented GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator")
    commands.add_parser("mover", help="conduct a pair's syncs (inside its Job)")
    commands.add_parser("version", help="print the version")
    given = parser.parse_args(arguments)
    # Imported where it is used: the mover must not carry kopf, nor `version` anything.
    match given.command:
        case "run":
            from gpu_standby.runtime.operator import main as run

            return run()
        case "mover":
            from gpu_standby.mover import main as mover

            return mover()
        case _:
            print(__version__)  # noqa: T201 - the answer
            return 0


if __name__ == "__main__":
    raise SystemExit(main())
