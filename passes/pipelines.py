"""Named pipelines. A name expands to its text wherever a pass may stand."""

from __future__ import annotations

PIPELINES: dict[str, str] = {
    "none": "",
}
