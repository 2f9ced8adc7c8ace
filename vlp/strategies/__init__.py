"""What changes the views, the teacher, the batch or the weights during training: one file each."""
