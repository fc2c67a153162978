"""What is measured for the documentation; each file says at its top how to run it."""
