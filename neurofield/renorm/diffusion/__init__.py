"""Graphs from activity, and their flow under diffusion."""
