"""An OpenAI-compatible chat endpoint whose requests may carry persona vectors."""
