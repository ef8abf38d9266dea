"""The libraries that run a model, and the choice between them."""
