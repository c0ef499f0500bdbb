"""The peers as a section of the suite. Importing this needs nothing but our own environment."""

from benchmarks.peers.alternatives import ALTERNATIVE_GOALS, compare_alternatives
from benchmarks.peers.side_by_side import PEER_GOALS, measure_peers
from benchmarks.readings import Section

SECTION = Section(
    name="comparison",
    title="Beside others",
    measures={"peers": measure_peers, "alternatives": compare_alternatives},
    goals={**PEER_GOALS, **ALTERNATIVE_GOALS},
    plain_loop={"alternatives"},
)
