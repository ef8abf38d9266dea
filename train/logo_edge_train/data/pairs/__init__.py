"""Pairs of drawn logos whose labels follow from how they are drawn: only what decides the label differs in a pair."""
