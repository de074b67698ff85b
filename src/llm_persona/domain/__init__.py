"""The words of the field as plain data: traits, items, conditions, measurements. No torch here."""
