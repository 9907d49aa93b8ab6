"""HOW a model is computed: one protocol, several op sets."""
