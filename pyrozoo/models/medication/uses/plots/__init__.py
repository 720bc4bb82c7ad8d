"""Pictures of recordings labelled frame by frame: what was done when, for how long, and in which order.

Label 0 is the non-event, labels 1..S are the steps. Every function takes arrays, draws into ``ax`` or into a figure of
its own, and returns the axes (`timeline` and `replicated_durations`, which need several, the figure). Nothing touches
pyplot: save with ``timeline(...).savefig("timeline.png")``.
"""

from __future__ import annotations

from .....lazy import names_of

_HOMES = {
    "parts": ("NON_EVENT", "STEP_COLOURS"),
    "processes": ("implied_durations", "replicated_durations", "transition_map"),
    "timelines": ("marginal_reliability", "timeline"),
}

__getattr__, __dir__, __all__ = names_of(__name__, _HOMES)
