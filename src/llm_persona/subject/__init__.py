"""The model studied: load it, put it into a state, read it, let it speak. transformers lives here."""
