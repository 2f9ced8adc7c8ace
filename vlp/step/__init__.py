"""From a loss to new weights: micro-batches, gradient norms, schedules, the guarded step."""
