"""What a layer of a published model takes: prefill by stages on chips, a decode step on a wafer."""
