"""What several experiments share: the command line, progress, files, units."""
