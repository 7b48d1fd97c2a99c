"""Whether concurrent changes of sessions, over crashes, look as if they had come one by one."""
