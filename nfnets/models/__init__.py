"""Networks: blocks and nets, one family a file."""
