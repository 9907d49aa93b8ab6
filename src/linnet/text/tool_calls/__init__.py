"""Tools and tool calls as texts: what callers give, and what models write. Knows no model and no computation."""
