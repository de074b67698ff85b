"""What is measured, under whatever condition the subject is in. Instruments do not know one another."""
