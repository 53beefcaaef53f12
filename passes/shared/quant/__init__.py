"""What quantizing passes share: schemes, statistics, ranges, the demands of runtimes."""
