"""The panels, one function each, named for what they show; dashboards choose among them."""
