"""Fine-tuning the subject with LoRA."""
