"""What checkpoints say of the run that wrote them."""
