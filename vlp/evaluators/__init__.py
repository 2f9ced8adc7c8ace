"""What a model can do: one file per evaluator, found by name through `base.evaluators`."""
