"""When what crosses the fabric arrives, in closed form, for the timeline."""
