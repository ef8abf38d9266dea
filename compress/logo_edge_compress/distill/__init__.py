"""Distillation: soft targets, and the student that learns from them."""
