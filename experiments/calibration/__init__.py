"""How far both machines' clocks are from published measurements, and which they were fitted to."""
