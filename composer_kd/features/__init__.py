"""Runs any model and reads its layers: how to call it, hooks on its layers, and the logits in its outputs."""
