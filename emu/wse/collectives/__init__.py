"""The wafer's collectives, a folder each: meaning, arrival formula and fabric program."""
