"""Engines that are not Linnet's own, behind the same `LLM`."""
