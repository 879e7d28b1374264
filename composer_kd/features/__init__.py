"""Running any model and looking inside: how it is called, hooks on its layers, logits in what it returns."""
