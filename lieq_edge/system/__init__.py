"""Files, memory, threads, interrupts, progress: nothing about models."""
