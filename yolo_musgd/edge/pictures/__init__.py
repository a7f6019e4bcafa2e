"""Where frames come from, how they become the network's input, and what is drawn on them."""
