"""What is measured for the documentation; README.md lists the commands, and each file has its own on top."""
