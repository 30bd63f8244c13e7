"""An unmodified NKI kernel timed: values checked, latency, engines, traffic, what to change."""
