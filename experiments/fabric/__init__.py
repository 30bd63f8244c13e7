"""Where the cycles of a fabric program go: phases, what PEs do and wait for, links, a trace."""
