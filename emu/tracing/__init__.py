"""The only contact with JAX internals: jaxprs, known integers, side-by-side loops."""
