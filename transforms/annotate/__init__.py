"""The human loop: pages, tasks, answers, and the ledger that ties them to pairs."""
