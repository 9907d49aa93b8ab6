"""How fast a model runs: cases of batch and lengths, run through the engine as real requests. Knows no terminal."""
