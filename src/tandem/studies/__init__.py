"""What is made of finished runs: reports and plots."""
