"""How fast a user gets tokens from wafers, and where a token's cycles go."""
