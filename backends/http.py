"""Any HTTP server: no metrics, our own counts only. For FastAPI `/predict` servers and what nobody has described yet.

A 404 on its health path is an answer like any other: somebody is there.
"""

from __future__ import annotations

from backends.base import Backend


class HTTP(Backend):
    name = "http"
    metrics_path = None
