"""For each condition, apply each instrument; keep what was measured; write the page."""
