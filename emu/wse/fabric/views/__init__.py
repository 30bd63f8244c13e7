"""What a stepped program did, for people: spans, drawings, traces, phases and totals."""
