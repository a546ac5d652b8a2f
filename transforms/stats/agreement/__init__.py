"""What voters' agreement alone says of their reliability, their dependence and the source's error rate."""
