"""Context parallel attention: a sequence spread over chips, by a ring and by other schemes."""
