"""The sections of the suite, in the order in which they run: adding one is a line in this table.

Knows: which sections there are. Must not know: what they measure.
"""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks import goals, growth, pressure, servers, tail
from benchmarks.jobs import section as jobs
from benchmarks.peers import section as peers
from benchmarks.readings import Section


def in_full(section: Section) -> Section:
    """A section that a quick run leaves out, unless it is named: it takes minutes even with few rounds."""
    return replace(section, thorough=tuple(section.measures))


SECTIONS: Sequence[Section] = (
    goals.SECTION,
    in_full(peers.SECTION),
    growth.SECTION,
    in_full(tail.SECTION),
    pressure.SECTION,
    jobs.SECTION,
    servers.SECTION,
)
