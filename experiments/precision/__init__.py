"""What prefill in fewer bits costs in values and saves in time, beside bfloat16."""
