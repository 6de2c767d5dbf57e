"""Our half on the standby: the door, the puller, the promoter. Standard library only: it also runs on a bare host."""
