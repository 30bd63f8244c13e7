"""One Trainium kernel's time explained, two runs side by side, or the fastest of its sizes."""
