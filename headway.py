"""The installed command: puts Headway's private folders on this process's own path and calls the command line.

The wheel keeps `gateway`, `policies` and the others inside `headway_app/`, so they shadow nobody's names. In an
editable installation this file still lies in the checkout, and the folders lie beside it.
"""

import sys
from pathlib import Path


def main() -> int:
    """Run the `headway` command; returns its exit code (0 done, 1 the thing asked for failed, 2 bad usage)."""
    here = Path(__file__).resolve().parent
    private = here / "headway_app"
    sys.path.insert(0, str(private if private.is_dir() else here))
    from gateway.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
