"""Models: loading, vocabulary and end-of-sequence alignment, prompts, and the chunked head."""
