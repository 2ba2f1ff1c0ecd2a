"""Who may run which VM: the ownership record, the rules by which it changes, and the engines that keep it."""
