"""How fast the emulation runs, in CPU time, beside other simulators and plain JAX."""
