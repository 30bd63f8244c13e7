"""NeuronLink: topologies, routes and collectives between chips and cores."""
