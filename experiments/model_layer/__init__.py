"""What a layer of a published model takes in prefill, stage by stage, on chips and cores."""
