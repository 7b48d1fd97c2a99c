"""The fault harness: a fake agent that misbehaves, and everything killed around it."""
