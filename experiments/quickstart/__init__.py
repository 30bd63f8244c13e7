"""From a prompt to tokens through both machines, with the time each of them takes."""
