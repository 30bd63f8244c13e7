"""How arrays of numbers are held: formats, and numbers to and from them."""
