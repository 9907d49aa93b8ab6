"""Tools and their calls as texts: what callers give, what models write. Knows no model and no computation."""
