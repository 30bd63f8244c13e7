"""Fabric programs worked out in dependency order: values, and cycles as trains; see README.md."""
