"""The paper's baselines, which read pixels: the loop of stage two behind an entry of its own, for comparison only."""
