"""Pages of metrics for the tests of the engines: recorded ones (`tests/data/engines`) and small ones made up here."""

from pathlib import Path

from backends import create
from backends.samples import Samples
from gateway.core.types import Load

RECORDED = Path(__file__).resolve().parent.parent / "data" / "engines"


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.txt").read_bytes()


def load_of(engine: str, page: bytes, now: float = 1.0) -> Load:
    """What an engine's adapter reads on a page."""
    backend = create(engine)
    return backend.load(Samples(page, backend.wanted), now)
