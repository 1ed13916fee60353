"""The JSON Schema of the configuration, for editors that check and complete YAML while it is written.

The idea: it is derived from the same table of keys that the loader reads by, so it cannot drift. It says less than
`check` does: what must agree with what, and which names exist, only the loader knows.
"""

from __future__ import annotations

from typing import Any

from gateway.config.spec import CONFIG, ENGINES, POLICIES


def json_schema() -> dict[str, Any]:
    """The schema as JSON-ready values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Headway configuration",
        "description": f"Engines: {', '.join(ENGINES)}. Picking policies: {', '.join(POLICIES)}.",
        **CONFIG.schema(),
    }
