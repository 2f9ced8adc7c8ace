"""What `vlp` does beside training, evaluation and export: data verbs, lists, the doctor."""
