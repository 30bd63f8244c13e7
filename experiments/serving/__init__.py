"""How fast many users are answered on wafers: tokens a second, with draft tokens and without."""
