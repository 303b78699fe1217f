"""Does a cluster keep its promises? Workloads that write down what they did, and checkers that judge it."""
