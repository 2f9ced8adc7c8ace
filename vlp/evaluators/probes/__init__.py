"""What evaluators of frozen features share: further splits of a set, logistic regression, its regulariser, draws."""
