"""`python -m backends.sim`: simulated model servers without the rest of the project."""

import argparse
import sys

from backends.sim import cli

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="sim", description=cli.__doc__)
    cli.add_arguments(parser)
    sys.exit(cli.run(parser.parse_args()))
