"""Jaxprs as the clock reads them: equations, known integers, side-by-side loops."""
