"""What does my attention variant cost on machines I don't have, and is it still right there?"""
