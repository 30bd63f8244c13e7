"""Fabric programs checked, priced and numbered."""
