"""Images by likeness: the embedding space, enrolment, ranking and clusters."""
