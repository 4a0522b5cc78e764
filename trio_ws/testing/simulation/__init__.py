"""The simulator: hours of servers, clients and faults in seconds, each run a seed's and the same again."""
