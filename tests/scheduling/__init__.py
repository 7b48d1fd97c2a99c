"""The scheduler's rules, told a second time and by brute force, and stories to try them on."""
