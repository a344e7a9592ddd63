"""tandem: trust-region on-policy distillation of language models."""
