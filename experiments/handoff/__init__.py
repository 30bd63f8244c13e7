"""How long a prompt's cache takes from chips to wafers, and how long the user waits for it."""
