"""How fast does a user get tokens from wafers, and where do a token's cycles go?"""
