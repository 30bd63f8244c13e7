"""Where the tokens of a sequence stand on the chips."""
