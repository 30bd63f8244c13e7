"""Which models are known, how large they are, and on how many chips and wafers they fit."""
