"""Engines that are discovered: by files, by names of the DNS, by containers' labels."""
