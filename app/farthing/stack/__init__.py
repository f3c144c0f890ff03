"""The stack around Farthing: native processes or containers, started and stopped as one."""
