"""How a whole prefill scales: TTFT, tokens/s and plans over chips, racks and contexts to 2M."""
