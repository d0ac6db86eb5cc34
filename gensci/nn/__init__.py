"""Networks: flows, transformers and their encodings. No training code."""
